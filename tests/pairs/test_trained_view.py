"""A view generator at use: an exported folder as the view stage of the pair builder."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from evolvedirector.commands.exported_files import write_whole
from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import FlowMatching, RawPatches, ViewFamily, ViewGenerator
from evolvedirector.pairs import TrainedView
from evolvedirector.pairs import trained_view as module
from evolvedirector.pairs.drawn.changes import VIEWS, turned
from evolvedirector.pairs.pair_records import IMAGE, MASK, REFERENCE, REFERENCE_MASK, PairReply, PairRequest, Subject
from evolvedirector.pairs.pictures import mask_file, mask_of, picture_file, pixels_of
from evolvedirector.pairs.stages import ViewStage
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.records.poses import POSE, Pose, turn_between
from evolvedirector.store import DatasetStore
from evolvedirector.store.files import decode_file
from evolvedirector.teachers.local.pipeline_call import to_png
from tests.lightning_modules.subjects.tiny_subject import SIDE, pixart
from tests.lightning_modules.tiny_student import student_tree
from tests.pairs.pair_toys import builder

_PLACE = "evolvedirector.lightning_modules"


def tree() -> dict[str, Any]:
    plain = student_tree()["init_args"]
    features = {"class_path": f"{_PLACE}.RawPatches", "init_args": {"image_size_px": 8, "patch_px": 4}}
    family = {"family": plain["family"], "features": features, "width": 16, "layers": 1, "heads": 2}
    named = {"class_path": f"{_PLACE}.ViewFamily", "init_args": family}
    return {"class_path": f"{_PLACE}.ViewGenerator", "init_args": {**plain, "family": named}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("view-generator")
    family = ViewFamily(pixart(), RawPatches(8, 4), width=16, layers=1, heads=2)
    student = ViewGenerator(family, FlowMatching(), SIDE, sampling_steps=2, generation_chunk_size=4)
    network: Any = student.student().network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    described: Any = SimpleNamespace(as_dict=tree)
    write_whole(student, network, described, out)
    return out


def request(view: str = "mirrored", seed: int = 7, name: str = "one", shade: int = 200) -> PairRequest:
    pixels, mask = np.full((24, 24, 3), 250, np.uint8), np.zeros((24, 24), bool)
    mask[4:20, 6:18] = True
    pixels[4:20, 6:18] = (shade, 20, 20)
    pixels[4:12, 6:10] = (20, 20, shade)  # so that no turn is another one
    given = np.full((24, 24, 3), (30, 90, 60), np.uint8)
    files = {REFERENCE: picture_file(pixels), REFERENCE_MASK: mask_file(mask), IMAGE: picture_file(given)}
    return PairRequest(name, Subject("s", "star"), seed, 24, 24, "view", "a star", {"view": view}, files)


def drawn(stage: TrainedView, *asked: PairRequest) -> dict[str, PairReply]:
    return {reply.request_id: reply for reply in stage.turn(asked)}


class Ideal:
    """Draw the reference turned as its pose says, in place of a network: what the stage does around it shows."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        self.asked: list[ImageRequest] = []

    fingerprint = "ideal"

    def generate(self, requests: list[ImageRequest]) -> list[ImageReply]:
        self.asked += requests
        return [ImageReply(r.request_id, "image", self._turned(r)) for r in requests]

    def _turned(self, asked: ImageRequest) -> bytes:
        picture = pixels_of(asked.files[REFERENCE])
        pose: Any = decode_file(asked.files[POSE].content or b"", "npy", POSE)
        for view in VIEWS:
            if np.array_equal(pose, turn_between(Pose(), module.VIEW_POSES[view])):
                picture = turned(picture, view)
        from PIL import Image

        return to_png(Image.fromarray(picture), (picture.shape[1], picture.shape[0]))


