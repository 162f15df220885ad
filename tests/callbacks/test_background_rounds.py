"""Rounds beside training: which revision is read when, what is bought, and how they end and go on."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from evolvedirector.evolution.background_rounds import BackgroundRounds
from evolvedirector.store import DatasetStore
from tests.callbacks.test_evolution_resume import EPOCHS, PER_EPOCH, Run

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")


def beside(folder: Path, **settings: Any) -> Run:
    lag = settings.pop("lag", None) or BackgroundRounds()
    settings = {"max_epochs": 6, **settings}
    return Run(folder, mode="background", background=lag, **settings)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if "background" in thread.name]


def revision_by_epoch(run: Run) -> list[str]:
    return [run.student.seen[step][0] for step in sorted(run.student.seen) if step % PER_EPOCH == 0]


def test_training_that_waits_for_the_background_is_training_between_epochs(tmp_path: Path) -> None:
    waits = Run(tmp_path / "waits", max_epochs=EPOCHS).fit()
    zero = beside(tmp_path / "zero", max_epochs=EPOCHS, lag=BackgroundRounds(stale_epochs=0)).fit()
    assert zero.student.seen == waits.student.seen and zero.teacher.asked == waits.teacher.asked
    with DatasetStore(waits.root) as one, DatasetStore(zero.root) as other:
        assert one.current() == other.current() and one.ledger.spend() == other.ledger.spend()
    assert all(torch.equal(a, b) for a, b in zip(zero.student.parameters(), waits.student.parameters(), strict=True))


def test_a_revision_is_read_so_many_epochs_after_its_drawings(tmp_path: Path) -> None:
    run = beside(tmp_path, every_n_epochs=2, lag=BackgroundRounds(stale_epochs=2), max_epochs=8).fit()
    seen = revision_by_epoch(run)
    assert [row.global_step // PER_EPOCH for row in run.rounds()] == [2, 4]
    assert [epoch for epoch in range(1, 8) if seen[epoch] != seen[epoch - 1]] == [4, 6]


LAGS = {
    "as usual": (1, BackgroundRounds()),
    "written beside": (3, BackgroundRounds(write_epochs=1, stale_epochs=2)),
}


@pytest.fixture(scope="module", params=list(LAGS))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any]]:
    """A run that nobody interrupted, and its settings."""
    every, lag = LAGS[request.param]
    settings = {"every_n_epochs": every, "lag": lag, "max_epochs": 8 if every > 1 else 5}
    return beside(tmp_path_factory.mktemp("whole"), every_n_train_steps=2, **settings).fit(), settings


def test_any_checkpoint_goes_on_as_if_never_interrupted(whole: tuple[Run, dict[str, Any]]) -> None:
    """Also from those that were saved while a round was under way, whatever it had done by then."""
    reference, settings = whole
    names = sorted(path.parent.name for path in (reference.folder / "checkpoints").glob("*/COMMIT.json"))
    rounds = [name for name in names if name.endswith("-round")]
    assert len(rounds) >= 2 and len(names) > 8
    for name in [*rounds, *names[::3]]:
        step = int(name.split("-")[1])
        again = beside(reference.folder, **settings).fit(name)
        assert again.student.seen == {at: batch for at, batch in reference.student.seen.items() if at >= step}, name
        assert again.teacher.asked == [] and again.judge.asked == 0, name
        assert all(
            torch.equal(a, b) for a, b in zip(again.student.parameters(), reference.student.parameters(), strict=True)
        )
