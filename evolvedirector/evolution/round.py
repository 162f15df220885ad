"""One round, in order: plan, write, render, judge, decide, write, buy, compare, publish.

The published order (look at live prompts, then write and buy children) and the screening order (write and screen
candidates, then buy the failing ones) are the same skeleton with different steps left empty by the policy's plan.
Every step records what it did before the next begins and repeats only what is missing, so that a round killed at any
point is finished by running it again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evolvedirector.evolution import steps
from evolvedirector.evolution.buying.buy import Purchases, buy
from evolvedirector.evolution.candidates import NOT_REACHED
from evolvedirector.evolution.history import past_rounds
from evolvedirector.evolution.opening import open_round, skip_round
from evolvedirector.evolution.round_context import RoundContext
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    Prompt,
    PromptEntry,
    PromptState,
    RevisionChange,
    RoundFigures,
    RoundPlan,
    Sample,
    TrainingMix,
    WriteRequest,
    digest,
    seed_of,
)

MIN_LIVE_SAMPLES = 1
"""A revision nobody can train on is never published: the last live prompts are kept whatever the policy decides."""

MOST_REFUSED = 0.9
"""Share of refused texts in a round above which it warns."""

_NEW_STATE: Mapping[str, PromptState] = {"retire": "retired", "master": "mastered", "revive": "live"}


def run_round(context: RoundContext) -> str:
    """Run one round and return the sha of the revision it published.

    Raises:
        RoundInterrupted: Someone asked to stop; running the round again goes on.
        ValueError: The policy decided about prompts that do not exist.
    """
    store, figures = context.store, context.figures
    done = store.ledger.published(context.info.round_id)
    if done is not None:  # an older checkpoint repeats it: what later rounds spent must not change what it decided
        context.crew.enter("train")
        return done
    state = replace(store.state(context.info.revision_sha), history=past_rounds(store, context.info.revision_sha))
    problem = open_round(context, state)
    info = context.info
    if problem is not None:
        return skip_round(context, problem)
    plan = context.policy.plan(state, info)
    _check_plan(plan, state)
    candidates = steps.write(context, _with_parents(plan, state), state.entries)
    evidence = _judge(context, state, plan, candidates)
    seen = replace(state, entries={**state.entries, **{p.id: PromptEntry(p, "candidate") for p in candidates}})
    allowance = context.opening_allowance()
    decisions = context.policy.decide(seen, evidence, allowance, info)
    _check_decisions(decisions, state, candidates)
    mix = context.policy.mix(seen, evidence, info)
    store.ledger.add_decisions(info.round_id, decisions)
    _count(figures, decisions, allowance)
    purchases = _buy(context, state, plan, candidates, decisions)
    if plan.compare_bought:
        _compare_bought(context, purchases)
    change = _change(state, decisions, purchases, figures, mix)
    context.check_stop()
    child = store.publish(info.revision_sha, info.round_id, change)
    store.ledger.close_round(info.round_id, child, figures)
    context.crew.enter("train")
    return child


def _with_parents(plan: RoundPlan, state: DatasetState) -> list[tuple[WriteRequest, Prompt | None]]:
    """Find the parent whose lineage the texts of an expansion join."""
    by_text = {entry.prompt.text: entry.prompt for entry in state.entries.values()}
    return [
        (request, by_text.get(request.parent or "") if request.operation == "expansion" else None)
        for request in plan.write
    ]


def _count(figures: RoundFigures, decisions: Sequence[Decision], allowance: Allowance) -> None:
    figures.decisions.update(decision.kind for decision in decisions)
    if allowance.teacher_calls is not None:
        figures.buys_beyond_allowance = max(0, figures.decisions["buy"] - allowance.teacher_calls)


def _judge(context: RoundContext, state: DatasetState, plan: RoundPlan, candidates: Sequence[Prompt]) -> list[Evidence]:
    compared = [state.entries[prompt_id] for prompt_id in plan.compare]
    probed = [state.entries[prompt_id].prompt for prompt_id in plan.probe]
    screened = candidates if plan.screen else ()
    images = steps.render(context, [*[entry.prompt for entry in compared], *probed, *screened])
    evidence = steps.check(context, [(prompt, images[prompt.id]) for prompt in screened])
    evidence += steps.check(context, [(prompt, images[prompt.id]) for prompt in probed], "probe")
    pairs = [(e.prompt, images[e.prompt.id], e.sample.image_sha256) for e in compared if e.sample is not None]
    return evidence + steps.compare(context, pairs, plan.both_orders)


def _buy(
    context: RoundContext,
    state: DatasetState,
    plan: RoundPlan,
    candidates: Sequence[Prompt],
    decisions: Sequence[Decision],
) -> Purchases:
    by_id = {prompt.id: prompt for prompt in candidates}
    wanted = [by_id[d.prompt_id] for d in decisions if d.kind == "buy"]
    requests = _write_requests(context, state, decisions)
    opening = context.opening_allowance()
    if (
        opening.teacher_calls == 0 or opening.cost_usd == 0
    ):  # a writer may cost money too, and nobody could draw its texts
        context.figures.unwritten += sum(request.count for request, _ in requests)
        requests = []
    children = steps.write(context, requests, {*state.entries, *by_id})
    context.figures.written += len(children) + len(candidates)
    if plan.budget_teacher_calls != 0:  # what is written only to measure may be known already
        _warn_of_refusals(context.figures)
    favourites = {
        prompt.id: parent.sample.teacher
        for prompt in [*wanted, *children]
        if prompt.parent_id and (parent := state.entries.get(prompt.parent_id)) and parent.sample
    }
    return buy(
        context,
        [*wanted, *children],
        favourites,
        check_teacher=plan.check_teacher,
        test_all_share=plan.test_all_share,
        limit=plan.budget_teacher_calls,
    )


def _warn_of_refusals(figures: RoundFigures) -> None:
    causes = {cause: count for cause, count in figures.refused.items() if cause != NOT_REACHED}
    refused = sum(causes.values())
    if refused > MOST_REFUSED * (refused + figures.written):
        said = ", ".join(f"{cause} {count}" for cause, count in causes.items())
        warnings.warn(
            f"{refused} of {refused + figures.written} texts of the writer were refused in this round ({said}). The "
            "writer may have no news left: give it more words, another skill, or end evolution with `max_rounds`.",
            stacklevel=3,
        )


def _write_requests(
    context: RoundContext, state: DatasetState, decisions: Sequence[Decision]
) -> list[tuple[WriteRequest, Prompt | None]]:
    """Turn expand and mutate decisions into requests. A mutation is unrelated to its parent and founds a lineage."""
    requests: list[tuple[WriteRequest, Prompt | None]] = []
    for decision in decisions:
        if decision.kind in ("expand", "mutate"):
            parent = state.entries[decision.prompt_id].prompt
            expands = decision.kind == "expand"
            name = digest(decision.kind, context.info.round_id, parent.id)
            request = WriteRequest(
                name,
                "expansion" if expands else "mutation",
                parent.text if expands else None,
                parent.skill if expands else None,
                decision.count,
                seed_of(decision.kind, context.info.seed, context.info.round_id, parent.id),
            )
            requests.append((request, parent if expands else None))
    return requests


def _check_plan(plan: RoundPlan, state: DatasetState) -> None:
    for prompt_id in (*plan.compare, *plan.probe):
        if prompt_id not in state.entries:
            raise ValueError(
                f"The policy wants to look at prompt {prompt_id!r}, which is none of the "
                f"{len(state.entries)} prompts of the revision. Name prompts of the state in `compare` and `probe`."
            )


def _check_decisions(decisions: Sequence[Decision], state: DatasetState, candidates: Sequence[Prompt]) -> None:
    buyable = {prompt.id for prompt in candidates}
    for decision in decisions:
        known = buyable if decision.kind == "buy" else state.entries
        if decision.prompt_id not in known:
            raise ValueError(
                f"The policy decided {decision.kind!r} for prompt {decision.prompt_id!r}, which is not among the "
                f"{len(known)} prompts it may decide about. Return decisions only for prompts of the state or "
                "candidates of this round."
            )


def _compare_bought(context: RoundContext, purchases: Purchases) -> None:
    drawn = context.store.ledger.renders(context.info.round_id)
    pairs = []
    for sample in purchases.samples:
        student = drawn.get(steps.student_request(context, sample.prompt).request_id)
        if student:
            pairs.append((sample.prompt, student, sample.image_sha256))
    steps.compare(context, pairs, both_orders=True)


def _change(
    state: DatasetState,
    decisions: Sequence[Decision],
    purchases: Purchases,
    figures: RoundFigures,
    mix: TrainingMix | None,
) -> RevisionChange:
    states: dict[str, PromptState] = {prompt.id: "retired" for prompt in purchases.failed}
    states |= {d.prompt_id: _NEW_STATE[d.kind] for d in decisions if d.kind in _NEW_STATE}
    trainable = [key for key, entry in state.entries.items() if entry.state in ("live", "mastered") and entry.sample]
    left = [key for key in trainable if states.get(key) != "retired"]
    for key in trainable:
        if len(left) + len(purchases.samples) >= MIN_LIVE_SAMPLES:
            break
        if states.get(key) == "retired":
            del states[key]
            left.append(key)
            figures.kept_to_train += 1
    samples: tuple[Sample, ...] = purchases.samples
    failed = tuple(prompt for prompt in purchases.failed if prompt.id not in state.entries)
    return RevisionChange(
        samples=samples,
        prompts=failed,
        states=states,
        skill_weights=None if mix is None else mix.skill_weights,
        replay_share=None if mix is None else mix.replay_share,
    )
