"""What a round comes to: one line for people, and figures for loggers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evolvedirector.records import DatasetState
from evolvedirector.store.ledger.rows import Spend


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What a finished round did and what the dataset and the spending are after it.

    Args:
        figures: Counts that the ledger keeps of the round; empty where only seeds were bought.
        before: The dataset that the round started from.
        after: The dataset that it published.
        spent: What the round itself spent.
        spent_in_all: What was spent under this root so far.
        budget_teacher_calls: Limit of teacher calls. None: no limit.
    """

    figures: Mapping[str, Any]
    before: DatasetState
    after: DatasetState
    spent: Spend
    spent_in_all: Spend
    budget_teacher_calls: int | None = None

    @property
    def kept(self) -> int:
        """Bought images that entered the dataset."""
        return _samples(self.after) - _samples(self.before)

    @property
    def screened(self) -> int:
        """Images of prompts never trained on that the judge could read."""
        return int(self.figures.get("screen: student", 0) + self.figures.get("screen: teacher", 0))

    @property
    def compared(self) -> int:
        """Comparisons of student and teacher with a readable answer."""
        return int(sum(self.figures.get(f"compare: {verdict}", 0) for verdict in ("student", "teacher", "tie")))

    @property
    def win_rate(self) -> float | None:
        """The student's share of the comparisons, a tie being one half; None without any."""
        wins = self.figures.get("compare: student", 0) + self.figures.get("compare: tie", 0) / 2
        return wins / self.compared if self.compared else None


def line_of(name: str, outcome: RoundOutcome, seconds: float) -> str:
    """Return the one line that a round leaves on the screen.

    Args:
        name: `round 3/11`, say.
        outcome: What it did.
        seconds: How long it took.
    """
    figures, retired = outcome.figures, _entered(outcome, "retired")
    bought = f"bought {outcome.spent.teacher_calls} images, kept {outcome.kept}"
    parts = []
    if figures.get("skipped"):
        parts.append("skipped, the judge cannot be trusted")
    elif figures:
        screened = f", screened {outcome.screened}: {figures.get('screen: teacher', 0)} failed"
        parts.append(f"wrote {figures.get('written', 0)} prompts{screened if outcome.screened else ''}")
        parts += [bought, f"mastered {_entered(outcome, 'mastered')}, retired {retired}"]
    else:
        parts += [bought, f"retired {retired}"]
    if outcome.win_rate is not None:
        parts.append(f"student wins {outcome.win_rate:.2f} of {outcome.compared}")
    if (error := figures.get("judge error")) is not None:
        parts.append(f"judge errs {error:.2f}")
    of = "" if outcome.budget_teacher_calls is None else f" of {outcome.budget_teacher_calls:,}"
    total = outcome.spent_in_all
    parts.append(f"so far {total.teacher_calls:,}{of} calls, ${total.cost_usd:,.2f}")
    return f"{name}: {'; '.join(parts)} ({seconds:.0f} s)"


def scalars_of(outcome: RoundOutcome) -> dict[str, float | None]:
    """Return a round's figures under the names that loggers show; None is what the round did not measure."""
    figures, total = outcome.figures, outcome.spent_in_all
    screened, failed = outcome.screened, figures.get("screen: teacher", 0)
    return {
        "rounds/written": figures.get("written", 0),
        "rounds/screened": screened,
        "rounds/failed_share": failed / screened if screened else None,
        "rounds/bought": outcome.spent.teacher_calls,
        "rounds/kept": outcome.kept,
        "rounds/mastered": _entered(outcome, "mastered"),
        "rounds/retired": _entered(outcome, "retired"),
        "rounds/skipped": figures.get("skipped", 0),
        "rounds/win_rate": outcome.win_rate,
        "judge/error": figures.get("judge error"),
        "judge/unreadable": figures.get("judge unreadable"),
        "judge/swap_consistency": figures.get("judge swap consistency"),
        **{f"dataset/{state}": len(outcome.after.in_state(state)) for state in ("live", "mastered", "retired")},  # type: ignore[arg-type]
        "cost/usd": total.cost_usd,
        "cost/teacher_calls": total.teacher_calls,
        "cost/looks": total.judge_calls,
    }


def _samples(state: DatasetState) -> int:
    return sum(entry.sample is not None for entry in state.entries.values())


def _entered(outcome: RoundOutcome, state: str) -> int:
    """Count prompts that are in a state now and were not before."""
    before = outcome.before.entries
    return sum(
        entry.state == state and (key not in before or before[key].state != state)
        for key, entry in outcome.after.entries.items()
    )
