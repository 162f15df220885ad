"""A run that goes on from any of its checkpoints ends where an uninterrupted one does, and buys nothing twice."""

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from evolvedirector.callbacks import EvolutionCallback, RunCheckpoint, evolution
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget
from evolvedirector.execution import signals
from evolvedirector.judges import JudgeHealth
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    OrderedPair,
    Prompt,
    RoundInfo,
    prompt_id_of,
)
from evolvedirector.store import DatasetStore, DiskFullError, StoreError, durable, edits
from evolvedirector.store.ledger import RoundRow
from tests.toys import ToyJudge, ToyPrompts, ToyStudent, ToyTeacher, ToyWriter

PER_EPOCH, EPOCHS = 3, 4
pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")
LIMITS: dict[str, dict[str, int]] = {
    "max_epochs": {"max_epochs": EPOCHS},
    "max_steps": {"max_steps": EPOCHS * PER_EPOCH},
}


class Student(ToyStudent):
    """Notes what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, tuple[str, list[str]]] = {}

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.seen[self.trainer.global_step] = (self.trainer.datamodule.revision_sha, batch["key"])
        return super().training_step(batch, batch_idx)


class Run:
    """One process's part of a run in `folder`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self.root = folder, folder / "data"
        self.teacher = settings.pop("teacher", None) or ToyTeacher()
        self.judge = settings.pop("judge", None) or ToyJudge()
        self.data = EvolvingDataModule(
            self.root, ToyPrompts(6), global_batch_size=4, batches_per_epoch=PER_EPOCH, image_size_px=8
        )
        self.evolution = EvolutionCallback(
            teachers={"toy": self.teacher},
            judge=self.judge,
            writer=ToyWriter(),
            policy=settings.pop("policy", None) or EvolveDirectorPolicy(expansions=1),
            budget=settings.pop("budget", None),
            every_n_epochs=settings.pop("every_n_epochs", 1),
            tie_margin=settings.pop("tie_margin", 0.0),
            judge_health=settings.pop("judge_health", None),
            mode=settings.pop("mode", "between_epochs"),
            background=settings.pop("background", None),
        )
        checkpoint = RunCheckpoint(every_n_train_steps=settings.pop("every_n_train_steps", None), keep_last=99)
        torch.manual_seed(0)
        self.student = Student()
        more = settings.pop("callbacks", [])
        self.trainer = pl.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            logger=False,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[self.evolution, checkpoint, *more],
            enable_progress_bar=False,
            enable_model_summary=False,
            **(settings or LIMITS["max_epochs"]),
        )

    def fit(self, checkpoint: str | None = None) -> "Run":
        path = self.folder / "checkpoints" / checkpoint / "state.ckpt" if checkpoint else None
        self.trainer.fit(self.student, datamodule=self.data, ckpt_path=path, weights_only=True)
        return self

    @property
    def rounds_published(self) -> list[str]:
        return list(dict.fromkeys(revision for revision, _ in self.student.seen.values()))[1:]

    def rounds(self) -> list[RoundRow]:
        with DatasetStore(self.root) as store:
            return store.ledger.rounds.all()


@pytest.fixture(scope="module", params=list(LIMITS))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, int]]:
    """A run that nobody interrupted, and what limited it."""
    limit = LIMITS[request.param]
    return Run(tmp_path_factory.mktemp("whole"), every_n_train_steps=2, **limit).fit(), limit


@pytest.mark.parametrize(
    ("checkpoint", "step"),
    [
        ("step-00000003-round", 3),
        ("step-00000003", 3),
        ("step-00000004", 4),
        ("step-00000006-round", 6),
        ("step-00000006", 6),
        ("step-00000009", 9),
    ],
)
def test_any_checkpoint_goes_on_as_if_never_interrupted(
    whole: tuple[Run, dict[str, int]], checkpoint: str, step: int
) -> None:
    """From the start of a round, an epoch's end and its middle, although later revisions exist already."""
    reference, limit = whole
    again = Run(reference.folder, **limit).fit(checkpoint)
    assert again.student.seen == {at: batch for at, batch in reference.student.seen.items() if at >= step}
    assert again.data.revision_sha == reference.data.revision_sha
    assert all(
        torch.equal(a, b) for a, b in zip(again.student.parameters(), reference.student.parameters(), strict=True)
    )
    assert again.teacher.asked == []
    assert again.judge.asked == 0


class Intruder(pl.Callback):
    """Tries to edit the root while a run trains; notes what it was told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.refusals: list[str] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        with pytest.raises(StoreError) as refusal, DatasetStore(self.root):
            pass
        self.refusals.append(str(refusal.value))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_run_goes_on_beside_an_edit_and_keeps_further_ones_out(
    whole: tuple[Run, dict[str, int]], sharded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sharded checkpoint is read late: until then the run must not take the newest revision for its own."""
    reference, limit = whole
    folder = shutil.copytree(reference.folder, tmp_path / "copy")
    with DatasetStore(folder / "data") as store:
        edits.add_prompts(store, [Prompt.create("an owl")])
    intruder = Intruder(folder / "data")
    again = Run(folder, **limit, callbacks=[intruder])
    monkeypatch.setattr(type(again.trainer.strategy), "restore_checkpoint_after_setup", sharded)
    with pytest.warns(UserWarning, match="was edited after this checkpoint"):
        again.fit("step-00000004")
    assert again.student.seen == {at: batch for at, batch in reference.student.seen.items() if at >= 4}
    assert again.data.revision_sha == reference.data.revision_sha
    assert again.teacher.asked == [], "the prompts of the edit are not this run's to buy"
    assert len(intruder.refusals) == len(again.student.seen) > PER_EPOCH
    assert f"is open for writing in process {os.getpid()}" in intruder.refusals[0]


