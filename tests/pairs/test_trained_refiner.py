"""The trained refiner: an exported network draws from the draft's features with the subject's matched into them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from evolvedirector.commands.exported_files import write_whole
from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import FeatureFamily, FeatureRefiner, FlowMatching, RawPatches
from evolvedirector.pairs import DrawnDraft, DrawnPrompts, DrawnSubjects, TrainedRefiner
from evolvedirector.pairs.pair_records import (
    DRAFT,
    DRAFT_MASK,
    IMAGE,
    MASK,
    REFERENCE,
    REFERENCE_MASK,
    ChangeKind,
    PairReply,
    PairRequest,
)
from evolvedirector.pairs.patch_matching import matches
from evolvedirector.pairs.pictures import mask_file, mask_of, picture_file, pixels_of
from evolvedirector.records import ImageReply
from evolvedirector.records.part import Closable, OnDevice, Verifiable
from evolvedirector.teachers.local.student_teacher import StudentTeacher
from tests.lightning_modules.subjects.tiny_subject import pixart
from tests.lightning_modules.tiny_student import student_tree
from tests.pairs.pair_toys import WORLD, built

SIDE = 8
_PLACE = "evolvedirector.lightning_modules"


def exported(folder: Path, seed: int = 0) -> Path:
    """Write a tiny refiner whose weights are all awake, as `evolvedirector export` does."""
    plain = student_tree()["init_args"]
    features = {"class_path": f"{_PLACE}.RawPatches", "init_args": {"image_size_px": 8, "patch_px": 1}}
    family = {"class_path": f"{_PLACE}.FeatureFamily", "init_args": {"family": plain["family"], "features": features}}
    tree = {"class_path": f"{_PLACE}.FeatureRefiner", "init_args": {**plain, "family": family, "guidance_scale": 1.0}}
    module = FeatureRefiner(
        FeatureFamily(pixart(), RawPatches(8, 1)), FlowMatching(), SIDE, sampling_steps=2, generation_chunk_size=4
    )
    network: Any = module.student().network
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    folder.mkdir()
    described: Any = SimpleNamespace(as_dict=lambda: tree)
    write_whole(module, network, described, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("refiner") / "one")


def asked(kind: ChangeKind = "place", number: int = 0, side_px: int = 32) -> PairRequest:
    """Return what the builder hands to a refiner."""
    subject = DrawnSubjects(WORLD).subjects()[number]
    request = PairRequest(f"{kind} {number}", subject, number, side_px, side_px, kind)
    files = dict(next(DrawnSubjects(WORLD).load([request])).files)
    request = replace(request, files=files)
    words = next(iter(DrawnPrompts(list(WORLD.looks)).write([request]))).words
    request = replace(request, change={name: word for name, word in words.items() if name != "prompt"})
    draft = next(DrawnDraft(WORLD).draw([request])).files
    return replace(request, files={**files, DRAFT: draft[IMAGE], DRAFT_MASK: draft[MASK]})


def pixels(reply: PairReply) -> np.ndarray:
    assert reply.status == "done", reply.reason
    return pixels_of(reply.files[IMAGE])


def refined(folder: Path, *requests: PairRequest, **settings: Any) -> list[np.ndarray]:
    return [pixels(reply) for reply in TrainedRefiner(str(folder), **settings).refine(list(requests))]


def test_what_is_inside_is_drawn_anew_and_outside_every_pixel_stays(folder: Path) -> None:
    request = asked()
    draft, outline = pixels_of(request.files[DRAFT]), mask_of(request.files[DRAFT_MASK])
    (image,) = refined(folder, request)
    assert np.array_equal(image[~outline], draft[~outline])
    assert (image[outline] != draft[outline]).any(axis=-1).mean() > 0.5


def test_the_subject_counts_inside_of_its_mask_alone_and_not_at_all_where_nothing_matches(folder: Path) -> None:
    request, other = asked(), asked(number=1)
    swapped = replace(
        request, request_id="swapped", files={**other.files, **{r: request.files[r] for r in (DRAFT, DRAFT_MASK)}}
    )
    assert not np.array_equal(*refined(folder, request, swapped))
    assert np.array_equal(*refined(folder, request, swapped, least_cosine=1.0)), "no match: the draft's own features"
    around = pixels_of(request.files[REFERENCE]).copy()
    around[~mask_of(request.files[REFERENCE_MASK])] = 0
    painted = replace(request, request_id="painted", files={**request.files, REFERENCE: picture_file(around)})
    assert np.array_equal(*refined(folder, request, painted))


def test_each_kind_leaves_its_change_to_the_draft(folder: Path) -> None:
    for kind, kept in (("tint", slice(1, 3)), ("texture", slice(0, 1))):
        request = asked(kind)  # type: ignore[arg-type]
        draft, outline = pixels_of(request.files[DRAFT]), mask_of(request.files[DRAFT_MASK])
        (image,) = refined(folder, request)
        to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
        change = np.abs((image[outline].astype(float) - draft[outline]) @ to_ycc.T)[(image[outline] % 255 > 0).all(1)]
        others = np.delete(change, np.arange(3)[kept], axis=1)
        assert change[:, kept].mean() < 1.5 < others.mean(), kind
    reply = next(iter(TrainedRefiner(str(folder)).refine([asked("style")])))
    assert reply.words == {"note": "unchanged"}


def test_a_picture_does_not_depend_on_the_batch_and_a_closed_refiner_loads_again(folder: Path) -> None:
    requests = [asked("place", number) for number in range(5)] + [asked("tint", 5)]
    refiner = TrainedRefiner(str(folder))
    together = {reply.request_id: reply for reply in refiner.refine(requests)}
    refiner.close()
    for request in requests:
        (alone,) = refiner.refine([request])
        assert np.array_equal(pixels(alone), pixels(together[request.request_id]))


def test_it_is_named_by_its_weights_and_numbers_and_is_a_part(folder: Path, tmp_path: Path) -> None:
    refiner = TrainedRefiner(str(folder))
    assert isinstance(refiner, Verifiable) and isinstance(refiner, OnDevice) and isinstance(refiner, Closable)
    refiner.verify()
    assert (refiner.estimated_bytes() or 0) > 10_000
    names = {
        refiner.fingerprint,
        TrainedRefiner(str(exported(tmp_path / "other", seed=1))).fingerprint,
        TrainedRefiner(str(folder), position_weight=0.0).fingerprint,
        TrainedRefiner(str(folder), num_inference_steps=1).fingerprint,
    }
    assert len(names) == 4 and TrainedRefiner(str(exported(tmp_path / "same"))).fingerprint == refiner.fingerprint


@pytest.mark.slow
def test_pairs_are_built_with_it(folder: Path, tmp_path: Path) -> None:
    figures = built(tmp_path / "root", stages={"refine": TrainedRefiner(str(folder))}, most_subjects=2)
    assert sum(figures.kept.values()) == 8


def test_a_draft_without_outline_is_refused_in_one_sentence(folder: Path) -> None:
    request = asked()
    bare = {role: file for role, file in request.files.items() if role != DRAFT_MASK}
    empty = {**bare, DRAFT_MASK: mask_file(np.zeros((32, 32), bool))}
    for files in (bare, empty):
        (reply,) = TrainedRefiner(str(folder)).refine([replace(request, files=files)])
        assert reply.status == "refused" and "no outline" in reply.reason


def test_a_picture_that_failed_is_asked_for_again_and_a_refused_one_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status, said, sent in (("failure", "failure", False), ("refusal", "refused", True)):

        def answers(self: Any, requests: list[Any], status: Any = status, sent: bool = sent) -> list[ImageReply]:
            return [ImageReply(r.request_id, status, reason="Not now.", sent=sent) for r in requests]

        monkeypatch.setattr(StudentTeacher, "generate", answers)
        (reply,) = TrainedRefiner(str(folder)).refine([asked()])
        assert (reply.request_id, reply.status, reply.sent, reply.reason) == ("place 0", said, sent, "Not now.")


def test_a_folder_that_is_no_refiner_is_refused_in_one_sentence(tmp_path: Path, folder: Path) -> None:
    import yaml

    with pytest.raises(UserError, match=r"student\.yaml"):
        TrainedRefiner(str(tmp_path)).verify()
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "student.yaml").write_text(yaml.safe_dump({"model": student_tree()}))
    with pytest.raises(UserError, match="holds a TextToImage, which draws from no patch features"):
        TrainedRefiner(str(plain)).verify()
    with pytest.raises(UserError, match="position_weight is -1"):
        TrainedRefiner(str(folder), position_weight=-1.0)


def test_matches_are_the_nearest_features_and_places() -> None:
    grid = np.zeros((3, 3, 2), np.float32)
    grid[0, 0], grid[2, 2], grid[1, 1] = (1, 0), (1, 0), (0, 1)
    inside = np.ones((9, 9), bool)
    near = matches(grid, grid, inside, 0.25)
    assert near[0] == 0 and near[8] == 8 and near[4] == 4, "of two that are alike the nearer"
    inside[:3, :3] = False
    assert matches(grid, grid, inside, 0.25)[0] == 8, "what is outside matches nothing"
    assert set(matches(grid, grid, np.zeros((9, 9), bool), 0.25)) == {-1}
    assert matches(grid, -grid, np.ones((9, 9), bool), 0.0, least_cosine=0.99)[4] == -1
