"""Measure the whole loop: a run's first round as `fit` holds it, in a dataset root and a run folder that vanish."""

from __future__ import annotations

import argparse
import pkgutil
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.callbacks._run.loop_clock import LoopClock, RoundTimes
from evolvedirector.callbacks._run.phase_memory import PhaseMemory
from evolvedirector.commands.bench_loop_figures import PHASE_OF, LoopFigures, PartRate, answer_of, not_in_books, one
from evolvedirector.commands.bench_run import BenchRun
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.errors import RunError, UserError
from evolvedirector.execution.executor import Phase
from evolvedirector.execution.metered import Meter, MeteredCluster, withheld_replies
from evolvedirector.execution.signals import EndBySignal
from evolvedirector.judges.no_judge import NoJudge
from evolvedirector.planning.loop_time import LoopTime
from evolvedirector.planning.roles import Evolves
from evolvedirector.planning.unasked import AskingCost, asking_cost
from evolvedirector.records import Prompt, WriteReply, WriteRequest
from evolvedirector.records.part import requests_in_flight_of
from evolvedirector.report.loop_money import loop_money
from evolvedirector.store.paths import user_path
from evolvedirector.store.prompt_files import read_prompts
from evolvedirector.store.revision import RevisionFiles
from evolvedirector.writers import SkillWriter

SHORT_EPOCH = 10
"""Batches of an epoch before a round for which training waits: what a whole epoch takes follows from the steps."""

INNER_WRITER = "writer.writer"
"""Place of the writer that a `SkillWriter` asks on its own account: more than the round asks of itself."""


@dataclass(frozen=True, slots=True)
class LoopPlan:
    """What of a run's loop may be measured.

    Args:
        evolution: The callback whose round is held.
        costs: What it takes to ask each part, by place.
        calls: Most calls of each part that is not free. None: such parts are not asked.
    """

    evolution: EvolutionCallback
    costs: Mapping[str, AskingCost]
    calls: int | None

    @property
    def unasked(self) -> list[str]:
        """Places of the parts that are not asked, so that no round can be held."""
        return [] if self.calls is not None else [place for place, cost in self.costs.items() if not cost.is_free]

    def paid(self, prefix: str) -> list[str]:
        """List the places of parts that are not free.

        Args:
            prefix: That they begin with.
        """
        return [place for place, cost in self.costs.items() if place.startswith(prefix) and not cost.is_free]

    def limits(self) -> dict[str, int]:
        """Return the most requests of each part that is not free, and of a writer inside of another, by place."""
        paid = self.paid("")
        return {place: self.calls or 0 for place in [*paid, *([INNER_WRITER] if "writer" in paid else [])]}

    def spending(self) -> list[str]:
        """Say, part by part, what the measurement may cost at most."""
        lines: list[str] = []
        unknown: list[str] = []
        known_usd = 0.0
        for place in self.paid(""):
            what, cost = answer_of(place), self.costs[place]
            said = f"{place}: at most {self.calls} {what}s"
            if cost.price_usd is None:
                unknown.append(place)
                lines.append(f"{said}, {cost.told(one(what))}")
            else:
                known_usd += (self.calls or 0) * cost.price_usd
                lines.append(f"{said} x {cost.price_usd:.4g} USD = {(self.calls or 0) * cost.price_usd:,.2f} USD")
        if lines:
            more = f", and what {', '.join(unknown)} may charge" if unknown else ""
            lines.append(f"in all at most {known_usd:,.2f} USD{more}")
        return lines