def test_each_boundary_has_one_round(whole: tuple[Run, dict[str, int]]) -> None:
    """Lightning can fire `on_train_epoch_end` twice for one epoch, at a resume."""
    reference, limit = whole
    again = Run(reference.folder, **limit)
    again.fit("step-00000006")
    again.evolution.on_train_epoch_end(again.trainer, again.student)
    assert sorted({row.global_step for row in again.rounds()}) == [3, 6, 9]
    assert again.data.revision_sha == reference.data.revision_sha


def test_another_future_forks_and_reuses_images(whole: tuple[Run, dict[str, int]]) -> None:
    """Rounds at other epochs, from an older checkpoint: a second line of revisions that buys only what is new."""
    reference, limit = whole
    with DatasetStore(reference.root) as store:
        before = {prompt_id for prompt_id, _ in store.ledger.calls.images()}
        parent = store.state(reference.rounds_published[0])
    again = Run(reference.folder, every_n_epochs=3, **limit).fit("step-00000003")
    assert again.data.revision_sha not in reference.rounds_published
    with DatasetStore(again.root) as store:
        entries = store.state(again.data.revision_sha).entries
        bought = [prompt_id for prompt_id, _ in store.ledger.calls.images()]
    assert {prompt_id for prompt_id, entry in parent.entries.items() if entry.sample} <= entries.keys()
    assert not {prompt_id_of(text) for text in again.teacher.asked} & before
    assert len(bought) == len(set(bought)) == len(before) + len(again.teacher.asked)


def test_another_margin_of_ties_decides_otherwise_in_a_round_of_its_own(tmp_path: Path) -> None:
    first = Run(tmp_path).fit()
    again = Run(tmp_path, tie_margin=0.45).fit("step-00000009-round")
    assert not any(row.figures.compared["tie"] for row in first.rounds()[:3])
    assert again.rounds()[3].figures.compared["tie"] > 0
    with pytest.raises(ValueError, match=r"tie_margin is 0.5\. Allowed: 0 to under 0.5"):
        Run(tmp_path, tie_margin=0.5)


def test_reading_another_revision_than_the_published_one_is_an_error(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.data.open_revision = lambda revision_sha: None if run.trainer.global_step else open_revision(revision_sha)  # type: ignore[method-assign]
    open_revision = type(run.data).open_revision.__get__(run.data)
    with pytest.raises(RuntimeError, match="but the last round published"):
        run.fit()


def test_a_larger_budget_buys_the_remaining_seeds_at_a_resume(tmp_path: Path) -> None:
    Run(tmp_path, budget=Budget(4), max_epochs=1).fit()
    again = Run(tmp_path, budget=Budget(40), max_epochs=2).fit("step-00000003")
    assert len(again.teacher.asked) >= 2
    with DatasetStore(again.root) as store:
        assert len(store.state(again.data.revision_sha).in_state("live")) >= 6


# ---- what goes wrong in a round


def test_a_teacher_that_refuses_everything(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"None of 6 seed prompts got an image.*refusal 6.*the teachers cannot"):
        Run(tmp_path, teacher=ToyTeacher(refuses=True)).fit()


def test_unreadable_looks_are_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path, judge=ToyJudge(mass=0.1), max_epochs=2, judge_health=False).fit()
    assert run.trainer.global_step == 2 * PER_EPOCH
    with DatasetStore(run.root) as store:
        assert {item.reading or item.verdict for item in store.ledger.looks.evidence()} <= {"invalid", "unreadable"}


def test_a_judge_that_says_nothing_ends_the_run_before_it_spends(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Nothing is bought for 6 seed prompts.*0 of 8 readable.*judge_health: fal"):
        Run(tmp_path, judge=ToyJudge(mass=0.1), max_epochs=2).fit()
    with DatasetStore(tmp_path / "data") as store:
        assert store.ledger.spend().teacher_calls == 0


@pytest.mark.parametrize(
    ("written", "meant"),
    [(None, JudgeHealth()), (True, JudgeHealth()), (False, None), (JudgeHealth(canaries_per_round=2),) * 2],
)
def test_canaries_are_on_unless_they_are_switched_off(tmp_path: Path, written: Any, meant: JudgeHealth | None) -> None:
    assert Run(tmp_path, judge_health=written).evolution.evolution().settings.judge_health == meant


def test_a_judge_that_is_never_asked_needs_no_canaries(tmp_path: Path) -> None:
    blind = EvolveDirectorPolicy(without={"discrimination"})
    assert Run(tmp_path, policy=blind).evolution.evolution().settings.judge_health is None


def test_budget_0_only_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StoreError, match="no image to train on"):
        Run(tmp_path / "empty", budget=Budget(0)).fit()
    Run(tmp_path / "full", max_epochs=1).fit()
    run = Run(tmp_path / "full", budget=Budget(0), max_epochs=2).fit()
    assert run.trainer.global_step == 2 * PER_EPOCH
    assert run.teacher.asked == []
    assert run.judge.asked == 0
    assert "only trains" in capsys.readouterr().out


