"""Rounds over pairs: what a student fails is built next, within its limits, once, and a resumed run is the same."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.callbacks._run.held_out import warn_of_training_judge
from evolvedirector.errors import RunError, UserError
from evolvedirector.evolution import Budget
from evolvedirector.pairs import BorderMask, FailingPairs, PairBudget
from evolvedirector.pairs.drawn.changes import TINTS
from evolvedirector.pairs.evolving.cells import Cell
from evolvedirector.pairs.pair_book import PairBook
from evolvedirector.pairs.pair_records import PairReply, PairRequest, failed, refused
from evolvedirector.report import RunFolder, build, build_report
from evolvedirector.store import Blobs, DatasetStore
from tests.pairs.evolving_toys import EPOCHS, KINDS, LIMITS, SIDE, Run, ToySubjectStudent, evolving
from tests.pairs.pair_toys import counted, parts
from tests.toys import ToyJudge, ToyTeacher, ToyWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("whole"), fails={"texture"}).fit()


def looked_subjects(run: Run) -> set[str]:
    """Return the pictures of the references that the student was shown."""
    with DatasetStore(run.root) as store:
        return {item.teacher_sha256 or "" for item in store.ledger.looks.evidence()}


def same(one: Run, other: Run) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.student.parameters(), other.student.parameters(), strict=True))


# ---- what is built


def test_a_kind_that_the_student_fails_is_built_next(whole: Run) -> None:
    first, second, third = (row.figures for row in whole.rounds())
    assert first.pairs["asked"] == {"place": 6, "tint": 6, "texture": 6} and not first.screened
    assert second.screened == {"shows": 12, "lacks": 6}
    for figures in (second, third):
        of_texture = [cell for cell in figures.pairs["cells"] if cell["kind"] == "texture"]
        assert of_texture and all(cell["share"] == 1 and cell["interval"][1] == 1 for cell in of_texture)
        assert all(cell["failed"] == 0 for cell in figures.pairs["cells"] if cell["kind"] != "texture")
        assert figures.pairs["asked"]["texture"] > 2 * max(figures.pairs["asked"].get(k, 0) for k in ("place", "tint"))
    shares = [figures.pairs["asked"]["texture"] / sum(figures.pairs["asked"].values()) for figures in (second, third)]
    assert shares[1] >= shares[0]


@pytest.mark.slow
def test_a_student_that_copies_its_reference_fails_the_change_and_one_that_draws_another_fails_the_identity(
    tmp_path: Path,
) -> None:
    class Another(ToySubjectStudent):
        """Draws a thin bar of the colour that is asked for, whatever the subject is."""

        def _drawn(self, request: Any) -> Any:
            picture = np.full((SIDE, SIDE, 3), 240, np.uint8)
            picture[8:40, 22:26] = TINTS[request.prompt.split()[1]]
            return picture

    limits = {"tint": {"shape": 0.6, "change": 0.6}}
    causes = {}
    for student in (ToySubjectStudent({"place", "tint"}), Another()):
        run = Run(tmp_path / type(student).__name__, max_epochs=2, pairs=evolving(kinds=["tint"], thresholds=limits))
        run.student = student
        run.fit()
        figures = run.rounds()[-1].figures
        assert figures.screened.keys() == {"lacks"}
        with DatasetStore(run.root) as store:
            looks = [look for item in store.ledger.looks.evidence() for look in item.looks]
        causes[type(student)] = Counter(look.reason.split(" ")[0] for look in looks)
    assert causes[ToySubjectStudent].keys() == {"change"} and causes[Another].keys() == {"shape"}


def test_what_is_looked_at_is_never_built(whole: Run) -> None:
    with PairBook.for_reading(whole.root) as book:
        built = {row.body["files"]["reference"]["sha256"] for row in book.pairs()}
    shown = looked_subjects(whole)
    assert shown and built and not shown & built


def test_the_drawings_are_made_from_reference_and_words_and_kept(whole: Run) -> None:
    second = whole.rounds()[1].round_id
    with DatasetStore(whole.root) as store:
        evidence = store.ledger.looks.evidence(second)
        blobs = Blobs(whole.root)
        assert len(evidence) == 18 and {item.skill for item in evidence} == set(KINDS)
        assert all(blobs.has(item.student_sha256 or "") and blobs.has(item.teacher_sha256 or "") for item in evidence)


@pytest.mark.slow
def test_subjects_that_have_pairs_already_are_left_out_and_that_is_told(tmp_path: Path) -> None:
    pairs = evolving()
    with DatasetStore(tmp_path / "data", create=True) as store:
        evolving(kinds=["tint"], thresholds={"tint": LIMITS["tint"]}).builder.build(store)
    run = Run(tmp_path, fails={"texture"}, pairs=pairs, max_epochs=2)
    with pytest.warns(UserWarning, match="have pairs already and are left out: what was trained on tells nothing"):
        run.fit()


# ---- once, and the same again


def test_any_checkpoint_goes_on_as_if_never_interrupted(whole: Run) -> None:
    for name in ("step-00000000-round", "step-00000002-round", "step-00000002", "step-00000004-round"):
        calls: Counter[str] = Counter()
        again = Run(whole.folder, fails={"texture"}, pairs=evolving(counted(calls, filter=evolving().judge))).fit(name)
        step = int(name.split("-")[1])
        assert again.student.seen == {at: batch for at, batch in whole.student.seen.items() if at >= step}, name
        assert again.data.revision_sha == whole.data.revision_sha and same(again, whole)
        assert not calls and not again.student.drawn, "everything is remembered"


class _Killed(BaseException):
    pass


class Stops(ToySubjectStudent):
    """Is killed at its n-th drawing."""

    def __init__(self, fails: set[str], left: int) -> None:
        super().__init__(fails)
        self.left = left

    def generate(self, requests: Sequence[Any]) -> list[torch.Tensor]:
        self.left -= 1
        if self.left == 0:
            raise _Killed
        return super().generate(requests)


Stops.__name__ = ToySubjectStudent.__name__  # a round is named by the class, too


@pytest.mark.slow
@pytest.mark.parametrize("where", ["draft of the first round", "drawing", "look", "draft", "publish"])
def test_a_round_that_is_killed_goes_on_and_makes_nothing_twice(whole: Run, tmp_path: Path, where: str) -> None:
    calls: Counter[str] = Counter()
    left = {"draft of the first round": 30, "look": 150, "draft": 190}.get(where, 10**9)

    def maybe_killed() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise _Killed

    stages = counted(calls, maybe_killed, filter=evolving().judge)
    run = Run(tmp_path, fails={"texture"}, pairs=evolving(stages))
    if where == "drawing":
        run.student = Stops({"texture"}, 2)
    with pytest.MonkeyPatch.context() as patch:
        if where == "publish":
            patch.setattr(PairBook, "mark_published", lambda *_: (_ for _ in ()).throw(_Killed()))
        with pytest.raises(_Killed):
            run.fit()
    checkpoint = max(path.name for path in (tmp_path / "checkpoints").glob("*-round"))
    again = Run(tmp_path, fails={"texture"}, pairs=evolving(counted(calls, filter=evolving().judge))).fit(checkpoint)
    assert again.made() == whole.made() and same(again, whole)
    twice = {key: count for key, count in calls.items() if count > 1}
    assert sum(twice.values()) - len(twice) <= 4, "at most one batch was in flight"


@pytest.mark.slow
def test_an_older_checkpoint_with_another_policy_forks_and_reuses_pairs(whole: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole.folder, tmp_path / "copy"))
    calls: Counter[str] = Counter()
    other = evolving(counted(calls, filter=evolving().judge), policy=FailingPairs(mastered_below=0.0))
    again = Run(folder, fails={"texture"}, pairs=other).fit("step-00000002-round")
    assert again.data.revision_sha != whole.data.revision_sha
    asked = again.rounds()[-1].figures.pairs["asked"]
    assert sum(asked.values()) == 18


# ---- limits


def test_budgets_stop_what_is_built_and_training_goes_on(tmp_path: Path) -> None:
    limits = PairBudget(calls={"draft": 20})
    run = Run(tmp_path, fails={"texture"}, pairs=evolving(budget=limits)).fit()
    assert run.trainer.global_step == 2 * EPOCHS
    with PairBook.for_reading(run.root) as book:
        assert book.spend()["draft"].calls == 20
    last = run.rounds()[-1].figures.pairs
    assert last["open"] == 18 and last["held back"] == {"calls.draft": 18}
    assert run.rounds()[-1].child_sha == run.rounds()[-1].revision_sha, "nothing new: the same revision goes on"


@pytest.mark.slow
def test_a_limit_of_looks_leaves_drawings_unread_and_counts_none_of_them(tmp_path: Path) -> None:
    run = Run(tmp_path, fails={"texture"}, max_epochs=2, pairs=evolving(budget=PairBudget(calls={"look": 4}))).fit()
    screened = run.rounds()[-1].figures.screened
    assert screened["unreadable"] == 14 and screened["shows"] + screened["lacks"] == 4


@pytest.mark.slow
def test_pairs_over_all_rounds_are_limited(tmp_path: Path) -> None:
    run = Run(tmp_path, pairs=evolving(most_pairs=20)).fit()
    assert [sum(row.figures.pairs["asked"].values()) for row in run.rounds()] == [18, 2, 0]


# ---- what goes wrong


class RefusesDrafts:
    """Draws some pairs, then none."""

    fingerprint = "refuses"

    def __init__(self, left: int) -> None:
        self.left, self.draft = left, parts()["draft"]

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        for request in requests:
            self.left -= 1
            yield next(self.draft.draw([request])) if self.left >= 0 else refused(request, "No more today.")


def test_a_stage_that_refuses_everything_ends_a_first_round_with_its_reason(tmp_path: Path) -> None:
    run = Run(tmp_path, pairs=evolving({"draft": RefusesDrafts(0)}, pairs_per_round=40))
    with pytest.raises(RunError, match="The stage 'draft' refused all 32 requests, most often with: No more today"):
        run.fit()


@pytest.mark.slow
def test_a_stage_that_refuses_everything_later_is_told_and_training_goes_on(tmp_path: Path) -> None:
    pairs = evolving({"draft": RefusesDrafts(40)}, pairs_per_round=40)
    run = Run(tmp_path, fails=set(KINDS), max_epochs=2, pairs=pairs)
    with pytest.warns(UserWarning, match="training goes on: The stage 'draft' refused all"):
        run.fit()
    assert "No more today" in run.rounds()[-1].figures.pairs["problem"] and run.trainer.global_step == 4


def test_a_filter_that_rejects_everything_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    strict = {kind: {"identity": 2.0} for kind in KINDS}
    with pytest.raises(RunError, match=r"No pair was made.*were rejected for 'identity'"):
        Run(tmp_path, pairs=evolving(thresholds=LIMITS, builder_thresholds=strict)).fit()


class Unread:
    fingerprint = "unread"

    def score(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        for request in requests:
            yield failed(request, "the service is down")


@pytest.mark.slow
def test_what_the_judge_cannot_read_says_nothing_of_the_student(tmp_path: Path) -> None:
    run = Run(tmp_path, max_epochs=2, pairs=evolving(judge=Unread())).fit()
    figures = run.rounds()[-1].figures
    assert figures.screened == {"unreadable": 18}
    assert figures.pairs["failures"] == {"look: the service is down": 18}
    assert all(cell["looked"] == 0 for cell in figures.pairs["cells"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pairs_per_round": 0}, "pairs_per_round is 0. Allowed are 1 to 100,000."),
        ({"looks_per_round": 0}, "looks_per_round is 0. Allowed are 1 to 100,000."),
        ({"look_share": 1.0}, "look_share is 1.0. Allowed are shares above 0 and under 1"),
        ({"most_pairs": -1}, "most_pairs is -1. Allowed are 0 or more"),
    ],
)
def test_numbers_out_of_range_are_one_sentence(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        evolving(**wrong)


def test_one_group_alone_cannot_be_parted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is left to make pairs of"):
        Run(tmp_path, pairs=evolving(most_subjects=1)).fit()


def test_a_student_that_reads_no_reference_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.student.file_roles = ()
    with pytest.raises(UserError, match="The student reads no reference"):
        run.fit()


def test_rounds_are_over_pairs_or_over_prompts() -> None:
    with pytest.raises(UserError, match="pairs is given, and judge beside it"):
        EvolutionCallback(pairs=evolving(), judge=ToyJudge())
    with pytest.raises(UserError, match="pairs is given, and mode: background beside it"):
        EvolutionCallback(pairs=evolving(), mode="background")
    with pytest.raises(UserError, match="pairs is given, and judge_health, budget beside it"):
        EvolutionCallback(pairs=evolving(), judge_health=True, budget=Budget(budget_teacher_calls=5))
    assert EvolutionCallback(pairs=evolving(), budget=Budget(budget_teacher_calls=0)).plan_summary()["rounds"] == "none"
    with pytest.raises(UserError, match="writer is missing"):
        EvolutionCallback({"toy": ToyTeacher()}, ToyJudge())
    with pytest.raises(UserError, match="teachers is empty"):
        EvolutionCallback({}, ToyJudge(), ToyWriter())


def test_whoever_selects_pairs_is_told_when_it_reads_the_figures_too(tmp_path: Path) -> None:
    run = Run(tmp_path)
    trainer = pl.Trainer(callbacks=[run.evolution], logger=False, accelerator="cpu", enable_checkpointing=False)
    encoder = run.pairs.judge.identity
    with pytest.warns(UserWarning, match="suites.held_out.reader is the judge of the training data too"):
        warn_of_training_judge(trainer, encoder, "suites.held_out.reader")


def test_check_says_what_rounds_may_use_up() -> None:
    rows = EvolutionCallback(pairs=evolving(most_pairs=90, budget=PairBudget(calls={"draft": 5}))).plan_summary()
    assert rows["pairs per round"] == "at most 18, 90 in all" and "draft" in rows["budget of pairs"]
    assert rows["looks per round"] == "at most 18, by PairFilter"


def test_cells_are_those_of_subjects_that_are_built(whole: Run) -> None:
    names = {Cell(cell["category"], cell["kind"]) for cell in whole.rounds()[-1].figures.pairs["cells"]}
    assert {cell.kind for cell in names} == set(KINDS)
    assert isinstance(whole.pairs.mask, BorderMask)


# ---- what is told


def test_the_page_tells_which_cells_failed_and_shows_drawings_beside_their_references(
    whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_plotly", lambda: "const Plotly = {};")
    page = build_report(RunFolder.open(whole.folder))
    told = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page))
    assert "Looked at: 18 drawings of subjects that are never trained on; 6 failed." in told
    asked = whole.rounds()[1].figures.pairs["asked"]["texture"]
    assert f"{asked} texture" in told and "Kept:" in told
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    pairs = json.loads(found.group(1))["pairs"] if found else {}
    assert pairs["kind"] == "subject" and pairs["total"] == 36
    failed = [pair for pair in pairs["pairs"] if pair["reading"] == "lacks"]
    assert {pair["skill"] for pair in failed} == {"texture"} and failed[0]["by"] == "reference"
    assert "is below" in failed[0]["looks"][0]["reason"] and failed[0]["student"] and failed[0]["teacher"]


def test_a_round_leaves_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run(tmp_path, fails={"texture"}, max_epochs=2).fit()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("round")]
    assert re.fullmatch(r"round 1/2: asked for 18 pairs, kept \d+ \(.*texture.*\) \(\d+ s\)", lines[0])
    assert lines[1].startswith("round 2/2: looked at 18 drawings: 6 failed; asked for ")
