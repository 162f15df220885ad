from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evolvedirector.datamodules import SubjectPairDataModule
from evolvedirector.errors import RunError, UserError
from evolvedirector.pairs import (
    BorderMask,
    DrawnSubjects,
    FolderSubjects,
    JudgeChange,
    PairBudget,
    TurnedView,
    Unchanged,
)
from evolvedirector.pairs.pair_book import PairBook
from evolvedirector.pairs.pair_export import export_pairs
from evolvedirector.pairs.pair_records import PairReply, PairRequest, Subject, failed, refused
from evolvedirector.pairs.pictures import mask_file, mask_of, picture_file, pixels_of
from evolvedirector.records import FileRef, ImageAndPrompt, Look
from evolvedirector.store import Blobs, DatasetStore, DiskFullError, RevisionReader
from evolvedirector.store.revision import RevisionFiles
from tests.pairs.pair_toys import WORLD, builder, built, counted, parts, samples_of

TWO_KINDS = ["place", "tint"]


class Sure:
    """Score every pair alike."""

    fingerprint = "sure"

    def score(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        for request in requests:
            yield PairReply(request.request_id, scores={"identity": 0.9, "change": 0.9})


def test_pairs_become_samples_with_their_files_and_all_that_is_known_of_them(tmp_path: Path) -> None:
    figures = built(tmp_path / "root", view=TurnedView(), most_subjects=3, seed=1)
    assert figures.decided == 15 and sum(figures.kept.values()) == 15
    samples = samples_of(tmp_path / "root")
    blobs = Blobs(tmp_path / "root")
    uses = Counter()
    for pair_id, sample in samples.items():
        about = json.loads(blobs.get(sample.files["pair"].sha256))
        uses[about["use"]] += 1
        assert about["pair_id"] == pair_id and about["kind"] == sample.prompt.skill and about["subject"]["category"]
        assert {"identity", "identity_grey", "shape", "change", "text"} <= about["scores"].keys()
        assert about["seed"] and set(about["stages"]) >= {"prompt", "draft", "refine", "mask", "filter"}
        read = {role: replace(file, content=blobs.get(file.sha256)) for role, file in sample.files.items()}
        if about["use"] == "generation":
            assert sample.files.keys() == {"reference", "reference_mask", "pair", "subject_box"}
            continue
        assert sample.files.keys() == {"reference", "reference_mask", "pair", "subject_box", "mask", "source"}
        mask, source = mask_of(read["mask"]), pixels_of(read["source"])
        left, top, right, bottom = np.load(io.BytesIO(read["subject_box"].content or b"")) * 32
        assert [left, right] == [np.flatnonzero(mask.any(0))[0], np.flatnonzero(mask.any(0))[-1] + 1]
        assert [top, bottom] == [np.flatnonzero(mask.any(1))[0], np.flatnonzero(mask.any(1))[-1] + 1]
        image = pixels_of(replace(read["source"], content=blobs.get(sample.image_sha256)))
        assert np.array_equal(source[~mask], image[~mask]) and not np.array_equal(source[mask], image[mask])
    assert uses["editing"] == figures.editing and 0 < uses["editing"] < 15


def test_a_build_that_is_repeated_asks_nobody(tmp_path: Path) -> None:
    calls: Counter[str] = Counter()
    first = built(tmp_path / "root", stages=counted(calls), kinds=TWO_KINDS)
    assert calls and set(calls.values()) == {1}
    asked = dict(calls)
    assert built(tmp_path / "root", stages=counted(calls), kinds=TWO_KINDS).kept == first.kept
    assert calls == asked


def test_other_thresholds_ask_no_stage_again_and_another_stage_only_those_behind_it(tmp_path: Path) -> None:
    calls: Counter[str] = Counter()
    built(tmp_path / "root", stages=counted(calls), kinds=["tint"])
    before = calls.total()
    stricter = {"tint": {"identity": 2.0}}
    figures = built(tmp_path / "root", stages=counted(calls), kinds=["tint"], thresholds=stricter)
    assert calls.total() == before and figures.rejected == {"identity": 4}
    built(tmp_path / "root", stages=counted(calls, refine=Unchanged()), kinds=["tint"])
    assert calls.total() == before + 3 * 4  # refine, mask and filter; the subjects, prompts and drafts are there


class _Killed(BaseException):
    pass


class _Trip:
    """Kill the build after its n-th durable step, which to all that lasts is before the next one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.count, self._at = 0, at
        for owner, name in (
            (Blobs, "put_files"),
            (PairBook, "reserve"),
            (PairBook, "settle"),
            (PairBook, "record"),
            (PairBook, "mark_published"),
            (RevisionFiles, "write"),
            (RevisionFiles, "set_current"),
        ):
            monkeypatch.setattr(owner, name, self._step(getattr(owner, name)))

    def _step(self, method: Any) -> Any:
        def step(*args: Any, **named: Any) -> Any:
            result = method(*args, **named)
            self.count += 1
            if self.count == self._at:
                raise _Killed
            return result

        return step


def _killed_at(root: Path, at: int, whole: Counter[str], wanted: dict[str, str], settings: dict[str, Any]) -> bool:
    """Kill a build after a durable step, repeat it and compare; returns whether there was such a step."""
    light, calls, was_killed = {"filter": Sure(), "refine": Unchanged()}, Counter[str](), False
    with pytest.MonkeyPatch.context() as patch:
        _Trip(patch, at)
        try:
            built(root, stages=counted(calls, **light), **settings)
        except _Killed:
            was_killed = True
    built(root, stages=counted(calls, **light), **settings)
    assert {pair_id: sample.key for pair_id, sample in samples_of(root).items()} == wanted
    assert calls.keys() == whole.keys()
    assert sum(calls.values()) - sum(whole.values()) <= 2  # what was in flight: at most one batch
    with PairBook.for_reading(root) as book:
        assert book.unpublished_count() == 0
        assert sum(s.calls for s in book.spend().values()) <= sum(whole.values()) + 2
    return was_killed


def _uninterrupted(root: Path, settings: dict[str, Any]) -> tuple[Counter[str], dict[str, str]]:
    whole: Counter[str] = Counter()
    built(root, stages=counted(whole, filter=Sure(), refine=Unchanged()), **settings)
    return whole, {pair_id: sample.key for pair_id, sample in samples_of(root).items()}


def test_a_kill_at_a_stage_boundary_loses_and_repeats_nothing(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"kinds": TWO_KINDS, "most_subjects": 1, "batch": 2}
    whole, wanted = _uninterrupted(tmp_path / "whole", settings)
    for at in (4, 9, 13, 19, 23):
        assert _killed_at(tmp_path / f"at{at}", at, whole, wanted, settings)


@pytest.mark.slow
def test_a_kill_at_every_durable_step_loses_and_repeats_nothing(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"kinds": TWO_KINDS, "most_subjects": 2, "pairs_per_pass": 2, "batch": 2}
    whole, wanted = _uninterrupted(tmp_path / "whole", settings)
    at = 1
    while _killed_at(tmp_path / f"at{at}", at, whole, wanted, settings):
        at += 1
    assert at > 40


_CHILD = """
import os, signal, sys
from collections import Counter
from pathlib import Path
from tests.pairs.pair_toys import built, counted
root, log, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
calls = Counter()
def at_reply():
    with open(log, "a") as file:
        file.write(f"{list(calls)[-1]}\\n")
    if sum(calls.values()) == at:
        os.kill(os.getpid(), signal.SIGKILL)
built(root, stages=counted(calls, at_reply), kinds=["place", "tint"], most_subjects=3, pairs_per_pass=3, batch=2)
"""


@pytest.mark.slow
def test_a_process_killed_again_and_again_ends_with_the_same_pairs(tmp_path: Path) -> None:
    built(tmp_path / "whole", kinds=TWO_KINDS, most_subjects=3, pairs_per_pass=3, batch=2)
    log, root = tmp_path / "log", tmp_path / "root"
    killed = 0
    for at in (1, 3, 5, 8, 4, 6, 7, 9, 10_000):
        words = [sys.executable, "-c", _CHILD, str(root), str(log), str(at)]
        ended = subprocess.run(words, env={**os.environ, "PYTHONPATH": "."}, check=False).returncode
        killed += ended == -signal.SIGKILL
        assert ended in (0, -signal.SIGKILL)
        if ended == 0:
            break
    assert ended == 0 and killed >= 4
    keys = {pair_id: sample.key for pair_id, sample in samples_of(tmp_path / "whole").items()}
    assert {pair_id: sample.key for pair_id, sample in samples_of(root).items()} == keys
    made = Counter(log.read_text().split())
    assert sum(made.values()) - len(made) <= 2 * killed  # at most a batch in flight at each kill
    with PairBook.for_reading(root) as book:
        assert sum(s.lost for s in book.spend().values()) <= 2 * killed


def test_a_limit_leaves_pairs_open_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    calls: Counter[str] = Counter()
    small = PairBudget(calls={"draft": 3})
    figures = built(tmp_path / "root", stages=counted(calls), kinds=TWO_KINDS, budget=small)
    assert figures.decided == 3 and figures.open_pairs == 5 and figures.held_back == {"calls.draft": 5}
    assert figures.spend["draft"].calls == 3 and "calls.draft held back 5" in figures.lines()[-1]
    figures = built(tmp_path / "root", stages=counted(calls), kinds=TWO_KINDS, budget=PairBudget(calls={"draft": 8}))
    assert figures.decided == 8 and figures.open_pairs == 0 and set(calls.values()) == {1}


class _Paid:
    """A draft that costs money."""

    def __init__(self, draft: Any) -> None:
        self._draft = draft
        self.fingerprint = draft.fingerprint

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        for reply in self._draft.draw(requests):
            yield replace(reply, cost_usd=0.5)

    def price_usd(self) -> float | None:
        return 0.5


def test_money_is_never_exceeded_and_what_a_kept_pair_may_cost_ends_the_build(tmp_path: Path) -> None:
    paid = {"draft": _Paid(parts()["draft"]), "filter": Sure()}
    figures = built(tmp_path / "a", stages=paid, kinds=TWO_KINDS, budget=PairBudget(total_usd=1.9))
    assert figures.spend["draft"].usd == 1.5 and figures.decided == 3
    budget = PairBudget(usd_per_kept=0.4, per_kept_after=2)
    figures = built(tmp_path / "b", stages=paid, kinds=TWO_KINDS, pairs_per_pass=2, budget=budget)
    assert figures.decided == 2 and figures.held_back == {"usd_per_kept": 1}


def test_a_budget_names_what_it_does_not_know() -> None:
    with pytest.raises(UserError, match=r"calls.drafts: 3. Allowed are limits of 0 or more for the stages subjects"):
        PairBudget(calls={"drafts": 3})


class _Listed:
    """Subjects under names of their own."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names, self._source = names, DrawnSubjects(WORLD)
        self.fingerprint = f"listed {names}"

    def subjects(self) -> Sequence[Subject]:
        known = {subject.name: subject for subject in self._source.subjects()}
        return [replace(known[name], name=own) for own, name in self._names.items()]

    def load(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        for request in requests:
            known = replace(request, subject=replace(request.subject, name=self._names[request.subject.name]))
            yield from self._source.load([known])


def test_the_same_picture_under_two_names_is_one_subject_also_in_a_later_build(tmp_path: Path) -> None:
    concept = f"{WORLD.concepts()[0]}|flat"
    for names in ({"a": concept, "b": concept}, {"a": concept, "b": concept, "c": concept}):
        built(tmp_path / "root", stages={"subjects": _Listed(names), "filter": Sure()}, kinds=["tint"])
    with PairBook.for_reading(tmp_path / "root") as book:
        rows = [(row.body["subject"]["name"], row.status, row.cause) for row in book.pairs()]
    assert rows[:2] == [("a", "kept", ""), ("b", "rejected", "duplicate")]
    assert ("c", "rejected", "duplicate") in rows


class _Same:
    """Draw one picture for every pair of a subject."""

    fingerprint = "same"

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        for request in requests:
            files = {"image": request.files["reference"], "mask": request.files["reference_mask"]}
            yield PairReply(request.request_id, files=files)


def test_pairs_that_look_alike_are_kept_once(tmp_path: Path) -> None:
    same = {"draft": _Same(), "refine": Unchanged(), "filter": Sure()}
    figures = built(tmp_path / "root", stages=same, kinds=["tint"], pairs_per_kind=3, most_subjects=2)
    assert figures.kept == {"tint": 2} and figures.rejected == {"duplicate": 4}


class _Never:
    """Refuse, or fail."""

    fingerprint = "never"

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        for request in requests:
            yield self._answer(request, "nothing can be drawn")


def test_a_stage_that_refuses_everything_ends_the_build_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"The stage 'draft' refused all 32 requests.*: nothing can be drawn\. Allowed"):
        built(tmp_path / "root", stages={"draft": _Never(refused)}, most_subjects=20, pairs_per_pass=64)


def test_a_filter_that_rejects_everything_ends_the_build_with_its_cause(tmp_path: Path) -> None:
    high = {kind: {"identity": 2.0} for kind in TWO_KINDS}
    with pytest.raises(
        RunError, match=r"All 64 pairs were rejected, most of them for 'identity': identity 0\.9.*below"
    ):
        built(
            tmp_path / "root", stages={"filter": Sure()}, kinds=TWO_KINDS, thresholds=high, most_subjects=40,
            pairs_per_pass=64,
        )  # fmt: skip


def test_a_full_disk_rejects_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, files: Any) -> Any:
        raise DiskFullError("No space left")

    with monkeypatch.context() as patch:
        patch.setattr(Blobs, "put_files", full)
        with pytest.raises(DiskFullError):
            built(tmp_path / "root", kinds=["tint"])
    assert built(tmp_path / "root", kinds=["tint"]).kept == {"tint": 4}


