"""How a round begins: what was spent, how far the judge can be trusted, and whether the round may take place."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from evolvedirector.errors import RunError
from evolvedirector.evolution.budget import looks_left, lowest_price_usd
from evolvedirector.evolution.buying.buy import buy
from evolvedirector.evolution.embedding import check_embeddings, embed, forget_embedded
from evolvedirector.evolution.judge_health import check_judge
from evolvedirector.evolution.round_parts import Round
from evolvedirector.policies.policy import LeavesSeeds
from evolvedirector.records import DatasetState, Prompt, RevisionChange, RoundInfo, digest
from evolvedirector.store.ledger.faults import told_faults


def seeding_info(seed: int, rounds: int | None, global_step: int, revision_sha: str) -> RoundInfo:
    """Name the purchase of the seeds, which is no round.

    Args:
        seed: Root of every draw of evolution.
        rounds: There will be. None: not known.
        global_step: Optimizer steps done.
        revision_sha: That is without images.
    """
    return RoundInfo(digest("seeding", seed, revision_sha), 0, rounds, seed, global_step, revision_sha)


def run_seeding(round: Round) -> str:
    """Buy images for seed prompts that have none yet, as far as the budget reaches; return the revision to train on.

    Where the policy's rounds draw them, they wait.
    """
    store, info = round.parts.store, round.info
    check_embeddings(round)
    state = store.state(info.revision_sha)
    waiting = [entry.prompt for entry in state.in_state("candidate") if entry.prompt.origin == "seed"]
    policy = round.parts.policy
    if not waiting or round.parts.budget.buys_nothing or (isinstance(policy, LeavesSeeds) and policy.leaves_seeds):
        return info.revision_sha
    unlimited = replace(round.parts.budget, teacher_calls_per_round=None)  # the seeds are not a round
    round = counted(replace(round, parts=replace(round.parts, budget=unlimited)))
    has_images = any(entry.sample for entry in state.entries.values())
    round, problem, silent = checked(round, state, waiting)
    if silent and not has_images:
        raise RunError(
            f"Nothing is bought for {len(waiting)} seed prompts: {problem}{_faults(round, 'judge')} A run whose judge "
            "cannot be read would buy unscreened. Mend the judge and give the same command again, or write "
            "`judge_health: false` to go on without one."
        )
    if problem is not None:
        fate = f"{len(waiting)} seed prompts are not bought" if silent else "The images of the seeds are not checked"
        warnings.warn(f"{fate}: {problem}{_faults(round, 'judge')}", stacklevel=2)
    if silent:
        round.parts.executor.enter("train")
        return info.revision_sha
    purchases = buy(round, waiting, {}, check_teacher=policy.checks_seeds and problem is None)
    change = RevisionChange(samples=purchases.samples, states={prompt.id: "retired" for prompt in purchases.failed})
    derived = embed(round, change)
    round.parts.executor.enter("train")
    if not purchases.samples and not has_images:
        raise RunError(_no_image(round, len(waiting)))
    if not purchases.samples and not purchases.failed:
        return info.revision_sha
    made_by = "" if round.parts.embedder is None else round.parts.embedder.fingerprint
    child = store.publish(info.revision_sha, info.round_id, change, derived, made_by)
    forget_embedded(round)
    return child


def _no_image(round: Round, waiting: int) -> str:
    """Say why no seed prompt got an image, and what to do about it."""
    causes = round.figures.no_image
    said = ", ".join(f"teacher: {cause} {number}" for cause, number in causes.items())
    if not causes:
        return (
            f"None of {waiting} seed prompts got an image to train on: the budget allows no call to a teacher. Allowed "
            "is one that pays for the seeds at least. Raise `budget_teacher_calls`, `teacher_budgets` or "
            "`budget_cost_usd`, or start a new root."
        )
    start = f"None of {waiting} seed prompts got an image to train on ({said}).{_faults(round, 'teacher ')}"
    if causes["failure"]:
        return (
            f"{start} A service that answers is needed, with a key and a model that are "
            "right. Mend it and give the same command again; what failed is asked for again, and what was bought is "
            "kept."
        )
    return (
        f"{start} Either the teachers cannot draw them, or the judge refuses what they draw. Look at both, or write "
        "other seeds; everything bought is kept."
    )


def _faults(round: Round, part: str) -> str:
    """Say what those whose name begins so gave as reasons in this round, in a sentence of its own; empty for none."""
    faults = [fault for fault in round.parts.ledger.faults.of(round.info.round_id) if fault.part.startswith(part)]
    return f" It was said: {told_faults(faults)}." if faults else ""


def opened(round: Round) -> Round:
    """Record the round, and let it know what was spent before it."""
    info = round.info
    round.parts.ledger.rounds.open(info.round_id, info.index, info.revision_sha, info.global_step)
    return counted(round)


def counted(round: Round) -> Round:
    """Let a round, or the purchase of the seeds, know what was spent before it, and who writes."""
    ledger, budget = round.parts.ledger, round.parts.budget
    spent, here = ledger.spend(), ledger.spend(round.info.round_id)
    price_usd = lowest_price_usd(budget, round.parts.teacher_prices_usd)
    info = replace(
        round.info,
        budget_teacher_calls=budget.budget_teacher_calls,
        teacher_calls=spent.teacher_calls - here.teacher_calls,
        seed_calls=spent.teacher_calls - ledger.calls.in_rounds(),
        price_per_image_usd=price_usd,
        price_per_look_usd=budget.price_per_look_usd,
        writer=round.parts.writer.fingerprint,
        looks_left=looks_left(budget, round.opening_allowance(), price_usd),
    )
    return replace(round, info=info)


def checked(round: Round, state: DatasetState, opening: Sequence[Prompt] = ()) -> tuple[Round, str | None, bool]:
    """Measure the judge: the round knows how far it is right then, and why it may not decide.

    Args:
        round: The round.
        state: The revision it starts from; bought images of it are shown to the judge.
        opening: Prompts that are about to be bought, where this is the run's opening purchase.

    Returns:
        The round, why the judge may not decide (None where it may), and whether none of its answers could be read.
    """
    settings = round.parts.judge_health
    if settings is None:
        return round, None, False
    report = check_judge(round, settings, state, opening)
    round.figures.judge.update(report.to_figures())
    round.figures.judge_silent = report.is_silent
    return replace(round, info=replace(round.info, judge=report.accuracy)), report.problem(settings), report.is_silent


def skip_round(round: Round, problem: str) -> str:
    """Leave the revision as it is and go on training: a judge that cannot be trusted decides nothing.

    Args:
        round: The round.
        problem: Why; shown as a warning.
    """
    info, figures = round.info, round.figures
    problem += _faults(round, "judge")
    warnings.warn(f"Round {info.index + 1} is skipped, training goes on: {problem}", stacklevel=3)
    figures.skipped, figures.skipped_because = True, problem
    round.parts.ledger.rounds.close(info.round_id, info.revision_sha, figures)
    round.parts.executor.enter("train")
    return info.revision_sha
