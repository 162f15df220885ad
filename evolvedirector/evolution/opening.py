"""How a round begins: what was spent, how far the judge can be trusted, and whether the round may take place."""

from __future__ import annotations

import warnings
from dataclasses import replace

from evolvedirector.evolution.health_check import check_judge
from evolvedirector.evolution.round_context import RoundContext
from evolvedirector.records import DatasetState


def open_round(context: RoundContext, state: DatasetState) -> str | None:
    """Record the round, measure the judge and complete what the policy may know.

    Args:
        context: The round; its `info` is completed with what was spent so far and the judge's estimated error.
        state: The revision the round starts from.

    Returns:
        Why the round must not take place; None when it may.
    """
    ledger, info = context.store.ledger, context.info
    ledger.open_round(info.round_id, info.index, info.revision_sha, info.global_step)
    spent, here = ledger.spend(), ledger.spend(info.round_id)
    in_rounds = sum(ledger.spend(row["round_id"]).teacher_calls for row in ledger.rounds())
    report = check_judge(context, context.judge_health, state) if context.judge_health is not None else None
    if report is not None:
        context.figures.update(report.to_figures())
    context.info = replace(
        info,
        budget_teacher_calls=context.budget.budget_teacher_calls,
        teacher_calls=spent.teacher_calls - here.teacher_calls,
        seed_calls=spent.teacher_calls - in_rounds,
        judge_error=report.judge_error if report is not None else 0.0,
    )
    return report.problem(context.judge_health) if report is not None and context.judge_health is not None else None


def skip_round(context: RoundContext, problem: str) -> str:
    """Leave the revision as it is and go on training: a judge that cannot be trusted decides nothing.

    Args:
        context: The round.
        problem: Why; shown as a warning.
    """
    warnings.warn(f"Round {context.info.index + 1} is skipped, training goes on: {problem}", stacklevel=3)
    context.figures["skipped"] = 1
    context.store.ledger.close_round(context.info.round_id, context.info.revision_sha, context.figures)
    context.crew.enter("train")
    return context.info.revision_sha