def test_a_file_that_cannot_be_kept_is_a_refusal_of_its_pair_alone(tmp_path: Path) -> None:
    class Odd(_Same):
        def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
            for number, reply in enumerate(super().draw(requests)):
                odd = replace(reply.files["image"], media_type="image/gif")
                yield reply if number else replace(reply, files={"image": odd})

    stages = {"draft": Odd(), "refine": Unchanged(), "filter": Sure()}
    figures = built(tmp_path / "root", stages=stages, kinds=["tint"], batch=8)
    assert figures.kept == {"tint": 3} and figures.rejected == {"draft": 1}


def test_a_judge_reads_the_change_and_an_answer_that_cannot_be_read_stays_open() -> None:
    class Answers:
        fingerprint = "answers"

        def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
            for number, item in enumerate(items):
                yield Look(item.item_id, 0.8, 1.0 - number, "mumbled")

        def look(self, pairs: Any) -> Iterator[Look]:
            yield from ()

        def close(self) -> None:
            pass

        def price_usd(self) -> float | None:
            return 0.25

    subject, image = Subject("s", "cat"), picture_file(np.zeros((8, 8, 3), np.uint8))
    asked = [PairRequest(name, subject, 0, 8, 8, "tint", "a red cat", files={"image": image}) for name in "ab"]
    first, second = JudgeChange(Answers()).read(asked)
    assert first.scores == {"change": 0.8} and first.cost_usd == 0.25
    assert second.status == "failure" and second.reason == "mumbled"


