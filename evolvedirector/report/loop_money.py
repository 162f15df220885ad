"""What an accepted sample of a dataset root took: images asked for, looks and money, from the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolvedirector.report.history import read_history
from evolvedirector.report.rounds import rounds_story
from evolvedirector.report.spending import spending_of
from evolvedirector.store.ledger import Ledger
from evolvedirector.store.revision import RevisionFiles


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent, and what came of it.

    Args:
        images: Asked of teachers, refusals, failures and lost ones included.
        looks: Asked of the judge.
        cost_usd: Both together, as the ledger has them.
        accepted: Samples that entered the dataset for it.
    """

    images: int
    looks: int
    cost_usd: float
    accepted: int

    def each(self) -> dict[str, float] | None:
        """Return what one accepted sample took; None where there is none."""
        if not self.accepted:
            return None
        of = {"cost_usd": self.cost_usd, "images": self.images, "looks": self.looks}
        return {name: value / self.accepted for name, value in of.items()}


@dataclass(frozen=True, slots=True)
class LoopMoney:
    """What a root's samples took.

    Args:
        whole: Seeds and all rounds of the root; runs that forked from one root share its ledger.
        rounds: The rounds that led to the newest revision alone. None: none has ended.
        skipped: Rounds that a judge below its floors left out.
        price_of_image_usd: Mean of what an image cost, by teacher.
    """

    whole: Spent
    rounds: Spent | None
    skipped: int = 0
    price_of_image_usd: dict[str, float] = field(default_factory=dict)


def loop_money(root: Path) -> LoopMoney | None:
    """Read what the samples of a root took; None where it has no ledger or no revision.

    Args:
        root: Of the dataset; it is read, not changed.
    """
    files = RevisionFiles(root)
    sha = files.current()
    if sha is None or not (root / "ledger.sqlite").is_file():
        return None
    with Ledger.for_reading(root / "ledger.sqlite") as ledger:
        history, spending = read_history(ledger, files, sha), spending_of(ledger)
        story = [row for row in rounds_story(ledger, history, sha)["rounds"] if row["status"] != "unfinished"]
    teachers = {name for cells in spending["by_skill"].values() for name in cells}
    # what was imported was bought by nobody
    accepted = sum(count for step in history.steps for name, count in step["added"].items() if name in teachers)
    whole = Spent(spending["teacher_calls"], spending["judge_calls"], spending["cost_usd"], accepted)
    return LoopMoney(
        whole,
        _of_rounds(story) if story else None,
        sum(row["status"] == "skipped" for row in story),
        {name: _mean_price(spending, name) for name in sorted(teachers)},
    )


def _of_rounds(story: list[dict[str, Any]]) -> Spent:
    return Spent(
        sum(sum(row["calls"].values()) for row in story),
        sum(row["looks"] for row in story),
        sum(row["cost_usd"] for row in story),
        sum(sum(row["added"].values()) for row in story),
    )


def _mean_price(spending: dict[str, Any], teacher: str) -> float:
    cells = [cells[teacher] for cells in spending["by_skill"].values() if teacher in cells]
    calls = sum(calls for calls, _ in cells)
    return sum(cost for _, cost in cells) / calls if calls else 0.0