class BrokenTeacher(ToyTeacher):
    def generate(self, requests: Sequence) -> Any:
        for number, reply in enumerate(super().generate(requests)):
            if number == 3:
                raise ConnectionError("the line broke")
            yield reply


class BrokenJudge(ToyJudge):
    def look(self, pairs: Sequence[OrderedPair]) -> Any:
        yield from super().look(pairs[:2])
        raise ValueError("the judge broke")


class BrokenPolicy(EvolveDirectorPolicy):
    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        return [Decision("retire", "nobody")]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"teacher": BrokenTeacher()}, "the line broke"),
        ({"judge": BrokenJudge()}, "the judge broke"),
        ({"policy": BrokenPolicy()}, "the prompts it may decide about|which is not among"),
    ],
)
def test_a_part_that_raises_loses_nothing(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        Run(tmp_path, **parts).fit()
    with DatasetStore(tmp_path / "data") as store:
        kept = len(store.ledger.calls.images())
        reserved = store.ledger.spend().teacher_calls
    newest = max((tmp_path / "checkpoints").glob("*"), default=None)
    run = Run(tmp_path).fit(newest.name if newest else None)
    assert run.trainer.global_step == EPOCHS * PER_EPOCH
    with DatasetStore(tmp_path / "data") as store:
        spend, images = store.ledger.spend(), len(store.ledger.calls.images())
    assert len(run.teacher.asked) == images - kept
    assert spend.teacher_calls >= images >= kept
    assert spend.teacher_calls >= reserved


@pytest.mark.parametrize("at", [3, 20, 45, 70])
def test_a_full_disk_is_one_error_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    calls = 0
    fsync = durable.os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises((DiskFullError, OSError), match="No space left"):
        Run(tmp_path).fit()
    monkeypatch.undo()
    kept = 0
    if (tmp_path / "data" / "ledger.sqlite").exists():
        with DatasetStore(tmp_path / "data") as store:
            kept = len(store.ledger.calls.images())
    markers = sorted((tmp_path / "checkpoints").glob("*/COMMIT.json"), key=lambda p: json.loads(p.read_text())["order"])
    run = Run(tmp_path).fit(markers[-1].parent.name if markers else None)
    assert run.trainer.global_step == EPOCHS * PER_EPOCH
    with DatasetStore(tmp_path / "data") as store:
        assert len(run.teacher.asked) == len(store.ledger.calls.images()) - kept


@pytest.mark.parametrize("stuck", [False, True])
def test_sigterm_in_a_round_ends_the_run_with_143(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stuck: bool) -> None:
    """Between two units of work; within seconds also when a unit takes minutes."""

    class Terminated(ToyJudge):
        def look(self, pairs: Sequence[OrderedPair]) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            if stuck:
                time.sleep(60)
            yield from super().look(pairs)

    monkeypatch.setattr(signals, "TERM_GRACE_S", 0.2)
    began = time.monotonic()
    with pytest.raises(SystemExit) as ending:
        Run(tmp_path, judge=Terminated()).fit()
    assert ending.value.code == 143
    assert time.monotonic() - began < 20
    assert Run(tmp_path).fit("step-00000003-round").trainer.global_step == EPOCHS * PER_EPOCH


# ---- rounds that an earlier version left open


@pytest.mark.parametrize(("formatted", "rounds_at_3"), [(False, ["as it was"]), (True, ["as it was", "now"])])
def test_a_half_done_round_of_a_state_without_a_format_is_finished_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, formatted: bool, rounds_at_3: list[str]
) -> None:
    """Names of rounds are made in another way since the state carries a number."""
    state_dict = EvolutionCallback.state_dict
    with monkeypatch.context() as earlier:
        earlier.setattr(evolution, "round_id_of", lambda *named: "as it was")
        if not formatted:
            earlier.setattr(
                EvolutionCallback,
                "state_dict",
                lambda self: {key: value for key, value in state_dict(self).items() if key != "format"},
            )
        with pytest.raises(ValueError, match="the judge broke"):
            Run(tmp_path, judge=BrokenJudge(), max_epochs=2).fit()
    monkeypatch.setattr(evolution, "round_id_of", lambda *named: "now")
    again = Run(tmp_path, max_epochs=2).fit("step-00000003-round")
    assert [row.round_id for row in again.rounds()] == rounds_at_3
    assert again.rounds()[-1].child_sha == again.data.revision_sha
    assert again.evolution.state_dict()["format"] == 2