def test_a_failure_is_no_rejection_and_is_asked_again(tmp_path: Path) -> None:
    figures = built(tmp_path / "root", stages={"draft": _Never(failed)}, kinds=["tint"])
    assert figures.decided == 0 and figures.open_pairs == 4
    assert figures.failures == {"draft: nothing can be drawn": 4} and "4 x draft: nothing" in figures.lines()[-1]
    figures = built(tmp_path / "root", kinds=["tint"])
    assert figures.decided == 4 and figures.spend["draft"].calls == 8


def test_unusable_subjects_are_rejected_each_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "dogs").mkdir()
    for name, alpha in (("good", 255), ("bare", None), ("small", 255), ("empty", 255), ("two", 255)):
        pixels = np.full((40, 40, 4 if alpha else 3), 200, np.uint8)
        if alpha:
            pixels[..., 3] = 0
            pixels[8:30, 8:30, 3] = alpha
            pixels[..., 0] = len(name) * 20
        Image.fromarray(pixels).save(tmp_path / "dogs" / f"{name}.png")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "dogs" / "small.mask.png")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "dogs" / "empty.mask.png")
    two = np.zeros((40, 40), np.uint8)
    two[4:16, 4:16] = two[24:36, 24:36] = 255
    Image.fromarray(two).save(tmp_path / "dogs" / "two.mask.png")
    stages = {"subjects": FolderSubjects(str(tmp_path)), "draft": _Same(), "refine": Unchanged(), "filter": Sure()}
    figures = built(tmp_path / "root", stages=stages, kinds=["tint"], most_subjects=None)
    assert figures.kept == {"tint": 1} and figures.rejected == {"subject": 4}
    with PairBook.for_reading(tmp_path / "root") as book:
        said = {row.body["subject"]["name"]: row.body["reason"] for row in book.pairs("rejected")}
    assert "has no mask: it came without alpha" in said["dogs/bare.png"]
    assert "has 20x20 px, its picture 40x40" in said["dogs/small.png"]
    assert "is empty: it covers 0.00%" in said["dogs/empty.png"]
    assert "shows several" in said["dogs/two.png"]


