"""How a round begins: what was spent, how far the judge can be trusted, and whether the round may take place."""

from __future__ import annotations

import warnings
from dataclasses import replace

from evolvedirector.evolution.buying.buy import buy
from evolvedirector.evolution.judge_health import check_judge
from evolvedirector.evolution.round_context import RoundContext
from evolvedirector.judges.health.report import HealthReport
from evolvedirector.records import DatasetState, PromptState, RevisionChange


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
    checks = context.policy.checks_seeds and problem is None
    purchases = buy(context, waiting, {}, check_teacher=checks)
    context.crew.enter("train")
    if not purchases.samples and not purchases.failed:
        return info.revision_sha
    if not purchases.samples and not any(entry.sample for entry in state.entries.values()):
        counted = ", ".join(f"teacher: {cause} {number}" for cause, number in context.figures.no_image.items())
        raise RuntimeError(
            f"None of {len(waiting)} seed prompts got an image to train on ({counted}). Either the teachers cannot "
            "draw them, or the judge refuses what they draw. Look at both, or write other seeds; everything bought is "
            "kept."
        )
    states: dict[str, PromptState] = {prompt.id: "retired" for prompt in purchases.failed}
    return store.publish(info.revision_sha, info.round_id, RevisionChange(samples=purchases.samples, states=states))


def complete_info(context: RoundContext, state: DatasetState) -> HealthReport | None:
    """Measure the judge, and let the round's `info` say what was spent so far and how often the judge errs.

    Args:
        context: The round, or the purchase of the seeds.
        state: The revision it starts from.

    Returns:
        What was measured; None when nobody asked for it.
    """
    ledger, info = context.store.ledger, context.info
    report = check_judge(context, context.judge_health, state) if context.judge_health is not None else None
    spent, here = ledger.spend(), ledger.spend(info.round_id)
    rounds = {row.round_id for row in ledger.rounds()}
    in_rounds = sum(ledger.spend(round_id).teacher_calls for round_id in rounds)
    context.info = replace(
        info,
        budget_teacher_calls=context.budget.budget_teacher_calls,
        teacher_calls=spent.teacher_calls - here.teacher_calls,
        seed_calls=spent.teacher_calls - in_rounds,
        judge_error=report.judge_error if report is not None else 0.0,
    )
    return report


def open_round(context: RoundContext, state: DatasetState) -> str | None:
    """Record the round, and say why it must not take place; None when it may.

    Args:
        context: The round; its `info` is completed.
        state: The revision the round starts from.
    """
    info = context.info
    context.store.ledger.open_round(info.round_id, info.index, info.revision_sha, info.global_step)
    report = complete_info(context, state)
    if report is None or context.judge_health is None:
        return None
    context.figures.judge.update(report.to_figures())
    return report.problem(context.judge_health)


def skip_round(context: RoundContext, problem: str) -> str:
    """Leave the revision as it is and go on training: a judge that cannot be trusted decides nothing.

    Args:
        context: The round.
        problem: Why; shown as a warning.
    """
    warnings.warn(f"Round {context.info.index + 1} is skipped, training goes on: {problem}", stacklevel=3)
    context.figures.skipped, context.figures.skipped_because = True, problem
    context.store.ledger.close_round(context.info.round_id, context.info.revision_sha, context.figures)
    context.crew.enter("train")
    return context.info.revision_sha