def loop_plan(callbacks: Sequence[object], calls: int | None) -> LoopPlan | str | None:
    """Say what of a loop may be measured, or why nothing; None where a config evolves nothing.

    Args:
        callbacks: Of the run.
        calls: Most calls of each part that is not free. None: such parts are not asked.
    """
    evolution = next((callback for callback in callbacks if isinstance(callback, EvolutionCallback)), None)
    if evolution is None:
        return None
    if evolution.pairs is not None:
        return "its rounds are over subject pairs; `evolvedirector pairs build` says what those take"
    if evolution.budget.buys_nothing:
        return "budget_teacher_calls is 0, so this run only trains"
    budget = evolution.budget
    listed = {f"teachers.{name}": usd for name, usd in (budget.prices_usd or {}).items()}
    if budget.price_per_look_usd:
        listed["judge"] = budget.price_per_look_usd
    placed = () if evolution.cluster is None else evolution.cluster.placed
    if isinstance(evolution.writer, SkillWriter) and "writer" in placed:
        return "its SkillWriter works on the cluster, where its folder would be filled, and nothing limits whom it asks"
    parts = {place: part for place, part in evolution.parts().items() if place != "policy"}
    costs = {place: asking_cost(part, listed.get(place)) for place, part in parts.items()}
    if isinstance(evolution.judge, NoJudge):
        del costs["judge"]
    return LoopPlan(evolution, costs, calls)


class FewPrompts:
    """The first prompts of another source.

    Args:
        prompts: All of it.
    """

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self._prompts = list(prompts)

    def prompts(self) -> list[Prompt]:
        """List them."""
        return self._prompts