def test_a_kind_without_thresholds_and_views_without_a_stage_are_refused() -> None:
    with pytest.raises(UserError, match="The thresholds lack the kind 'tint'"):
        builder(thresholds={"place": {"identity": 0.5}}, kinds=TWO_KINDS)
    with pytest.raises(UserError, match="kinds names 'view', but there is no view stage"):
        builder(kinds=["view"])


def test_what_was_built_can_be_read_as_training_samples(tmp_path: Path) -> None:
    built(tmp_path / "root", kinds=TWO_KINDS)
    with DatasetStore(tmp_path / "root") as store:
        sha = store.current() or ""
    reader = RevisionReader(tmp_path / "root", sha, ["image", "reference", "pair"])
    raw = reader.raw(0, verify=True)
    reader.close()
    assert {"png", "reference.png", "pair.json", "txt"} <= raw.keys()


def test_what_was_built_is_what_the_datamodule_of_pairs_reads(tmp_path: Path) -> None:
    built(tmp_path / "root", kinds=TWO_KINDS, editing_share=0.5)
    data = SubjectPairDataModule(tmp_path / "root", global_batch_size=8, batches_per_epoch=1, image_size_px=32)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert {"image", "reference", "reference_mask", "source", "mask", "has_mask", "subject_box"} <= batch.keys()
    assert "has_subject_box" not in batch and batch["subject_box"].isfinite().all()


