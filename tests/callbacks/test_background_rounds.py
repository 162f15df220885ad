"""Rounds beside training: which revision is read when, what is bought, and how they end and go on."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.callbacks._run import background
from evolvedirector.errors import UserError
from evolvedirector.evolution import Budget
from evolvedirector.evolution.background_rounds import BackgroundRounds
from evolvedirector.policies import ScreeningPolicy, Weighting
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.store import DatasetStore
from tests.callbacks.test_evolution_resume import PER_EPOCH, Run
from tests.toys import ToyJudge, ToyTeacher, ToyWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")


def beside(folder: Path, **settings: Any) -> Run:
    lag = settings.pop("lag", None) or BackgroundRounds()
    settings = {"max_epochs": 6, **settings}
    return Run(folder, mode="background", background=lag, **settings)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if "background" in thread.name]


def changes(run: Run) -> list[int]:
    """List the epochs that began to read another revision."""
    seen = {step // PER_EPOCH: revision for step, (revision, _) in sorted(run.student.seen.items())}
    return [epoch for epoch, revision in seen.items() if seen.get(epoch - 1, revision) != revision]


def test_training_that_waits_for_the_background_is_training_between_epochs(tmp_path: Path) -> None:
    waits = Run(tmp_path / "waits", max_epochs=3).fit()
    zero = beside(tmp_path / "zero", max_epochs=3, lag=BackgroundRounds(stale_epochs=0)).fit()
    assert zero.student.seen == waits.student.seen and zero.teacher.asked == waits.teacher.asked
    with DatasetStore(waits.root) as one, DatasetStore(zero.root) as other:
        assert one.current() == other.current() and one.ledger.spend() == other.ledger.spend()
    assert all(torch.equal(a, b) for a, b in zip(zero.student.parameters(), waits.student.parameters(), strict=True))


def test_a_revision_is_read_so_many_epochs_after_its_drawings(tmp_path: Path) -> None:
    """A round that nobody would train on is not held: it would be read after the sixth epoch."""
    run = beside(tmp_path, every_n_epochs=2, lag=BackgroundRounds(stale_epochs=2)).fit()
    assert [row.global_step // PER_EPOCH for row in run.rounds()] == [2]
    assert changes(run) == [4]


LAGS = {
    "as usual": (1, 5, BackgroundRounds()),
    "written beside": (3, 10, BackgroundRounds(write_epochs=1, stale_epochs=2)),
}


@pytest.fixture(scope="module", params=["as usual", pytest.param("written beside", marks=pytest.mark.slow)])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any]]:
    """A run that nobody interrupted, and its settings."""
    every, epochs, lag = LAGS[request.param]
    settings = {"every_n_epochs": every, "lag": lag, "max_epochs": epochs}
    return beside(tmp_path_factory.mktemp("whole"), every_n_train_steps=2, **settings).fit(), settings


def test_any_checkpoint_goes_on_as_if_never_interrupted(whole: tuple[Run, dict[str, Any]]) -> None:
    """Also from those that were saved while a round was under way, whatever it had done by then."""
    reference, settings = whole
    names = sorted(path.parent.name for path in (reference.folder / "checkpoints").glob("*/COMMIT.json"))
    rounds = [name for name in names if name.endswith("-round")]
    assert len(rounds) >= 2 and len(names) > 8
    for name in [rounds[-1], *names[1::4]]:
        step = int(name.split("-")[1])
        again = beside(reference.folder, **settings).fit(name)
        assert again.student.seen == {at: batch for at, batch in reference.student.seen.items() if at >= step}, name
        assert again.teacher.asked == [] and again.judge.asked == 0, name
        assert all(
            torch.equal(a, b) for a, b in zip(again.student.parameters(), reference.student.parameters(), strict=True)
        )


def test_the_thread_works_on_the_device_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's current device is each thread's own, the first one in a new one: another run's, perhaps."""
    chosen: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    background.work_on(torch.device("cpu"))
    background.work_on(torch.device("cuda", 1))
    assert chosen == [torch.device("cuda", 1)]
    seen: list[tuple[str, torch.device]] = []
    monkeypatch.setattr(background, "work_on", lambda device: seen.append((threading.current_thread().name, device)))
    beside(tmp_path, max_epochs=3).fit()
    assert seen == [("round 1 in the background", torch.device("cpu"))]


# ---- how rounds end


