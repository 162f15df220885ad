"""The OpenAI Images protocol over a real socket: images, refusals and faults as values, keys nowhere."""

from __future__ import annotations

import base64
import io
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.teachers import OpenAIImagesTeacher
from evolvedirector.teachers.services.openai_images_teacher import (
    GPT_IMAGE_SIZES,
    is_moderated,
    model_names,
    nearest_size,
)
from evolvedirector.teachers.teacher import Teacher
from evolvedirector.transport import waiting
from evolvedirector.transport.endpoint import Endpoint
from tests.transport.little_server import Answer, Asked, LittleServer, serving

KEY = "canary-key-0815-4711"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BACKOFF_S", 0.005)
    monkeypatch.setenv("LITTLE_KEY", KEY)


def png(seed: int = 0, size_px: int = 32) -> bytes:
    tiles = np.random.default_rng(seed).integers(0, 255, (size_px, size_px, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(tiles).save(buffer, "PNG")
    return buffer.getvalue()


def black(size_px: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size_px, size_px)).save(buffer, "PNG")
    return buffer.getvalue()


def drawn(image: bytes) -> Answer:
    return Answer(body={"created": 1, "data": [{"b64_json": base64.b64encode(image).decode()}]})


def teacher(
    server: LittleServer, model: str = "sdxl", limits: dict | None = None, **fields: Any
) -> OpenAIImagesTeacher:
    settings = {"timeout_s": 20.0, "deadline_s": 60.0, "attempts": 3, "api_key_env": "LITTLE_KEY", **(limits or {})}
    return OpenAIImagesTeacher(Endpoint(f"{server.url}/v1", **settings), model, **fields)


def request(number: int = 0, size_px: int = 32) -> ImageRequest:
    return ImageRequest(f"request-{number}", f"prompt {number}", 2**40 + number, size_px, size_px)


def one_reply(play: Callable[[Asked], Answer], **fields: Any) -> tuple[ImageReply, LittleServer]:
    with serving(play) as server:
        (reply,) = teacher(server, **fields).generate([request()])
    return reply, server


def test_images_come_as_png_under_the_names_of_their_requests() -> None:
    with serving(lambda asked: drawn(png(int(asked.json()["prompt"].split()[1])))) as server:
        one = teacher(server, cost_usd_per_image=0.04)
        assert isinstance(one, Teacher)
        replies = {reply.request_id: reply for reply in one.generate([request(n) for n in range(9)])}
        again = list(one.generate([request(3)]))  # a second round opens new connections
        one.close()
    assert replies.keys() == {f"request-{n}" for n in range(9)}
    for number in range(9):
        reply = replies[f"request-{number}"]
        assert (reply.status, reply.cost_usd, reply.reason) == ("image", 0.04, "")
        assert np.array_equal(Image.open(io.BytesIO(reply.image)), Image.open(io.BytesIO(png(number))))
    assert again == [replies["request-3"]]
    assert {asked.headers["idempotency-key"] for asked in server.asked} == replies.keys()


def test_the_request_says_what_was_configured_and_nothing_else() -> None:
    extra = {"num_inference_steps": 4, "guidance_scale": 1.5, "negative_prompt": "text"}
    _, server = one_reply(
        lambda asked: drawn(png()), quality="low", output_format="png", response_format="b64_json", extra=extra,
        send_seed=True,
    )  # fmt: skip
    assert server.asked[0].json() == {
        "model": "sdxl", "prompt": "prompt 0", "n": 1, "size": "32x32", "quality": "low", "output_format": "png",
        "response_format": "b64_json", "seed": 0, **extra,
    }  # fmt: skip
    _, server = one_reply(lambda asked: drawn(png()), model="gpt-image-1")
    assert server.asked[0].json() == {"model": "gpt-image-1", "prompt": "prompt 0", "n": 1, "size": "1024x1024"}


def test_an_image_of_another_size_is_kept_as_it_is_and_says_so() -> None:
    reply, _ = one_reply(lambda asked: drawn(png(size_px=48)))
    assert reply.status == "image" and reply.reason == "drawn at 48 x 48 px for 32 x 32"
    assert Image.open(io.BytesIO(reply.image)).size == (48, 48)


def test_images_behind_addresses_are_fetched_without_the_key() -> None:
    def play(asked: Asked) -> Answer:
        if asked.method == "GET":
            return Answer(body=png())
        return Answer(body={"data": [{"url": f"http://{asked.headers['host']}/result.png?sig=1"}]})

    reply, server = one_reply(play)
    assert reply.status == "image" and "authorization" not in server.asked[1].headers


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/x?sig=canary", "https://10.0.0.1/x?sig=canary", "https://evil.example/x"]
)
def test_addresses_into_other_networks_are_not_opened(url: str) -> None:
    reply, server = one_reply(lambda asked: Answer(body={"data": [{"url": url}]}), cost_usd_per_image=0.5)
    assert reply.status == "failure" and "b64_json" in reply.reason and "canary" not in reply.reason
    assert reply.cost_usd == 0.5 and len(server.asked) == 1  # it was drawn, so it was paid


