"""The purchase of the seeds: what a run is trained on before its first round."""

from __future__ import annotations

import warnings
from dataclasses import replace

from evolvedirector.evolution.opening import complete_info
from evolvedirector.evolution.purchases import buy
from evolvedirector.evolution.round_context import RoundContext
from evolvedirector.records import PromptState, RevisionChange


def run_seeding(context: RoundContext) -> str:
    """Buy images for seed prompts that have none yet, as far as the budget reaches; return the revision to train on."""
    store, info = context.store, context.info
    state = store.state(info.revision_sha)
    waiting = [entry.prompt for entry in state.in_state("candidate") if entry.prompt.origin == "seed"]
    if not waiting or context.budget.buys_nothing:
        return info.revision_sha
    context.budget = replace(context.budget, teacher_calls_per_round=None)  # the seeds are not a round
    report = complete_info(context, state)
    problem = report.problem(context.judge_health) if report is not None and context.judge_health is not None else None
    if problem is not None:
        warnings.warn(f"The images of the seeds are not checked: {problem}", stacklevel=2)
    checks = getattr(context.policy, "checks_seeds", False) and problem is None
    purchases = buy(context, waiting, {}, check_teacher=checks)
    context.crew.enter("train")
    if not purchases.samples and not purchases.failed:
        return info.revision_sha
    if not purchases.samples and not any(entry.sample for entry in state.entries.values()):
        counted = ", ".join(f"{name} {number}" for name, number in context.figures.items() if "teacher: " in name)
        raise RuntimeError(
            f"None of {len(waiting)} seed prompts got an image to train on ({counted}). Either the teachers cannot "
            "draw them, or the judge refuses what they draw. Look at both, or write other seeds; everything bought is "
            "kept."
        )
    states: dict[str, PromptState] = {prompt.id: "retired" for prompt in purchases.failed}
    return store.publish(info.revision_sha, info.round_id, RevisionChange(samples=purchases.samples, states=states))
