"""Measure the free parts of a loop alone, where others are paid and nobody has said that they may be asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from evolvedirector.callbacks._run.phase_memory import PhaseMemory
from evolvedirector.callbacks._run.round_driver import RoundDriver
from evolvedirector.commands.bench_loop import LoopPlan, where_of, working
from evolvedirector.commands.bench_loop_figures import LoopFigures, PartRate
from evolvedirector.evolution import steps
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.buying.buy import buy
from evolvedirector.evolution.round_parts import Round
from evolvedirector.execution.metered import Meter, MeteredCluster
from evolvedirector.records import RoundInfo, WriteRequest, digest
from evolvedirector.store.dataset import create_root
from evolvedirector.store.prompt_files import read_prompts


def measure_parts(
    trainer: Trainer, module: LightningModule, data: Any, plan: LoopPlan, folder: Path, images: int
) -> LoopFigures:
    """Measure the parts that are free where others are not asked: each alone, by the run's own executor.

    Args:
        trainer: Attached to the module; its training has ended.
        module: The student.
        data: Whose seeds are drawn and looked at.
        plan: Says who may be asked.
        folder: Where the ledger goes; the caller removes it.
        images: That are drawn and looked at, and prompts that are written, at most.
    """
    memory = PhaseMemory(trainer.strategy.root_device)
    meter = Meter(dict.fromkeys(plan.unasked, 0), lambda phase: working(memory, phase))
    evolution = plan.evolution.evolution()
    free = {place for place, cost in plan.costs.items() if cost.is_free}
    teachers = {name: part for name, part in evolution.settings.teachers.items() if f"teachers.{name}" in free}
    settings = replace(evolution.settings, teachers=teachers, rewards={}, embedder=None, budget=Budget())
    evolution = replace(evolution, settings=settings, cluster=MeteredCluster(evolution.cluster, meter))
    prompts = [] if data.seeds is None else list(read_prompts(data.seeds))[:images]
    create_root(folder / "store")
    driver = RoundDriver(evolution, folder / "store", trainer, module)

    def ask(round: Round) -> str:
        if "writer" in free:
            steps.write(round, [(WriteRequest("bench", "mutation", None, None, images, 0), None)], ())
        if "judge" in free and prompts:
            drawn = steps.render(round, prompts)
            steps.check(round, [(prompt, drawn[prompt.id]) for prompt in prompts])
        if teachers and prompts:
            buy(round, prompts, {})
        round.parts.executor.enter("train")
        return ""

    info = RoundInfo(digest("bench"), 0, 1, plan.evolution.seed, trainer.global_step, "")
    with memory:
        try:
            driver.carry(ask, info, "bench")
        finally:
            driver.close()
    said = ", ".join(plan.unasked)
    return LoopFigures(
        parts=[
            PartRate(place, cost, meter.of(place), where_of(plan.evolution, place), not cost.is_free)
            for place, cost in plan.costs.items()
        ],
        memory_kind=memory.kind,
        peak_bytes=dict(memory.peak_bytes),
        problem=f"{said} may cost money and {'were' if len(plan.unasked) > 1 else 'was'} not asked; with --calls N "
        "each is asked N times at most",
    )