@pytest.mark.parametrize("view", VIEWS)
def test_a_subject_is_cut_out_turned_and_laid_on_the_background_with_its_outline(
    folder: Path, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    monkeypatch.setattr(module, "StudentTeacher", Ideal)
    stage = TrainedView(str(folder))
    monkeypatch.setattr(TrainedView, "_side_px", 40)
    reply = drawn(stage, request(view))["one"]
    picture, mask = pixels_of(reply.files[IMAGE]), mask_of(reply.files[MASK])
    assert picture.shape == (24, 24, 3) and picture[0, 0].tolist() == [30, 90, 60]
    expected = turned(np.dstack([pixels_of(request().files[REFERENCE]), np.zeros((24, 24), np.uint8)]), view)[..., :3]
    rows, columns = np.nonzero(mask)
    sides = [rows.max() - rows.min() + 1, columns.max() - columns.min() + 1]
    longer, shorter = sides[::-1] if view.startswith("lying") else sides
    assert abs(longer - 0.8 * 24) < 1 and abs(shorter - 0.75 * 0.8 * 24) < 1
    for corner in ((7, 7), (7, 16), (16, 7), (16, 16)):  # inside of the subject, whichever way it lies
        blue = picture[corner][2] > picture[corner][0]
        assert blue == (expected[corner][2] > expected[corner][0]), corner


def test_pairs_are_drawn_together_and_each_follows_from_its_own_request(folder: Path) -> None:
    stage = TrainedView(str(folder), batch_size=2)
    assert isinstance(stage, ViewStage)
    asked = [request(view, name=view) for view in VIEWS]
    together = drawn(stage, *asked)
    assert [reply.status for reply in together.values()] == ["done"] * 4
    alone = drawn(stage, asked[2])[asked[2].request_id]
    assert alone.files[IMAGE].sha256 == together[asked[2].request_id].files[IMAGE].sha256
    other = drawn(stage, request(asked[2].request_id, seed=8, name="other"))["other"]
    assert other.files[IMAGE].sha256 != alone.files[IMAGE].sha256
    stage.close()
    assert drawn(stage, asked[2])[asked[2].request_id].files == alone.files  # loaded again
    stage.close()


def test_other_weights_and_other_meanings_of_words_are_another_stage(folder: Path, tmp_path: Path) -> None:
    own = TrainedView(str(folder)).fingerprint
    assert TrainedView(str(folder)).fingerprint == own
    assert TrainedView(str(folder), poses={"mirrored": [0, 0, 0, 1]}).fingerprint != own
    shutil.copytree(folder, tmp_path / "other")
    weights = next((tmp_path / "other" / "transformer").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert TrainedView(str(tmp_path / "other")).fingerprint != own


def test_words_may_mean_any_pose_and_unknown_ones_are_refused(folder: Path) -> None:
    stage = TrainedView(str(folder), poses={"from behind": [180, 0, 0, 0]})
    replies = drawn(stage, request("from behind", name="a"), request("mirrored", name="b"))
    assert replies["a"].status == "done"
    assert replies["b"].status == "refused" and "'mirrored' is none of from behind" in replies["b"].reason
    stage.close()


@pytest.mark.slow
def test_the_builder_makes_pairs_of_views_with_it(folder: Path, tmp_path: Path) -> None:
    stage = TrainedView(str(folder))
    stage.verify()
    given = builder({"view": stage}, kinds=["view"], most_subjects=2)
    with DatasetStore(tmp_path / "pairs", create=True) as store:
        figures = given.build(store)
        assert figures.spend["view"].calls == 2 and figures.spend["filter"].calls == figures.kept["view"]
        again = given.build(store)
    assert again.spend["view"].calls == 2 and again.kept == figures.kept


def test_a_folder_that_is_no_view_generator_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no student\.yaml, so it is no view generator"):
        TrainedView(str(tmp_path)).verify()
    import yaml

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "student.yaml").write_text(yaml.safe_dump({"model": student_tree()}))
    with pytest.raises(UserError, match="holds a TextToImage, which is no view generator"):
        TrainedView(str(other)).verify()
    with pytest.raises(UserError, match=r"The pose of 'left' is \[90\]"):
        TrainedView(str(folder), poses={"left": [90]})


def test_a_view_without_anything_on_it_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blank(Ideal):
        def _turned(self, asked: ImageRequest) -> bytes:
            from PIL import Image

            ground = pixels_of(asked.files[REFERENCE])[0, 0]
            return to_png(Image.new("RGB", (40, 40), tuple(int(part) for part in ground)), (40, 40))

    monkeypatch.setattr(module, "StudentTeacher", Blank)
    reply = drawn(TrainedView(str(folder)), request())["one"]
    assert reply.status == "refused" and "drew nothing of 's'" in reply.reason


def test_a_view_that_failed_is_asked_for_again_and_a_refused_one_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status, said in (("failure", "failure"), ("refusal", "refused")):

        class Silent(Ideal):
            def generate(self, requests: list[ImageRequest], status: Any = status) -> list[ImageReply]:
                return [ImageReply(r.request_id, status, reason="Not now.", sent=False) for r in requests]

        monkeypatch.setattr(module, "StudentTeacher", Silent)
        reply = drawn(TrainedView(str(folder)), request())["one"]
        assert (reply.status, reply.reason, reply.sent) == (said, "Not now.", False)
