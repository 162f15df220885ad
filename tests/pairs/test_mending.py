"""What a build does about files that are gone, stages that are wrong, and limits of other settings."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evolvedirector.commands import data as data_command
from evolvedirector.pairs import FolderSubjects, PairBudget, Unchanged
from evolvedirector.pairs.builder import SubjectPairBuilder
from evolvedirector.pairs.pair_book import PairBook, PairRow
from evolvedirector.pairs.pair_records import PairReply, PairRequest
from evolvedirector.pairs.pair_verify import damages_of_pairs
from evolvedirector.store import Blobs, DatasetStore
from evolvedirector.store.verify import Verification, verify_root
from tests.pairs.pair_toys import built, counted, parts, samples_of

TINT = {"kinds": ["tint"], "most_subjects": 4}


class Sure:
    """Score every pair alike."""

    fingerprint = "sure"

    def score(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        for request in requests:
            yield PairReply(request.request_id, scores={"identity": 0.9, "change": 0.9})


LIGHT = {"filter": Sure(), "refine": Unchanged()}


class Broken:
    """Draw as another stage does, but raise at the second subject."""

    fingerprint = "broken"

    def __init__(self, error: Exception) -> None:
        self.draft, self.error = parts()["draft"], error
        self.asked: Counter[str] = Counter()
        self.bad = ""

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        for request in requests:
            self.asked[request.subject.name] += 1
            self.bad = self.bad or (request.subject.name if len(self.asked) == 2 else "")
            if request.subject.name == self.bad:
                raise self.error
            yield from self.draft.draw([request])


@pytest.mark.parametrize("error", [KeyError("image"), IndexError("list index out of range"), TypeError("no")])
def test_a_mistake_inside_a_stage_is_a_failure_of_that_request_alone(tmp_path: Path, error: Exception) -> None:
    broken = Broken(error)
    figures = built(tmp_path / "root", stages={"draft": broken, **LIGHT}, batch=8, **TINT)
    assert figures.decided == 3 and figures.open_pairs == 1
    (reason,) = figures.failures
    assert reason.startswith(f"draft: Broken broke off: {type(error).__name__}")
    figures = built(tmp_path / "root", stages=LIGHT, batch=8, **TINT)
    assert figures.decided == 4 + 3, "the same pairs under another draft, and none lost"


def test_a_mistake_never_costs_more_calls_than_the_budget_has(tmp_path: Path) -> None:
    broken = Broken(KeyError("image"))
    limits = PairBudget(calls={"draft": 5})
    figures = built(tmp_path / "root", stages={"draft": broken, **LIGHT}, batch=8, budget=limits, **TINT)
    assert figures.spend["draft"].calls == 5 and figures.open_pairs + figures.decided == 4


def test_an_answer_without_its_file_is_a_failure_that_names_the_stage(tmp_path: Path) -> None:
    class Wordy:
        fingerprint = "wordy"

        def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
            for request in requests:
                yield PairReply(request.request_id, words={"note": "drawn"})

    figures = built(tmp_path / "root", stages={"draft": Wordy(), **LIGHT}, **TINT)
    assert figures.failures == {"draft: the answer has no file 'image'": 4} and figures.open_pairs == 4


def kept_and_waiting(root: Path) -> list[PairRow]:
    """Build without publishing, as a process that is killed before it; returns the kept pairs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SubjectPairBuilder, "_publish", lambda *_: None)
        built(root, stages=LIGHT, **TINT)
    with PairBook.for_reading(root) as book:
        return book.unpublished()


def damage(root: Path, row: PairRow, how: str) -> None:
    path = Blobs(root).path(row.body["files"]["subject_box"]["sha256"])
    path.unlink() if how == "gone" else path.write_bytes(b"something else")


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_a_kept_pair_whose_file_is_lost_before_a_revision_has_it_is_made_again(tmp_path: Path, how: str) -> None:
    root = tmp_path / "root"
    rows = kept_and_waiting(root)
    damage(root, rows[0], how)
    calls: Counter[str] = Counter()
    figures = built(root, stages=counted(calls, **LIGHT), **TINT)
    assert figures.kept == {"tint": 4} and samples_of(root).keys() == {row.pair_id for row in rows}
    assert not calls, "its last files are made of what the stages gave"


