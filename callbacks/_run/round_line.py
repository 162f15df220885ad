"""What a round comes to: one line for people, and figures for loggers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evolvedirector.records import DatasetState, RoundFigures, Verdict
from evolvedirector.report.judges import judge_sentence
from evolvedirector.store.ledger.faults import told_faults
from evolvedirector.store.ledger.rows import Fault, Spend


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What a finished round did and what the dataset and the spending are after it.

    Args:
        figures: Counts that the ledger keeps of the round; None where only seeds were bought.
        before: The dataset that the round started from.
        after: The dataset that it published.
        spent: What the round itself spent.
        spent_in_all: What was spent under this root so far.
        budget_teacher_calls: Limit of teacher calls. None: no limit.
        faults: Who gave no answer that could be used in it, and why.
    """

    figures: RoundFigures | None
    before: DatasetState
    after: DatasetState
    spent: Spend
    spent_in_all: Spend
    budget_teacher_calls: int | None = None
    faults: Sequence[Fault] = ()

    @property
    def kept(self) -> int:
        """Bought images that entered the dataset."""
        return _samples(self.after) - _samples(self.before)

    @property
    def screened(self) -> int:
        """Images of prompts never trained on that the judge could read."""
        return self.failed + (self.figures.screened["shows"] if self.figures else 0)

    @property
    def failed(self) -> int:
        """Those of them that do not show their prompt."""
        return self.figures.screened["lacks"] if self.figures else 0

    @property
    def compared(self) -> int:
        """Comparisons of student and teacher with a readable answer."""
        verdicts = self._verdicts
        return verdicts["student"] + verdicts["teacher"] + verdicts["tie"]

    @property
    def win_rate(self) -> float | None:
        """The student's share of the comparisons, a tie being one half; None without any."""
        wins = self._verdicts["student"] + self._verdicts["tie"] / 2
        return wins / self.compared if self.compared else None

    @property
    def _verdicts(self) -> Counter[Verdict]:
        return self.figures.compared if self.figures else Counter()


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
    if figures is None:
        parts += [bought, f"retired {retired}"]
    elif figures.skipped:
        parts.append(f"skipped, the judge {'answers nothing' if figures.judge_silent else 'cannot be trusted'}")
    elif figures.pairs:
        parts += _of_pairs(figures, outcome.failed, outcome.screened)
    else:
        screened = f", screened {outcome.screened}: {outcome.failed} failed"
        parts.append(f"wrote {figures.written} prompts{screened if outcome.screened else ''}")
        if not figures.written and figures.refused:
            parts[-1] += f" (no text: {', '.join(f'{cause} {count}' for cause, count in figures.refused.items())})"
        parts += [bought, f"mastered {_entered(outcome, 'mastered')}, retired {retired}"]
    if outcome.win_rate is not None:
        parts.append(f"student wins {outcome.win_rate:.2f} of {outcome.compared}")
    if figures is not None and (said := judge_sentence(figures)):
        parts.append(said)
    if unread := sum(fault.count for fault in outcome.faults if fault.part == "judge"):
        parts.append(f"{unread} answers of the judge unread")
    if outcome.faults:
        parts.append(f"no answer: {told_faults(outcome.faults)}")
    of = "" if outcome.budget_teacher_calls is None else f" of {outcome.budget_teacher_calls:,}"
    total = outcome.spent_in_all
    if figures is not None and figures.pairs:
        return f"{name}: {'; '.join(parts)} ({seconds:.0f} s)"
    parts.append(f"so far {total.teacher_calls:,}{of} calls, ${total.cost_usd:,.2f}")
    return f"{name}: {'; '.join(parts)} ({seconds:.0f} s)"


def _of_pairs(figures: RoundFigures, failed: int, looked: int) -> list[str]:
    """Say what a round over subject pairs saw and built."""
    told, kept = figures.pairs, figures.pairs["kept"]
    named = ", ".join(f"{count} {kind}" for kind, count in kept.items())
    parts = [f"looked at {looked} drawings: {failed} failed"] if looked else []
    asked = sum(told["asked"].values())
    parts.append(f"asked for {asked} pairs, kept {sum(kept.values())}{f' ({named})' if named else ''}")
    if told["open"]:
        parts.append(f"{told['open']} left open")
    return parts


def scalars_of(outcome: RoundOutcome) -> dict[str, float | None]:
    """Return a round's figures under the names that loggers show; None is what the round did not measure."""
    figures, total = outcome.figures or RoundFigures(), outcome.spent_in_all
    screened, failed, accuracy = outcome.screened, outcome.failed, figures.judge_accuracy
    return {
        "rounds/written": figures.written,
        "rounds/screened": screened,
        "rounds/failed_share": failed / screened if screened else None,
        "rounds/bought": outcome.spent.teacher_calls,
        "rounds/kept": sum(figures.pairs["kept"].values()) if figures.pairs else outcome.kept,
        "rounds/mastered": _entered(outcome, "mastered"),
        "rounds/retired": _entered(outcome, "retired"),
        "rounds/skipped": int(figures.skipped),
        "rounds/win_rate": outcome.win_rate,
        "judge/error": accuracy.error if accuracy.is_known else None,
        "judge/sensitivity": accuracy.sensitivity,
        "judge/specificity": accuracy.specificity,
        "judge/unreadable": figures.judge.get("unreadable"),
        "judge/swap_consistency": figures.judge.get("swap consistency"),
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
