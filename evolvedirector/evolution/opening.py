"""How a round begins: what was spent, how far the judge can be trusted, and whether the round may take place."""

from __future__ import annotations

import warnings
from dataclasses import replace

from evolvedirector.evolution.health_check import check_judge
from evolvedirector.evolution.round_context import RoundContext
from evolvedirector.judges.health_report import HealthReport
from evolvedirector.records import DatasetState


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
    rounds = {row["round_id"] for row in ledger.rounds()}
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
    context.figures.update(report.to_figures())
    return report.problem(context.judge_health)


def skip_round(context: RoundContext, problem: str) -> str:
    """Leave the revision as it is and go on training: a judge that cannot be trusted decides nothing.

    Args:
        context: The round.
        problem: Why; shown as a warning.
    """
    warnings.warn(f"Round {context.info.index + 1} is skipped, training goes on: {problem}", stacklevel=3)
    context.figures["skipped"] = 1
    figures = {**context.figures, "skipped because": problem}
    context.store.ledger.close_round(context.info.round_id, context.info.revision_sha, figures)
    context.crew.enter("train")
    return context.info.revision_sha