def test_one_of_other_settings_is_let_go(tmp_path: Path) -> None:
    root = tmp_path / "root"
    rows = kept_and_waiting(root)
    damage(root, rows[0], "gone")
    built(root, stages=LIGHT, seed=1, **TINT)
    samples = samples_of(root)
    assert len(samples) == 3 + 4 and rows[0].pair_id not in samples


def test_most_kept_counts_the_pairs_of_these_settings_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    built(root, stages=LIGHT, pairs_per_pass=2, most_kept=2, **TINT)
    assert len(samples_of(root)) == 2
    calls: Counter[str] = Counter()
    built(root, stages=counted(calls, **LIGHT), pairs_per_pass=2, most_kept=2, **TINT)
    assert len(samples_of(root)) == 2 and not calls, "they are kept already"
    built(root, stages=LIGHT, pairs_per_pass=2, most_kept=2, seed=1, **TINT)
    assert len(samples_of(root)) == 4


def test_a_disk_that_fails_for_a_moment_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.full((40, 40, 4), 200, np.uint8)
    pixels[..., 3] = 0
    pixels[8:30, 8:30, 3] = 255
    Image.fromarray(pixels).save(folder / "rex.png")
    stages = {"subjects": FolderSubjects(str(folder)), "draft": _Same(), **LIGHT}
    real = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "rex.png":
            raise OSError(5, "Input/output error")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        figures = built(tmp_path / "root", stages=stages, kinds=["tint"], most_subjects=None)
    assert figures.open_pairs == 1 and figures.decided == 0
    assert "cannot be read now" in next(iter(figures.failures))
    assert built(tmp_path / "root", stages=stages, kinds=["tint"], most_subjects=None).decided == 1


class _Same:
    """Give the reference itself."""

    fingerprint = "same"

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        for request in requests:
            files = {"image": request.files["reference"], "mask": request.files["reference_mask"]}
            yield PairReply(request.request_id, files=files)


# ---- `data verify`


def verified(root: Path) -> Verification:
    return verify_root(root, records=[damages_of_pairs])


def test_a_root_of_pairs_is_whole_and_one_without_has_nothing_to_verify(tmp_path: Path) -> None:
    built(tmp_path / "root", stages=LIGHT, **TINT)
    assert verified(tmp_path / "root").is_whole
    with DatasetStore(tmp_path / "empty", create=True):
        pass
    assert list(damages_of_pairs(tmp_path / "empty", (), ())) == []


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_verify_names_files_of_pairs_that_are_missing_or_changed(tmp_path: Path, how: str) -> None:
    root = tmp_path / "root"
    row = kept_and_waiting(root)[0]
    damage(root, row, how)
    path = Blobs(root).path(row.body["files"]["image"]["sha256"])
    path.unlink() if how == "gone" else path.write_bytes(b"something else")
    found = [damage for damage in verified(root).damages if damage.path == "pairs.sqlite"]
    assert [damage.kind for damage in found] == ["ledger", "ledger"]
    assert found[0].what.startswith(f"1 kept pairs that no revision has yet, such as {row.pair_id}")
    assert found[1].what.startswith("1 files that stages made") and "0 of them are still in shards" in found[1].what


def test_verify_reads_the_record_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    built(root, stages=LIGHT, **TINT)
    with sqlite3.connect(root / "pairs.sqlite") as book:
        book.execute("PRAGMA user_version=99")
    assert data_command.main(["verify", str(root)]) == 1
    assert "pairs.sqlite: The record of pairs" in capsys.readouterr().out
    (root / "pairs.sqlite").write_bytes(b"no database at all" * 100)
    for beside in root.glob("pairs.sqlite-*"):
        beside.unlink()
    assert data_command.main(["verify", str(root)]) == 1
