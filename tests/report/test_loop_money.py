"""What an accepted sample took, from the books of a root."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolvedirector.evolution import Budget
from evolvedirector.report.loop_money import Spent, loop_money
from evolvedirector.store import DatasetStore
from tests.callbacks.test_evolution_resume import Run
from tests.toys import ToyTeacher

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")


def test_an_accepted_sample_takes_what_the_ledger_says(tmp_path: Path) -> None:
    teacher = ToyTeacher(cost_usd=0.5)
    run = Run(tmp_path, teacher=teacher, max_epochs=2, judge_health=False, budget=Budget(price_per_look_usd=0.25)).fit()
    money = loop_money(run.root)
    assert money is not None and money.rounds is not None
    asked, looks = len(teacher.asked), run.judge.asked
    with DatasetStore(run.root) as store:
        samples = sum(1 for entry in store.state(store.current() or "").entries.values() if entry.sample)
    assert money.whole == Spent(asked, looks, asked * 0.5 + looks * 0.25, samples)
    bought = asked - 6  # the seeds
    assert (money.rounds.images, money.rounds.looks) == (bought, looks)
    assert money.rounds.cost_usd == bought * 0.5 + looks * 0.25 and money.skipped == 0
    assert money.whole.each() == {
        "cost_usd": money.whole.cost_usd / samples, "images": asked / samples, "looks": looks / samples,
    }  # fmt: skip
    assert money.price_of_image_usd == {"toy": 0.5}


def test_nothing_accepted_has_no_price() -> None:
    assert Spent(3, 4, 1.0, 0).each() is None


def test_a_root_without_books_says_nothing(tmp_path: Path) -> None:
    assert loop_money(tmp_path) is None