def test_an_image_in_a_data_url_is_read() -> None:
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    assert one_reply(lambda asked: Answer(body={"data": [{"url": url}]}))[0].status == "image"
    assert one_reply(lambda asked: Answer(body={"data": [{"b64_json": url}]}))[0].status == "image"


REFUSALS = [
    Answer(400, {"error": {"code": "content_policy_violation", "message": "no"}}),
    Answer(400, {"error": {"code": "moderation_blocked", "type": "image_generation_user_error", "message": "no"}}),
    Answer(400, {"error": {"code": None, "message": "Your request was rejected by our safety system."}}),
    Answer(403, {"error": {"code": "moderation_blocked", "message": "no"}}),
    Answer(422, {"detail": "prompt failed moderation"}),
    Answer(200, {"error": {"code": "content_policy_violation", "message": "no"}}),
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_moderated_prompt_is_a_refusal_that_costs_nothing_and_is_asked_once(answer: Answer) -> None:
    reply, server = one_reply(lambda asked: answer, cost_usd_per_image=0.04)
    assert (reply.status, reply.image, reply.cost_usd, len(server.asked)) == ("refusal", None, 0.0, 1)


def test_a_black_image_in_place_of_a_refusal_is_a_paid_refusal() -> None:
    reply, _ = one_reply(lambda asked: drawn(black()), cost_usd_per_image=0.04)
    assert reply.status == "refusal" and "all black" in reply.reason and reply.cost_usd == 0.04


FAILURES = {
    "bad parameter": (Answer(400, {"error": {"code": "invalid_size", "message": "size"}}), 0.0),
    "wrong key": (Answer(401, {"error": {"message": KEY}}), 0.0),
    "out of order": (Answer(503), 0.0),
    "error inside": (Answer(200, {"error": {"message": f"worker died, Bearer {KEY}"}}), 0.0),
    "no data": (Answer(200, {"data": []}), 0.04),
    "odd data": (Answer(200, {"data": [{"b64_json": 7}]}), 0.04),
    "a list": (Answer(200, [1, 2]), 0.04),
    "null": (Answer(200, b"null"), 0.04),
    "no base64": (Answer(200, {"data": [{"b64_json": "!!!"}]}), 0.04),
    "no image": (drawn(b"<html>"), 0.04),
    "cut image": (drawn(png()[:300]), 0.04),
    "cut off": (Answer(cut_after=-1), 0.04),
    "page": (Answer(200, b"<html>"), 0.04),
}


@pytest.mark.parametrize("name", FAILURES)
def test_every_fault_is_a_failure_that_is_charged_where_it_may_have_been_paid(name: str) -> None:
    answer, cost_usd = FAILURES[name]
    reply, server = one_reply(lambda asked: answer, cost_usd_per_image=0.04)
    assert (reply.request_id, reply.status, reply.image, reply.cost_usd) == ("request-0", "failure", None, cost_usd)
    assert reply.reason and KEY not in reply.reason
    assert len(server.asked) == (3 if answer.status == 503 else 1)


def test_after_a_denial_the_rest_fails_without_a_request() -> None:
    with serving(lambda asked: Answer(402)) as server:
        replies = list(teacher(server, limits={"max_in_flight": 1}).generate([request(n) for n in range(20)]))
    assert {reply.status for reply in replies} == {"failure"} and len({reply.reason for reply in replies}) == 1
    assert len(replies) == 20 and len(server.asked) == 1


def test_a_preflight_costs_nothing_and_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Answer(body={"data": [{"id": "sdxl"}, {"id": "flux"}]})
    with serving(lambda asked: listed) as server:
        teacher(server).verify()
        with pytest.raises(ValueError, match=r"'sd9'.*no such model.*flux, sdxl"):
            teacher(server, "sd9").verify()
        assert {(asked.method, asked.target) for asked in server.asked} == {("GET", "/v1/models")}
        monkeypatch.delenv("LITTLE_KEY")
        with pytest.raises(ValueError, match="LITTLE_KEY is not set"):
            teacher(server).verify()
    monkeypatch.setenv("LITTLE_KEY", KEY)
    with pytest.raises(ValueError, match="cannot be reached"):
        teacher(server, limits={"attempts": 1}).verify()
    for status in (404, 405):
        with serving(lambda asked, status=status: Answer(status)) as server:
            teacher(server).verify()
    with serving(lambda asked: Answer(401) if asked.number == 0 else listed) as server:
        with pytest.raises(ValueError, match="key in LITTLE_KEY is not accepted"):
            teacher(server).verify()
        teacher(server).verify()  # a repaired account is tried anew


def test_nothing_that_is_kept_or_said_holds_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(lambda asked: Answer(400, {"error": {"message": f"no {KEY}"}})) as server:
        one = teacher(server)
        replies = list(one.generate([request()]))
    told = f"{one.fingerprint} {replies} {vars(one)} {vars(one._api)} {caplog.text}"
    assert KEY not in told


def test_the_fingerprint_names_what_changes_images_and_not_where_a_server_of_ours_runs() -> None:
    def of(url: str = "http://node-1:8000/v1", model: str = "sdxl", **fields: Any) -> str:
        return OpenAIImagesTeacher(Endpoint(url), model, **fields).fingerprint

    assert of() == of("http://10.0.0.3:9000/v1") != of("https://api.example.com/v1")
    different = [
        of(),
        of(model="flux"),
        of(quality="low"),
        of(extra={"steps": 4}),
        of(sizes=["64x64"]),
        of(send_seed=True),
    ]
    assert len(set(different)) == len(different)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sizes": ["1024"]}, "Write 1024x1024"),
        ({"extra": {"prompt": "x"}}, "Leave it out"),
        ({"image_hosts": ["https://cdn.example.com/"]}, "Write the host alone"),
        ({"cost_usd_per_image": -1.0}, "cost_usd_per_image=-1.0"),
    ],
)
def test_what_cannot_be_is_refused_early(fields: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        OpenAIImagesTeacher(Endpoint("http://localhost:1"), "sdxl", **fields)


@pytest.mark.parametrize(
    ("wanted", "size"),
    [((512, 512), "1024x1024"), ((640, 480), "1536x1024"), ((480, 640), "1024x1536"), ((2048, 1024), "1536x1024")],
)
def test_sizes_are_chosen_by_shape_first(wanted: tuple[int, int], size: str) -> None:
    assert nearest_size(*wanted, GPT_IMAGE_SIZES) == size
    assert nearest_size(*wanted, ("256x256", "512x512", "1024x1024")) in ("256x256", "512x512", "1024x1024")
    assert nearest_size(*wanted, ()) == f"{wanted[0]}x{wanted[1]}"


def test_by_area_among_equal_shapes() -> None:
    assert nearest_size(500, 500, ("256x256", "512x512", "1024x1024")) == "512x512"


def test_lists_of_models_are_read_in_both_shapes_and_others_ignored() -> None:
    assert model_names({"data": [{"id": "a"}, {"name": "b"}]}) == model_names([{"id": "a"}]) == {"a"}
    assert model_names({"models": ["a"]}) == model_names("x") == model_names(None) == set()


def test_only_a_filter_is_a_refusal() -> None:
    assert is_moderated("moderation_blocked", "") and is_moderated("", "violates our content policy")
    assert not is_moderated("invalid_size", "size is not supported")


def test_every_teacher_that_is_offered_exists_and_offering_them_loads_nothing() -> None:
    listing = (
        "import sys, evolvedirector.teachers as teachers\n"
        "heavy = {'aiohttp', 'torch', 'diffusers', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for name in teachers.__all__: getattr(teachers, name)\n"
    )
    subprocess.run([sys.executable, "-c", listing], check=True, timeout=120)
