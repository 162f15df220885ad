"""A served teacher asked by the project's own client of the protocol: the images are those of the teacher itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evolvedirector.records import ImageRequest
from evolvedirector.serving.teacher_server import TeacherServer
from evolvedirector.store.images import decode_image
from evolvedirector.teachers.services.openai_images_teacher import OpenAIImagesTeacher
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.worlds.shapes import MiniatureTeacher

PROMPTS = ("a red circle", "two green stars", "a blue square left of a red circle", "a unicorn")


@pytest.fixture
def server() -> Iterator[TeacherServer]:
    with TeacherServer(MiniatureTeacher(), "mini") as server:
        yield server


def client_of(server: TeacherServer, model: str = "mini", api_key_env: str | None = None) -> OpenAIImagesTeacher:
    endpoint = Endpoint(server.address, api_key_env, max_in_flight=8, idempotent=True)
    return OpenAIImagesTeacher(endpoint, model, response_format="b64_json", send_seed=True, cost_usd_per_image=0.0)


def test_a_client_gets_the_images_of_the_teacher(server: TeacherServer) -> None:
    client = client_of(server)
    client.verify()
    asked = [ImageRequest(f"r{i}", PROMPTS[i % 4], i, 64, 48) for i in range(12)]
    got = {reply.request_id: reply for reply in client.generate(asked)}
    direct = list(MiniatureTeacher().generate(asked))
    for reply in direct:
        assert got[reply.request_id].status == reply.status, got[reply.request_id].reason
        if reply.image is not None:
            assert (decode_image(got[reply.request_id].image or b"") == decode_image(reply.image)).all()
    images = sum(reply.status == "image" for reply in direct)
    assert 3 <= images <= 9 and server.counts()["images"] == images and server.counts()["refusals"] == 12 - images
    client.close()


def test_a_repeated_request_is_not_drawn_again(server: TeacherServer) -> None:
    request = [ImageRequest("same", PROMPTS[0], 1, 32, 32)]
    first, second = (next(iter(client_of(server).generate(request))) for _ in range(2))
    assert first.image == second.image is not None
    assert server.counts()["images"] == 1 and server.counts()["replayed"] == 1


def test_a_wrong_model_and_a_missing_key_are_told_before_anything_is_drawn(
    server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="mini"):
        client_of(server, "other").verify()
    monkeypatch.setenv("SERVED_KEY", "canary-0123456789")
    monkeypatch.setenv("WRONG_KEY", "another-0123456789")
    with TeacherServer(MiniatureTeacher(), "mini", api_key_env="SERVED_KEY") as guarded:
        client_of(guarded, api_key_env="SERVED_KEY").verify()
        with pytest.raises(ValueError) as told:
            client_of(guarded, api_key_env="WRONG_KEY").verify()
        assert "0123456789" not in str(told.value)
        assert guarded.counts()["images"] == 0


@pytest.mark.slow
def test_a_local_pipeline_can_be_served(tmp_path: Path) -> None:
    from evolvedirector.teachers.local.diffusers_teacher import DiffusersTeacher
    from tests.teachers.tiny_pipelines import save_tiny

    def local() -> DiffusersTeacher:
        options = {"use_resolution_binning": False, "clean_caption": False}
        return DiffusersTeacher(str(folder), dtype="float32", num_inference_steps=2, device="cpu", extra=options)

    folder = save_tiny("pixart", tmp_path)
    asked = [ImageRequest(f"r{i}", PROMPTS[i], i, 32, 32) for i in range(3)]
    with TeacherServer(local(), "tiny") as server:
        got = {reply.request_id: reply for reply in client_of(server, "tiny").generate(asked)}
    for reply in local().generate(asked):
        theirs, own = decode_image(got[reply.request_id].image or b""), decode_image(reply.image or b"")
        assert abs(theirs.astype(int) - own).max() <= 1  # another batch: the last bit of the arithmetic
