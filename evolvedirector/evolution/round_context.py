"""What every step of a round works with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from evolvedirector.evolution.budget import Budget, allowance_of
from evolvedirector.execution.executor import Crew
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.policies.policy import Policy
from evolvedirector.records import Allowance, ImageRequest, Prompt, RoundFigures, RoundInfo
from evolvedirector.store.dataset import DatasetStore
from evolvedirector.store.ledger.calls import Spend
from evolvedirector.writers.prompt_writer import PromptWriter

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class ImageGenerator(Protocol):
    """What `EvolutionCallback` needs of any LightningModule."""

    def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        """Draw one uint8 image (3, height, width) per request; the same request gives the same image.

        A module may carry an integer `generation_chunk_size`: requests then arrive in multiples of it, cut from the
        global list before ranks are assigned (the last chunk is padded by repeating a request).
        """
        ...


@runtime_checkable
class EvolvingData(Protocol):
    """What `EvolutionCallback` needs of any LightningDataModule."""

    data_root: Path

    @property
    def revision_sha(self) -> str:
        """Name the revision that training reads now."""
        ...

    def open_revision(self, revision_sha: str) -> None:
        """Make the next `train_dataloader()` read this revision."""
        ...


Item = TypeVar("Item")


class RoundInterrupted(RuntimeError):
    """A round was asked to stop between two units; everything done so far is recorded, and repeating it goes on."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a round is, for a progress bar."""

    phase: str
    done: int
    total: int
    judged: int
    bought: int
    cost_usd: float


@dataclass(slots=True)
class RoundContext:
    """Collect the parts of one round.

    Args:
        store: The evolving dataset; this process is its only writer.
        crew: Who renders, teaches and judges.
        policy: Who decides.
        writer: Who writes prompts.
        budget: Limits of spending.
        info: Which round this is.
        teacher_fingerprints: By teacher name, in order of preference.
        judge_fingerprint: Part of the key of every look.
        image_size_px: Size asked for where a prompt names none.
        judge_health: How the judge is checked before it decides; None trusts it.
        tie_margin: Distance from 1/2 up to which a preference of the judge is a tie.
        stop: Returns the reason to stop now, or None; asked between units.
        report: Receives the progress after each unit.
        teacher_prices_usd: What the teachers say an image of theirs costs, by name; those who say nothing are left out.
    """

    store: DatasetStore
    crew: Crew
    policy: Policy
    writer: PromptWriter
    budget: Budget
    info: RoundInfo
    teacher_fingerprints: Mapping[str, str]
    judge_fingerprint: str
    image_size_px: int
    judge_health: JudgeHealth | None = None
    tie_margin: float = 0.0
    stop: Callable[[], str | None] = lambda: None
    report: Callable[[Progress], None] = lambda progress: None
    teacher_prices_usd: Mapping[str, float] = field(default_factory=dict)
    figures: RoundFigures = field(default_factory=RoundFigures)
    """What happened; kept with the round in the ledger."""

    def allowance(self) -> Allowance:
        """Say what this round may still spend."""
        ledger = self.store.ledger
        return allowance_of(self.budget, ledger.spend(), ledger.spend(self.info.round_id))

    def opening_allowance(self) -> Allowance:
        """Say what this round could spend when it began: the same for a round that is being finished after a kill."""
        ledger = self.store.ledger
        spent, here = ledger.spend(), ledger.spend(self.info.round_id)
        before = Spend(
            spent.teacher_calls - here.teacher_calls,
            spent.judge_calls - here.judge_calls,
            spent.lost_calls - here.lost_calls,
            spent.cost_usd - here.cost_usd,
        )
        return allowance_of(self.budget, before, Spend())

    def units(self, items: Sequence[Item], phase: str, size: int | None = None) -> Iterator[Sequence[Item]]:
        """Cut work into short units; between them report and stop when asked to.

        Args:
            items: The work.
            phase: What it is called in reports.
            size: Items per unit. None: the crew's own number.
        """
        size = size or self.crew.unit
        for start in range(0, len(items), size):
            self.check_stop()
            yield items[start : start + size]
            spend = self.store.ledger.spend(self.info.round_id)
            self.report(
                Progress(
                    phase,
                    min(start + size, len(items)),
                    len(items),
                    spend.judge_calls,
                    spend.teacher_calls,
                    spend.cost_usd,
                )
            )
        self.check_stop()

    def check_stop(self) -> None:
        """Raise when someone asked to stop."""
        reason = self.stop()
        if reason:
            raise RoundInterrupted(
                f"The round was interrupted: {reason}. Everything bought and judged is recorded; "
                "continue with `--ckpt_path last`."
            )

    def size_of(self, prompt: Prompt) -> tuple[int, int]:
        """Return (width, height) in px to ask for."""
        return prompt.width_px or self.image_size_px, prompt.height_px or self.image_size_px


def in_groups(items: Iterable[Item], rows: int = 256, seconds: float = 0.02) -> Iterator[list[Item]]:
    """Group items as they arrive: one commit per group instead of one per item.

    A group is handed on when it has `rows` items, or when `seconds` have passed since the last one was: items that come
    slowly go on one by one, at once. What arrived before the source failed is handed on before the failure.
    """
    group: list[Item] = []
    handed_on = time.monotonic()
    try:
        for item in items:
            group.append(item)
            if len(group) >= rows or time.monotonic() - handed_on >= seconds:
                yield group
                group = []
                handed_on = time.monotonic()
    except Exception:
        if group:
            yield group
        raise
    if group:
        yield group
