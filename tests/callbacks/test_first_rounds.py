"""Rounds before the first training step: held once each, with a checkpoint first, and what they buy is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from evolvedirector.errors import UserError
from evolvedirector.evolution import Budget
from evolvedirector.evolution.schedule import RoundSchedule
from evolvedirector.store import DatasetStore
from tests.callbacks.test_evolution_resume import EPOCHS, PER_EPOCH, Run
from tests.toys import ToyTeacher

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")


def run(folder: Path, first_rounds: int = 2, **settings: Any) -> Run:
    made = Run(folder, **({"max_steps": EPOCHS * PER_EPOCH, "every_n_train_steps": 2} | settings))
    made.evolution.__init__(  # type: ignore[misc]
        made.evolution.teachers, made.judge, made.evolution.writer, made.evolution.policy, made.evolution.budget,
        every_n_epochs=2, first_rounds=first_rounds,
    )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("whole")).fit()


def same(one: Run, other: Run) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.student.parameters(), other.student.parameters(), strict=True))


def test_first_rounds_come_before_the_first_step_and_count(whole: Run) -> None:
    rows = whole.rounds()
    assert [(row.number, row.global_step) for row in rows] == [(0, 0), (1, 0), (2, 6)]
    with DatasetStore(whole.root) as store:
        assert store.revision(whole.student.seen[0][0]).number == 4  # the prompts, their images, two rounds
    assert whole.evolution._schedule.planned_rounds(None, EPOCHS * PER_EPOCH, PER_EPOCH) == 3
    assert whole.evolution.plan_summary()["rounds"] == "2 before training, every 2 epochs"


@pytest.mark.parametrize(
    "checkpoint", ["step-00000000-round", "step-00000000-round-2", "step-00000002", "step-00000003", "step-00000006"]
)
def test_a_run_goes_on_from_a_first_round_and_after_it(whole: Run, checkpoint: str) -> None:
    again = run(whole.folder).fit(checkpoint)
    step = int(checkpoint.split("-")[1])
    assert again.student.seen == {at: batch for at, batch in whole.student.seen.items() if at >= step}
    assert same(again, whole) and len(again.rounds()) == 3
    assert again.teacher.asked == [] and again.judge.asked == 0


def bought(made: Run) -> list[str]:
    with DatasetStore(made.root) as store:
        return sorted(prompt_id for prompt_id, _ in store.ledger.calls.images())


class Stops(ToyTeacher):
    """Fails after so many images, as a process that is killed does."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def generate(self, requests: Any) -> Any:
        for reply in super().generate(requests):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield reply


def test_one_that_was_cut_off_is_finished_and_buys_nothing_twice(whole: Run, tmp_path: Path) -> None:
    cut = run(tmp_path, teacher=Stops(15))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        cut.fit()
    assert not cut.student.seen
    again = run(tmp_path).fit(sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[-1])
    assert again.student.seen == whole.student.seen and same(again, whole)
    assert bought(again) == bought(whole) and len(again.rounds()) == 3


def test_nothing_is_held_where_nothing_may_be_bought(whole: Run) -> None:
    only_trains = run(whole.folder, budget=Budget(0)).fit("step-00000009")
    assert len(only_trains.rounds()) == 3


def test_first_rounds_are_part_of_all_rounds() -> None:
    assert RoundSchedule(2, 3, 2).planned_rounds(10, -1, None) == 3
    assert not RoundSchedule(1, 2, 2).is_due(1, rounds_done=2, trains_on=True)
    with pytest.raises(UserError, match=r"first_rounds is 3 and max_rounds 2.*Write `max_rounds: 3`"):
        RoundSchedule(1, 2, 3)
    with pytest.raises(UserError, match="first_rounds is -1. Allowed: 0 or more"):  # noqa: RUF043
        RoundSchedule(1, None, -1)
