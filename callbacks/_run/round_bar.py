"""How a round is doing, while it runs and in one line when it is over."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from rich.progress import Progress as Progressing
from tqdm.auto import tqdm

from evolvedirector.callbacks._run.round_line import RoundOutcome, line_of, scalars_of
from evolvedirector.callbacks._run.to_loggers import log_figures
from evolvedirector.evolution.round_parts import Progress
from evolvedirector.records import RoundInfo

if TYPE_CHECKING:
    from evolvedirector.store.dataset import DatasetStore


class RoundBar:
    """Show candidates judged, images bought, spend and time left in a bar of its own; say nothing without a bar.

    Args:
        trainer: Its progress bar switched off switches this one off.
        info: The round.
        seeding: Whether only seeds are bought.
        name: What it is called. None: by the two.
    """

    def __init__(self, trainer: pl.Trainer, info: RoundInfo, seeding: bool, name: str | None = None) -> None:
        of = f"/{info.rounds}" if info.rounds else ""
        self._name = name or ("seed prompts" if seeding else f"round {info.index + 1}{of}")
        self._round_id = info.round_id
        self._started_from = info.revision_sha
        self._trainer = trainer
        self._bar: tqdm | _RichLine | None = None
        self._work = ("", 0)  # phase and its units
        self._began = time.monotonic()

    def __enter__(self) -> RoundBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def report(self, progress: Progress) -> None:
        """Move the bar; each phase has its own, with its own estimate of the time left."""
        if self._trainer.progress_bar_callback is None:
            return
        work = (progress.phase, progress.total)  # one phase can come again with other work
        if self._bar is None or work != self._work or progress.done < self._bar.n:
            self._close()
            self._work = work
            self._bar = self._open(f"{self._name} {progress.phase}", progress.total)
        self._bar.set_postfix_str(
            f"judged {progress.judged}, bought {progress.bought}, ${progress.cost_usd:.2f}", refresh=False
        )
        self._bar.update(progress.done - self._bar.n)

    def _open(self, name: str, total: int) -> tqdm | _RichLine:
        # Two live displays on one terminal overwrite each other, so a rich display takes the round in as one more line.
        rich = getattr(self._trainer.progress_bar_callback, "progress", None)
        if isinstance(rich, Progressing) and rich.live.is_started:
            return _RichLine(rich, name, total)
        return tqdm(total=total, desc=name, leave=False, dynamic_ncols=True, disable=None)

    def finish(self, store: DatasetStore, revision_sha: str, budget_teacher_calls: int | None = None) -> None:
        """Print one line for the round, and send its figures to the loggers.

        Args:
            store: The dataset, with its ledger.
            revision_sha: The revision that the round published.
            budget_teacher_calls: Limit of teacher calls, for the line. None: no limit.
        """
        self._close()
        ledger = store.ledger
        row = ledger.rounds.get(self._round_id)
        outcome = RoundOutcome(
            figures=row.figures if row else None,
            before=store.state(self._started_from),
            after=store.state(revision_sha),
            spent=ledger.spend(self._round_id),
            spent_in_all=ledger.spend(),
            budget_teacher_calls=budget_teacher_calls,
            faults=ledger.faults.of(self._round_id),
        )
        if row is not None or outcome.spent.teacher_calls or outcome.faults:
            print(line_of(self._name, outcome, time.monotonic() - self._began), flush=True)
            log_figures(self._trainer, scalars_of(outcome))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _RichLine:
    """One line of a rich display, with tqdm's words."""

    def __init__(self, display: Progressing, name: str, total: int) -> None:
        self._display = display
        self._name = name
        self._task = display.add_task(name, total=total)
        self.n = 0

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        """Show a text behind the name."""
        self._display.update(self._task, description=f"{self._name} ({text})", refresh=refresh)

    def update(self, steps: int) -> None:
        """Move on."""
        self.n += steps
        self._display.update(self._task, advance=steps, refresh=True)

    def close(self) -> None:
        """Take the line away."""
        self._display.remove_task(self._task)
