"""How a round begins: what was spent, how far the judge can be trusted, and whether the round may take place."""

from __future__ import annotations

import warnings
from dataclasses import replace

from evolvedirector.evolution.buying.buy import buy
from evolvedirector.evolution.judge_health import check_judge
from evolvedirector.evolution.round_parts import Round
from evolvedirector.records import DatasetState, PromptState, RevisionChange


def run_seeding(round: Round) -> str:
    """Buy images for seed prompts that have none yet, as far as the budget reaches; return the revision to train on."""
    store, info = round.parts.store, round.info
    state = store.state(info.revision_sha)
    waiting = [entry.prompt for entry in state.in_state("candidate") if entry.prompt.origin == "seed"]
    if not waiting or round.parts.budget.buys_nothing:
        return info.revision_sha
    unlimited = replace(round.parts.budget, teacher_calls_per_round=None)  # the seeds are not a round
    round = counted(replace(round, parts=replace(round.parts, budget=unlimited)))
    round, problem = checked(round, state)
    if problem is not None:
        warnings.warn(f"The images of the seeds are not checked: {problem}", stacklevel=2)
    purchases = buy(round, waiting, {}, check_teacher=round.parts.policy.checks_seeds and problem is None)
    round.parts.executor.enter("train")
    if not purchases.samples and not purchases.failed:
        return info.revision_sha
    if not purchases.samples and not any(entry.sample for entry in state.entries.values()):
        said = ", ".join(f"teacher: {cause} {number}" for cause, number in round.figures.no_image.items())
        raise RuntimeError(
            f"None of {len(waiting)} seed prompts got an image to train on ({said}). Either the teachers cannot "
            "draw them, or the judge refuses what they draw. Look at both, or write other seeds; everything bought is "
            "kept."
        )
    states: dict[str, PromptState] = {prompt.id: "retired" for prompt in purchases.failed}
    return store.publish(info.revision_sha, info.round_id, RevisionChange(samples=purchases.samples, states=states))


def opened(round: Round) -> Round:
    """Record the round, and let it know what was spent before it."""
    info = round.info
    round.parts.ledger.rounds.open(info.round_id, info.index, info.revision_sha, info.global_step)
    return counted(round)


def counted(round: Round) -> Round:
    """Let a round, or the purchase of the seeds, know what was spent before it."""
    ledger = round.parts.ledger
    spent, here = ledger.spend(), ledger.spend(round.info.round_id)
    info = replace(
        round.info,
        budget_teacher_calls=round.parts.budget.budget_teacher_calls,
        teacher_calls=spent.teacher_calls - here.teacher_calls,
        seed_calls=spent.teacher_calls - ledger.calls.in_rounds(),
    )
    return replace(round, info=info)


def checked(round: Round, state: DatasetState) -> tuple[Round, str | None]:
    """Measure the judge: the round knows how often it errs then, and why it may not decide; None when it may.

    Args:
        round: The round.
        state: The revision it starts from; bought images of it are shown to the judge.
    """
    settings = round.parts.judge_health
    if settings is None:
        return round, None
    report = check_judge(round, settings, state)
    round.figures.judge.update(report.to_figures())
    return replace(round, info=replace(round.info, judge_error=report.judge_error)), report.problem(settings)


def skip_round(round: Round, problem: str) -> str:
    """Leave the revision as it is and go on training: a judge that cannot be trusted decides nothing.

    Args:
        round: The round.
        problem: Why; shown as a warning.
    """
    info, figures = round.info, round.figures
    warnings.warn(f"Round {info.index + 1} is skipped, training goes on: {problem}", stacklevel=3)
    figures.skipped, figures.skipped_because = True, problem
    round.parts.ledger.rounds.close(info.round_id, info.revision_sha, figures)
    round.parts.executor.enter("train")
    return info.revision_sha
