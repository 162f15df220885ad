"""What a round is made of: the parts that never change, which round it is, who watches it, and what it counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from evolvedirector.errors import RunError
from evolvedirector.evolution.budget import Budget, allowance_of
from evolvedirector.evolution.host import StudentPart
from evolvedirector.execution.executor import Executor, Tenants
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.judges.judge import Judge
from evolvedirector.policies.policy import Policy
from evolvedirector.records import Allowance, Prompt, RoundFigures, RoundInfo
from evolvedirector.records.buckets import BucketSize, bucket_of_prompt
from evolvedirector.records.part import Part
from evolvedirector.store.dataset import DatasetStore
from evolvedirector.store.ledger import Ledger, Spend
from evolvedirector.teachers.teacher import Teacher
from evolvedirector.transport.fault import without_secrets
from evolvedirector.writers.prompt_writer import PromptWriter

if TYPE_CHECKING:
    from evolvedirector.models.embedding_part import EmbeddingPart

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class RoundParts:
    """Collect who takes part in the rounds of a run, and under which terms.

    Args:
        store: The evolving dataset; this process is its only writer.
        executor: Carries requests to the parts.
        student: Draws.
        teachers: By name, in order of preference.
        judge: Looks.
        writer: Writes prompts.
        policy: Decides.
        budget: Limits of spending.
        image_size_px: Size asked for where a prompt names none.
        rewards: By name; asked where the policy's plan wants scores.
        judge_health: How the judge is checked before it decides; None trusts it.
        tie_margin: Distance from 1/2 up to which a preference of the judge is a tie.
        teacher_prices_usd: What the teachers say an image of theirs costs, by name; those who say nothing are left out.
        embedder: Embeds what is about to be published. None: nobody does.
        buckets: Sizes (width, height) in px to ask for where a prompt names none, evenly over the prompts, in place of
            `image_size_px`. Empty: none.
        spare_drawings: Further drawings of each candidate made with the first, for a student that draws at one time
            alone. None: it draws whenever it is asked.
    """

    store: DatasetStore
    executor: Executor
    student: StudentPart
    teachers: Mapping[str, Teacher]
    judge: Judge
    writer: PromptWriter
    policy: Policy
    budget: Budget
    image_size_px: int
    rewards: Mapping[str, Part] = field(default_factory=dict)
    judge_health: JudgeHealth | None = None
    tie_margin: float = 0.0
    teacher_prices_usd: Mapping[str, float] = field(default_factory=dict)
    buckets: Sequence[BucketSize] = ()
    embedder: EmbeddingPart | None = None
    spare_drawings: int | None = None
    judge_fingerprint: str = field(init=False)
    """Part of the key of every look."""
    teacher_fingerprints: Mapping[str, str] = field(init=False)
    """By name; part of the name of every image asked for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "judge_fingerprint", self.judge.fingerprint)
        fingerprints = {name: teacher.fingerprint for name, teacher in self.teachers.items()}
        object.__setattr__(self, "teacher_fingerprints", fingerprints)

    @property
    def ledger(self) -> Ledger:
        """Return the books of the dataset."""
        return self.store.ledger

    def size_of(self, prompt: Prompt) -> tuple[int, int]:
        """Return (width, height) in px to ask for: the same in every round, so that images can be compared."""
        if self.buckets and not (prompt.width_px and prompt.height_px):
            return bucket_of_prompt(prompt.id, self.buckets)
        return prompt.width_px or self.image_size_px, prompt.height_px or self.image_size_px


def tenants_of(
    student: StudentPart,
    teachers: Mapping[str, Teacher],
    judge: Judge,
    writer: PromptWriter,
    rewards: Mapping[str, Part] | None = None,
    embedder: EmbeddingPart | None = None,
) -> Tenants:
    """Say who works in which phase of a round, for an executor."""
    return {
        **({} if embedder is None else {"embed": {"embedder": embedder}}),
        "write": {"writer": writer},
        "render": {"student": student},
        "judge": {"judge": judge},
        "teach": teachers,
        "score": rewards or {},
    }


class RoundInterrupted(RunError):
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


@dataclass(frozen=True, slots=True)
class RoundWatch:
    """Let somebody watch a round and stop it between two units of work.

    Args:
        stop: Returns the reason to stop now, or None.
        report: Receives the progress after each unit.
        go_on: How to go on after a stop, for the message.
        drawn: Called when the student has drawn all that it will be asked for, where it draws at one time alone.
    """

    stop: Callable[[], str | None] = lambda: None
    report: Callable[[Progress], None] = lambda progress: None
    go_on: str = "continue with `--ckpt_path last`"
    drawn: Callable[[], None] = lambda: None

    def check(self) -> None:
        """Go on unless someone asked to stop.

        Raises:
            RoundInterrupted: Someone did.
        """
        reason = self.stop()
        if reason:
            raise RoundInterrupted(
                f"The round was interrupted: {reason}. Everything bought and judged is recorded; {self.go_on}."
            )


@dataclass(frozen=True, slots=True)
class Round:
    """One round, or one purchase of seeds, under way.

    Args:
        parts: Who takes part.
        info: Which round it is and what is known as it begins.
        watch: Who watches it.
        figures: What happened so far; kept with the round in the ledger.
    """

    parts: RoundParts
    info: RoundInfo
    watch: RoundWatch = field(default_factory=RoundWatch)
    figures: RoundFigures = field(default_factory=RoundFigures)

    def allowance(self) -> Allowance:
        """Say what this round may still spend."""
        ledger = self.parts.ledger
        return allowance_of(self.parts.budget, ledger.spend(), ledger.spend(self.info.round_id))

    def note_faults(self, part: str, reasons: Iterable[str]) -> None:
        """Record answers that could not be used, so that an outage stands on the screen and in the books.

        Args:
            part: `judge`, `writer`, or `teacher` and its name.
            reasons: One for each answer, as they came; keys and addresses' queries are taken out.
        """
        said = [without_secrets(reason).strip() or "no reason given" for reason in reasons]
        self.parts.ledger.faults.add(self.info.round_id, part, said)

    def opening_allowance(self) -> Allowance:
        """Say what this round could spend when it began: the same for a round that is being finished after a kill."""
        ledger = self.parts.ledger
        spent, here = ledger.spend(), ledger.spend(self.info.round_id)
        before = Spend(
            spent.teacher_calls - here.teacher_calls,
            spent.judge_calls - here.judge_calls,
            spent.lost_calls - here.lost_calls,
            spent.cost_usd - here.cost_usd,
        )
        return allowance_of(self.parts.budget, before, Spend())

    def units(self, items: Sequence[Item], phase: str, size: int) -> Iterator[Sequence[Item]]:
        """Cut work into short units; between them report and stop when asked to.

        Args:
            items: The work.
            phase: What it is called in reports.
            size: Items per unit.
        """
        for start in range(0, len(items), size):
            self.watch.check()
            yield items[start : start + size]
            spend = self.parts.ledger.spend(self.info.round_id)
            done = min(start + size, len(items))
            self.watch.report(Progress(phase, done, len(items), spend.judge_calls, spend.teacher_calls, spend.cost_usd))
        self.watch.check()