def test_a_file_that_is_gone_is_made_again_and_both_calls_count(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert built(root, kinds=["tint"], budget=PairBudget(calls={"refine": 0})).open_pairs == 4
    with PairBook.for_reading(root) as book:
        query = "SELECT body FROM answers WHERE stage = 'draft'"
        drafts = [json.loads(body)["files"]["image"]["sha256"] for (body,) in book._connection.execute(query)]
    for sha256 in drafts[:3]:  # as `data verify` says to do with damaged ones
        Blobs(root).path(sha256).unlink()
    figures = built(root, kinds=["tint"])
    assert figures.decided == 4 and figures.open_pairs == 0
    assert figures.spend["draft"].calls == 4 + 3 and figures.spend["draft"].lost == 0


def test_a_reference_is_cut_square_around_its_subject_so_that_training_cuts_nothing_off(tmp_path: Path) -> None:
    (tmp_path / "dogs").mkdir()
    pixels = np.full((20, 60, 4), 200, np.uint8)
    pixels[..., 3] = 0
    pixels[4:16, 2:12, 3] = 255  # a square from the middle would not show it
    Image.fromarray(pixels).save(tmp_path / "dogs" / "wide.png")
    stages = {"subjects": FolderSubjects(str(tmp_path)), "draft": _Same(), "refine": Unchanged(), "filter": Sure()}
    assert built(tmp_path / "root", stages=stages, kinds=["tint"], most_subjects=None).kept == {"tint": 1}
    (sample,) = samples_of(tmp_path / "root").values()
    for role in ("reference", "reference_mask"):
        assert sample.files[role].width_px == sample.files[role].height_px
    data = SubjectPairDataModule(
        tmp_path / "root", global_batch_size=1, batches_per_epoch=1, image_size_px=32, reconstruction_probability=0.0
    )
    data.setup("fit")
    seen = next(iter(data.train_dataloader()))["reference_mask"][0, 0] >= 128
    assert 0.25 < seen.float().mean() < 0.35  # 10 x 12 of 20 x 20


class Bare:
    """Draw as another stage does, and tell no outline, as diffusion models do."""

    fingerprint = "bare"

    def __init__(self) -> None:
        self.draft = parts()["draft"]

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        for reply in self.draft.draw(requests):
            yield replace(reply, files={"image": reply.files["image"]})


def test_a_draft_without_outline_is_refined_inside_of_the_one_that_the_mask_stage_finds(tmp_path: Path) -> None:
    stages = {"draft": Bare(), "mask": BorderMask(), "filter": Sure()}
    built(tmp_path / "root", stages=stages, kinds=["place"])
    blobs = Blobs(tmp_path / "root")
    with PairBook.for_reading(tmp_path / "root") as book:
        rows = book.pairs("kept")
    assert rows
    for row in rows:
        files = {role: FileRef(**file) for role, file in row.body["files"].items()}
        read = {role: replace(file, content=blobs.get(file.sha256)) for role, file in files.items()}
        draft, image, outside = pixels_of(read["draft"]), pixels_of(read["image"]), ~mask_of(read["draft_mask"])
        assert np.array_equal(image[outside], draft[outside]) and not np.array_equal(image, draft)
    built(tmp_path / "other", stages={"draft": Bare(), "filter": Sure()}, kinds=["place"])
    with PairBook.for_reading(tmp_path / "other") as book:  # nobody finds it
        assert {row.cause for row in book.pairs()} == {"mask"}


class Wide:
    """Draw pictures that are no squares, as some services do."""

    fingerprint = "wide"

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        for number, request in enumerate(requests):
            pixels, mask = np.full((32, 48, 3), 20 * number, np.uint8), np.zeros((32, 48), bool)
            mask[4:20, 4 + number : 20 + number] = True
            yield PairReply(request.request_id, files={"image": picture_file(pixels), "mask": mask_file(mask)})


def test_a_picture_that_is_cropped_in_training_gets_no_box(tmp_path: Path) -> None:
    built(tmp_path / "root", stages={"draft": Wide(), "refine": Unchanged(), "filter": Sure()}, kinds=["tint"])
    samples = samples_of(tmp_path / "root").values()
    assert samples and not any("subject_box" in sample.files for sample in samples)
    assert sum(export_pairs(tmp_path / "root", tmp_path / "out").values()) == len(samples)