class Gated(ToyTeacher):
    """Draws the seeds at once, and what a round buys when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        if self.asked:
            assert self.gate.wait(20)
        yield from super().generate(requests)


class At(pl.Callback):
    """Does something as an epoch begins."""

    def __init__(self, epoch: int, do: Any) -> None:
        self.epoch, self.do = epoch, do

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            self.do()


def test_as_soon_as_ready(tmp_path: Path) -> None:
    teacher = Gated()

    def finish() -> None:
        teacher.gate.set()
        while any("in the background" in thread.name for thread in threading.enumerate()):
            time.sleep(0.01)

    lag = BackgroundRounds(stale_epochs=3, as_soon_as_ready=True)
    run = beside(tmp_path, teacher=teacher, lag=lag, every_n_epochs=3, max_epochs=7, callbacks=[At(4, finish)]).fit()
    assert changes(run) == [5], "drawn after epoch 3, ready in the fifth"


def test_training_waits_at_the_bound_and_says_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, logged = Gated(), {}
    monkeypatch.setattr(background, "log_figures", lambda trainer, figures: logged.update(figures))

    def open_late() -> None:
        threading.Timer(0.5, teacher.gate.set).start()

    beside(tmp_path, teacher=teacher, max_epochs=3, callbacks=[At(1, open_late)]).fit()
    assert logged["rounds/stale_epochs"] == 1
    assert 0.2 < logged["rounds/waited_s"] <= logged["rounds/duration_s"]
    assert logged["rounds/idle_share"] == logged["rounds/waited_s"] / logged["rounds/duration_s"]
    assert "It is read 1 epochs after its drawings; training waited" in capsys.readouterr().out


def test_a_failure_in_the_background_ends_the_run_at_the_next_boundary(tmp_path: Path) -> None:
    class Broken(Gated):
        def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
            for number, reply in enumerate(super().generate(requests)):
                if self.gate.is_set() and number == 2:
                    raise ConnectionError("the line broke")
                yield reply

    teacher = Broken()
    run = beside(tmp_path, teacher=teacher, max_epochs=4, callbacks=[At(1, teacher.gate.set)])
    with pytest.raises(ConnectionError, match="the line broke"):
        run.fit()
    assert run.trainer.global_step == 2 * PER_EPOCH, "the epoch beside the round was trained"
    again = beside(tmp_path, max_epochs=4).fit("step-00000003")
    assert again.trainer.global_step == 4 * PER_EPOCH and changes(again) == [2, 3]


@pytest.mark.slow
def test_a_run_that_fails_elsewhere_ends_its_round_and_goes_on_with_it(tmp_path: Path) -> None:
    reference = beside(tmp_path / "whole", max_epochs=4).fit()
    teacher = Gated()

    def fail() -> None:
        teacher.gate.set()
        raise ConnectionError("the disk is gone")

    run = beside(tmp_path / "cut", teacher=teacher, max_epochs=4, callbacks=[At(1, fail)])
    with pytest.raises(ConnectionError):
        run.fit()
    again = beside(tmp_path / "cut", max_epochs=4).fit("step-00000003")
    assert again.data.revision_sha == reference.data.revision_sha
    assert sorted(run.teacher.asked + again.teacher.asked) == sorted(reference.teacher.asked), "nothing bought twice"


@pytest.mark.slow
def test_another_judge_at_a_resume_holds_a_round_of_its_own(tmp_path: Path) -> None:
    """The student draws for it when the next epoch ends, and it is read as long after that as any other."""
    beside(tmp_path, max_epochs=3, every_n_train_steps=2).fit()

    class Other(ToyJudge):
        fingerprint = "another judge"

    again = beside(tmp_path, max_epochs=5, judge=Other()).fit("step-00000004")
    assert [row.global_step for row in again.rounds()][:2] == [3, 3]
    assert changes(again)[0] == 3, "drawn at the end of the second epoch, read one later"


def test_it_goes_on_as_rounds_between_epochs_where_the_mode_is_changed(tmp_path: Path) -> None:
    beside(tmp_path, max_epochs=3, every_n_train_steps=2).fit()
    again = Run(tmp_path, max_epochs=4).fit("step-00000004")
    assert again.trainer.global_step == 4 * PER_EPOCH and len(changes(again)) >= 1


# ---- what is looked at, and what is refused


def made(**settings: Any) -> EvolutionCallback:
    return EvolutionCallback({"toy": ToyTeacher()}, ToyJudge(), ToyWriter(), budget=Budget(9), **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "backgound"}, "mode is 'backgound'. Allowed: between_epochs, background"),
        ({"background": BackgroundRounds()}, "`background` is set, but mode is between_epochs"),
        ({"mode": "background", "offload_student": "all"}, "offload_student is 'all'.*`offload_student: none`"),
        ({"mode": "background", "background": BackgroundRounds(stale_epochs=2)}, "takes 2 epochs.*every_n_epochs: 2"),
        ({"mode": "background", "background": {"stale": 2}}, "no setting 'stale'"),
        (
            {"mode": "background", "policy": ScreeningPolicy(weighting=Weighting(loss_power=0.5))},
            "draws by loss.*loss_power: 0",
        ),
    ],
)
def test_what_cannot_work_is_one_sentence(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        made(**settings)


def test_numbers_below_0_are_refused() -> None:
    with pytest.raises(UserError, match="stale_epochs is -1"):
        BackgroundRounds(stale_epochs=-1)


def test_check_shows_the_mode_and_the_lag() -> None:
    assert made().plan_summary()["mode"] == "between epochs"
    lag = BackgroundRounds(stale_epochs=2, write_epochs=1)
    told = made(mode="background", background=lag, every_n_epochs=3).plan_summary()["mode"]
    assert told == "in the background (written in 1, read always 2 epochs after the drawings)"