class LoopRun(BenchRun):
    """Build a run whose callback holds its first round, in a folder that vanishes."""

    def __init__(
        self, args: list[str], callbacks: Sequence[Callback], folder: Path, options: argparse.Namespace
    ) -> None:
        """Parse and build.

        Args:
            args: The command line as `fit` takes it.
            callbacks: That measure.
            folder: Where everything that the run writes goes.
            options: Of the command line.
        """
        self._options = options
        self.root: Path | None = None
        """Of the run itself; read where it has no seeds."""
        self.batches_per_epoch = self.batches_of_this_epoch = 0
        super().__init__(args, callbacks, folder, 0)

    def before_instantiate_classes(self) -> None:
        """Shorten the epoch, and hold the callback's round as early as it can be."""
        config = self.config[self.subcommand]
        config.cpu_threads = None  # found by the bench before, and in force
        data = config.data.init_args
        self.root = user_path(data.root)
        self.batches_per_epoch = data.batches_per_epoch
        mode = self._options.mode
        for written in config.trainer.callbacks or []:
            if not issubclass(pkgutil.resolve_name(written.class_path), EvolutionCallback):
                continue
            arguments = written.init_args
            arguments.rehearse = False
            arguments.first_rounds = min(arguments.first_rounds, 1)
            if mode is not None and mode != arguments.mode:
                arguments.mode, arguments.background = mode, None
            mode = arguments.mode
        most = self._options.epoch_batches or (SHORT_EPOCH if mode == "between_epochs" else self.batches_per_epoch)
        # a whole number of updates
        update = config.trainer.accumulate_grad_batches or 1
        self.batches_of_this_epoch = min(self.batches_per_epoch, -(-most // update) * update)
        data.batches_per_epoch = self.batches_of_this_epoch
        super().before_instantiate_classes()

    def takes_part(self, callback: Callback) -> bool:
        """Let the first callback that evolves the data take part, too.

        Args:
            callback: Of the run.
        """
        evolving = next(part for part in self.configured if isinstance(part, EvolutionCallback))
        return callback is evolving or (super().takes_part(callback) and not isinstance(callback, Evolves))

    def length(self, config: dict[str, Any]) -> dict[str, Any]:
        """Count in epochs, so that a shorter one leaves the number of rounds as it is.

        Args:
            config: Of the trainer.
        """
        steps, epochs = config.get("max_steps", -1), config.get("max_epochs")
        if steps in (None, -1):
            return {"max_steps": -1, "max_epochs": epochs}
        per_epoch = max(1, self.batches_per_epoch // (config.get("accumulate_grad_batches") or 1))
        by_steps = -(-steps // per_epoch)
        return {"max_steps": -1, "max_epochs": by_steps if epochs in (None, -1) else min(by_steps, epochs)}


def measure_loop(
    words: Sequence[str], options: argparse.Namespace, plan: LoopPlan, folder: Path, ending: EndBySignal, step_s: float
) -> LoopFigures:
    """Hold the first round of a run and measure it.

    Args:
        words: Of `fit`.
        options: Of the command line.
        plan: Says that every part may be asked.
        folder: Where everything goes that the run writes; the caller removes it.
        ending: Of the process.
        step_s: What a training step takes, for an epoch that is not trained to its end.
    """
    run = LoopRun(["fit", *words], [ending], folder, options)
    trainer, data = run.trainer, run.datamodule
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    evolution = next(callback for callback in callbacks if isinstance(callback, EvolutionCallback))
    memory = PhaseMemory(trainer.strategy.root_device)
    meter = Meter(plan.limits(), lambda phase: working(memory, phase))
    if isinstance(evolution.writer, SkillWriter):
        keep_apart(evolution.writer, meter, folder / "prompts")
    clock = LoopClock(evolution, memory, lambda: len(meter.asked))
    callbacks[:] = [clock.before, *callbacks, clock.behind]
    evolution.cluster = MeteredCluster(evolution.cluster, meter)
    notes: list[str] = []
    failure = ""
    with memory:
        try:
            notes += _shorten(run, plan, evolution, options)
            trainer.fit(run.model, data)
        except (UserError, RunError) as error:
            failure = str(error)
    time, told = _time_of(run, evolution, clock.times, step_s) if clock.is_over else (None, "")
    if clock.times.before_training:
        notes.append("This round was held before the first training step, as first_rounds says.")
    if (others := sum(isinstance(callback, Evolves) for callback in run.configured) - 1) > 0:
        notes.append(f"Of {others + 1} callbacks that evolve data, the first was measured.")
    money = loop_money(Path(data.data_root))
    if money is not None and money.skipped:
        notes.append("The judge was below its floors, so the round bought nothing.")
    notes += [f"--calls kept {count:,} {answer_of(p)}s of {p} from being asked." for p, count in meter.withheld.items()]
    parts = [PartRate(p, cost, meter.of(p), where_of(evolution, p)) for p, cost in plan.costs.items()]
    notes += not_in_books(parts)
    not_due = "" if clock.is_over else "training ended before one was due and read; allow more epochs or rounds"
    return LoopFigures(
        parts=parts,
        mode="" if time is None else evolution.mode,
        time=time,
        phases_s={} if time is None else _by_phase(meter.asked[clock.times.asked_before :]),
        epoch_told=told,
        money=money,
        memory_kind=memory.kind,
        peak_bytes=dict(memory.peak_bytes),
        notes=notes,
        problem=failure or ("max_rounds is 0" if evolution.max_rounds == 0 else not_due),
        failed=bool(failure),
    )


def _time_of(run: LoopRun, evolution: EvolutionCallback, times: RoundTimes, step_s: float) -> tuple[LoopTime, str]:
    """Return the times of a round, and what an epoch is, in words."""
    told = f"{run.batches_per_epoch:,} batches"
    short = run.batches_of_this_epoch < run.batches_per_epoch
    if short and evolution.background is None:
        epoch_s = step_s * run.batches_per_epoch
        told += f" of {step_s * 1000:,.1f} ms each, as measured above"
    else:
        beside = times.epoch_s[-times.epochs_beside :]  # all of them where training waited
        epoch_s = sum(beside) / len(beside) if beside else 0.0
        if short:
            told = f"{run.batches_of_this_epoch:,} batches, as --epoch-batches says (the config: {told})"
    every = None if times.before_training else evolution.every_n_epochs
    return LoopTime(times.boundary_s, times.drawing_s, epoch_s, times.epochs_beside, every), told


def _shorten(run: LoopRun, plan: LoopPlan, evolution: EvolutionCallback, options: argparse.Namespace) -> list[str]:
    """Let the seeds and the round ask for no more than the options say; return what that changes, in words."""
    data = run.datamodule
    notes: list[str] = []
    every = _seeds_of(data, run.root)
    paid_teachers = plan.paid("teachers.")
    most = min(options.images, max(1, (plan.calls or 1) // 2)) if paid_teachers else options.images
    kept = every[:most]
    data.seeds = FewPrompts(kept)
    budget = evolution.budget
    left_out = len(every) - len(kept)
    if left_out:
        notes.append(f"{len(kept):,} of {len(every):,} seed prompts were taken (--images, --calls).")
    total, of_round = budget.budget_teacher_calls, budget.teacher_calls_per_round
    own = dict(budget.teacher_budgets or {})
    for place in paid_teachers:
        name = place.removeprefix("teachers.")
        own[name] = min(own.get(name, plan.calls or 0), plan.calls or 0)
    looks = budget.budget_judge_calls
    if plan.paid("judge"):
        looks = min(plan.calls or 0, looks if looks is not None else plan.calls or 0)
    evolution.budget = replace(
        budget,
        budget_teacher_calls=None if total is None else max(len(kept) + 1, total - left_out),
        teacher_calls_per_round=min(options.images, of_round) if of_round is not None else options.images,
        teacher_budgets=own or None,
        budget_judge_calls=looks,
    )
    return notes


def _seeds_of(data: EvolvingDataModule, root: Path | None) -> list[Prompt]:
    """Return the prompts that the run begins with: its seeds, or those of its root, which is read alone."""
    if data.seeds is not None:
        return list({prompt.id: prompt for prompt in read_prompts(data.seeds)}.values())
    files = None if root is None else RevisionFiles(root)
    sha = None if files is None else files.current()
    if files is None or sha is None:
        raise UserError(
            f"The run has no seeds, and its root {root} has no revision. Allowed is one of both. Write `seeds` in the "
            "datamodule, or --without-loop to measure training and drawing alone."
        )
    entries = files.load(sha).state.entries.values()
    return [Prompt.create(entry.prompt.text, skill=entry.prompt.skill) for entry in entries]


def keep_apart(writer: SkillWriter, meter: Meter, folder: Path) -> None:
    """Let a writer of skills fill a copy of its folder, and ask the one inside of it no more than a limit leaves.

    Args:
        writer: Of the run.
        meter: Has the limit.
        folder: New; the caller removes it.
    """
    folder.mkdir(parents=True)
    for kept in (writer.folder / f"{name}.jsonl" for name in writer.skills):
        if kept.is_file():
            shutil.copy(kept, folder)
    writer.folder = folder
    write = writer.writer.write

    def limited(requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        sent = meter.allowed(INNER_WRITER, requests)
        yield from withheld_replies(requests, sent)
        if sent:
            yield from write(sent)

    writer.writer.write = limited  # type: ignore[method-assign]


def working(memory: PhaseMemory, phase: Phase) -> AbstractContextManager[Any]:
    """Note memory while somebody other than the student works in a phase.

    Args:
        memory: Notes.
        phase: Of the round.
    """
    return memory.working(PHASE_OF[phase]) if phase in PHASE_OF else nullcontext()


def _by_phase(asked: Sequence[Any]) -> dict[str, float]:
    """Add up the seconds of calls by what their phase is called."""
    names = {"judge": "judging", "writer": "writing", "teachers": "teaching", "rewards": "scoring"}
    names["embedder"] = "embedding"
    found: dict[str, float] = {}
    for call in asked:
        name = names.get(call.place.partition(".")[0])
        if name is not None:
            found[name] = found.get(name, 0.0) + call.seconds
    room_s = sum(call.room_s for call in asked)
    return {**found, "making room": room_s} if room_s >= 0.001 else found


def where_of(evolution: EvolutionCallback, place: str) -> str:
    """Say in words where a part works; empty where beside the student.

    Args:
        evolution: Asks it.
        place: Of the part.
    """
    if evolution.cluster is not None and place in evolution.cluster.placed:
        return "on the cluster"
    return "asked at its address" if requests_in_flight_of(evolution.parts()[place]) else ""
