"""One round, in order: health, write, render, screen, look again, score, decide, write, buy, compare, measure, embed,
publish.

The published order (look at live prompts, then write and buy children) and the screening order (write and screen
candidates, then buy the failing ones) are the same skeleton with different steps left empty by the policy's plan.
Every step records what it did before the next begins and repeats only what is missing, so that a round killed at any
point is finished by running it again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from evolvedirector.errors import UserError
from evolvedirector.evolution import steps
from evolvedirector.evolution.buying.ask_teachers import Wish, ask_teachers, choose_draws
from evolvedirector.evolution.buying.buy import Purchases, buy
from evolvedirector.evolution.candidates import NOT_REACHED
from evolvedirector.evolution.embedding import check_embeddings, embed, forget_embedded
from evolvedirector.evolution.history import past_rounds
from evolvedirector.evolution.look_again import draw_ahead, look_again, prompts_to_score
from evolvedirector.evolution.losses import live_samples, measured_losses
from evolvedirector.evolution.opening import checked, opened, skip_round
from evolvedirector.evolution.round_parts import Round
from evolvedirector.evolution.steps import Drawn
from evolvedirector.policies.policy import NeedsParts
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
from evolvedirector.records.layered import with_changes

MIN_LIVE_SAMPLES = 1
"""A revision nobody can train on is never published: the last live prompts are kept whatever the policy decides."""

MOST_REFUSED = 0.9
"""Share of refused texts in a round above which it warns."""

_NEW_STATE: Mapping[str, PromptState] = {"retire": "retired", "master": "mastered", "revive": "live"}


def run_round(round: Round) -> str:
    """Run one round and return the sha of the revision it published.

    Raises:
        RoundInterrupted: Someone asked to stop; running the round again goes on.
        ValueError: The policy decided about prompts that do not exist.
    """
    parts, figures, ledger = round.parts, round.figures, round.parts.ledger
    done = ledger.rounds.published(round.info.round_id)
    if done is not None:  # an older checkpoint repeats it: what later rounds spent must not change what it decided
        parts.executor.enter("train")
        return done
    check_embeddings(round)
    state = parts.store.state(round.info.revision_sha)
    state = replace(state, history=past_rounds(ledger, round.info.revision_sha))
    round, problem, _ = checked(opened(round), state)
    if problem is not None:
        return skip_round(round, problem)
    info = round.info

    plan = parts.policy.plan(state, info)
    _check_plan(round, plan, state)
    candidates = steps.write(round, _with_parents(plan, state), state.entries)
    drawn = steps.render(round, _to_render(state, plan, candidates))
    draw_ahead(round, plan, state, candidates)
    evidence = _screen(round, plan, drawn, candidates)
    evidence += _probe(round, plan, drawn, state)
    evidence += _compare_live(round, plan, drawn, state)
    seen = replace(state, entries=with_changes(state.entries, {p.id: PromptEntry(p, "candidate") for p in candidates}))
    allowance = round.opening_allowance()
    evidence = look_again(round, seen, evidence, allowance)
    scored = _draw_to_score(round, plan, state, candidates)
    evidence += steps.score(round, scored.images)

    decisions = parts.policy.decide(seen, evidence, allowance, info)
    _check_decisions(decisions, state, candidates, scored)
    mix = parts.policy.mix(seen, evidence, info)
    ledger.rounds.add_decisions(info.round_id, decisions)
    _count(figures, decisions, allowance)

    children = _write_children(round, state, plan, candidates, decisions)
    purchases = _buy(round, state, plan, [*_to_buy(candidates, decisions), *children])
    if plan.compare_bought:
        _compare_bought(round, purchases)
    chosen = tuple(_chosen(decision, scored) for decision in decisions if decision.image_sha256 is not None)
    change = _change(state, decisions, replace(purchases, samples=chosen + purchases.samples), figures)
    if plan.most_losses:
        losses = measured_losses(round, live_samples(state, change), plan.most_losses)
        mix = parts.policy.mix(replace(seen, losses=losses), evidence, info)
    change = _drawn_by(change, mix)
    derived = embed(round, change)
    round.watch.check()
    made_by = "" if parts.embedder is None else parts.embedder.fingerprint
    child = parts.store.publish(info.revision_sha, info.round_id, change, derived, made_by)
    ledger.rounds.close(info.round_id, child, figures)
    forget_embedded(round)
    parts.executor.enter("train")
    return child


@dataclass(frozen=True, slots=True)
class _Scored:
    """Images drawn to be scored, and the samples that those of a teacher can become, by prompt id and sha256."""

    images: tuple[Drawn, ...] = ()
    samples: Mapping[tuple[str, str], Sample] = field(default_factory=dict)


def _with_parents(plan: RoundPlan, state: DatasetState) -> list[tuple[WriteRequest, Prompt | None]]:
    """Find the parent whose lineage the texts of an expansion join."""
    by_text = {entry.prompt.text: entry.prompt for entry in state.entries.values()}
    return [
        (request, by_text.get(request.parent or "") if request.operation == "expansion" else None)
        for request in plan.write
    ]


def _to_render(state: DatasetState, plan: RoundPlan, candidates: Sequence[Prompt]) -> list[Prompt]:
    named = [state.entries[prompt_id].prompt for prompt_id in (*plan.compare, *plan.probe)]
    return [*named, *(candidates if plan.screen else ())]


def _screen(round: Round, plan: RoundPlan, drawn: Mapping[str, str], candidates: Sequence[Prompt]) -> list[Evidence]:
    return steps.check(round, [(prompt, drawn[prompt.id]) for prompt in (candidates if plan.screen else ())])


def _probe(round: Round, plan: RoundPlan, drawn: Mapping[str, str], state: DatasetState) -> list[Evidence]:
    return steps.check(round, [(state.entries[key].prompt, drawn[key]) for key in plan.probe], "probe")


def _compare_live(round: Round, plan: RoundPlan, drawn: Mapping[str, str], state: DatasetState) -> list[Evidence]:
    entries = [state.entries[key] for key in plan.compare]
    pairs = [(e.prompt, drawn[e.prompt.id], e.sample.image_sha256) for e in entries if e.sample is not None]
    return steps.compare(round, pairs, plan.both_orders)


def _draw_to_score(round: Round, plan: RoundPlan, state: DatasetState, candidates: Sequence[Prompt]) -> _Scored:
    """Let the student, or the teacher that the plan names, draw what the rewards are to score."""
    prompts = prompts_to_score(plan, state, candidates)
    if not prompts:
        return _Scored()
    variants = range(plan.images_per_prompt)
    if plan.drawn_by is None:
        renders = [steps.render(round, prompts, variant) for variant in variants]
        return _Scored(tuple(dict.fromkeys(Drawn(p, images[p.id], None) for p in prompts for images in renders)))
    wishes = [Wish(prompt, [plan.drawn_by], variant=variant) for prompt in prompts for variant in variants]
    replies = ask_teachers(round, choose_draws(round, wishes, plan.budget_teacher_calls))
    made = [
        Sample.create(draw.prompt, reply.image_sha256, draw.teacher, reply.files)
        for draw, reply in replies.items()
        if reply.image_sha256 is not None
    ]
    samples = {(sample.prompt.id, sample.image_sha256): sample for sample in made}
    return _Scored(tuple(Drawn(s.prompt, s.image_sha256, s.teacher, s.files) for s in samples.values()), samples)


def _count(figures: RoundFigures, decisions: Sequence[Decision], allowance: Allowance) -> None:
    figures.decisions.update(decision.kind for decision in decisions)
    if allowance.teacher_calls is not None:  # an image that was drawn to be scored is paid for already
        to_buy = sum(decision.kind == "buy" and decision.image_sha256 is None for decision in decisions)
        figures.buys_beyond_allowance = max(0, to_buy - allowance.teacher_calls)


def _to_buy(candidates: Sequence[Prompt], decisions: Sequence[Decision]) -> list[Prompt]:
    by_id = {prompt.id: prompt for prompt in candidates}
    return [by_id[d.prompt_id] for d in decisions if d.kind == "buy" and d.image_sha256 is None]


def _write_children(
    round: Round,
    state: DatasetState,
    plan: RoundPlan,
    candidates: Sequence[Prompt],
    decisions: Sequence[Decision],
) -> list[Prompt]:
    requests = _write_requests(round, state, decisions)
    opening = round.opening_allowance()
    if opening.teacher_calls == 0 or opening.cost_usd == 0:
        # a writer may cost money too, and nobody could draw its texts
        round.figures.unwritten += sum(request.count for request, _ in requests)
        requests = []
    known = {*state.entries, *(prompt.id for prompt in candidates)}
    children = steps.write(round, requests, known)
    round.figures.written += len(children) + len(candidates)
    if plan.budget_teacher_calls != 0:  # what is written only to measure may be known already
        _warn_of_refusals(round.figures)
    return children


def _buy(round: Round, state: DatasetState, plan: RoundPlan, prompts: Sequence[Prompt]) -> Purchases:
    favourites = {
        prompt.id: parent.sample.teacher
        for prompt in prompts
        if prompt.parent_id and (parent := state.entries.get(prompt.parent_id)) and parent.sample
    }
    return buy(
        round,
        prompts,
        favourites,
        check_teacher=plan.check_teacher,
        test_all_share=plan.test_all_share,
        limit=plan.budget_teacher_calls,
        bought_from=plan.bought_from,
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
    round: Round, state: DatasetState, decisions: Sequence[Decision]
) -> list[tuple[WriteRequest, Prompt | None]]:
    """Turn expand and mutate decisions into requests. A mutation is unrelated to its parent and founds a lineage."""
    requests: list[tuple[WriteRequest, Prompt | None]] = []
    for decision in decisions:
        if decision.kind in ("expand", "mutate"):
            parent = state.entries[decision.prompt_id].prompt
            expands = decision.kind == "expand"
            name = digest(decision.kind, round.info.round_id, parent.id)
            request = WriteRequest(
                name,
                "expansion" if expands else "mutation",
                parent.text if expands else None,
                parent.skill if expands else None,
                decision.count,
                seed_of(decision.kind, round.info.seed, round.info.round_id, parent.id),
            )
            requests.append((request, parent if expands else None))
    return requests


def _check_plan(round: Round, plan: RoundPlan, state: DatasetState) -> None:
    if isinstance(round.parts.policy, NeedsParts):
        round.parts.policy.check_parts(round.parts.teachers, round.parts.rewards)
    for prompt_id in (*plan.compare, *plan.probe, *plan.score):
        if prompt_id not in state.entries:
            raise UserError(
                f"The policy wants to look at prompt {prompt_id!r}, which is none of the {len(state.entries)} prompts "
                "of the revision. Name prompts of the state in `compare`, `probe` and `score`."
            )
    if plan.most_losses and not round.parts.student.measures_loss:
        raise UserError(
            f"The policy wants the student's loss on up to {plan.most_losses} samples, but its module has no "
            "`sample_losses`. Allowed is such a plan with one that has. Write `most_losses=0` in the plan, or add "
            "`def sample_losses(self, requests: Sequence[LossRequest]) -> list[float]` to the module."
        )
    _check_teacher(round, plan.bought_from, "what is bought", "all of them")
    if not (plan.score or plan.score_candidates):
        return
    if not round.parts.rewards:
        raise UserError(
            "The policy wants scores, but no reward takes part. Allowed is such a plan with at least one reward. Write "
            "`rewards: {clip: {class_path: evolvedirector.rewards.CLIPScore}}`, say, in EvolutionCallback."
        )
    _check_teacher(round, plan.drawn_by, "what is scored", "the student")
    if plan.images_per_prompt < 1:
        raise UserError(
            f"images_per_prompt is {plan.images_per_prompt}. Allowed: 1 or more. Write 1 for one image of each prompt."
        )


def _check_teacher(round: Round, name: str | None, what: str, otherwise: str) -> None:
    if name is not None and name not in round.parts.teachers:
        raise UserError(
            f"The policy wants {name!r} to draw {what}, but no teacher is called so. Allowed: "
            f"{', '.join(round.parts.teachers)}. Write one of these names, or None for {otherwise}."
        )


def _check_decisions(
    decisions: Sequence[Decision], state: DatasetState, candidates: Sequence[Prompt], scored: _Scored
) -> None:
    buyable = {prompt.id for prompt in candidates}
    slots: set[tuple[str, str]] = set()
    for decision in decisions:
        if decision.image_sha256 is not None or decision.variant:
            _check_choice(decision, scored, slots)
            continue
        known = buyable if decision.kind == "buy" else state.entries
        if decision.prompt_id not in known:
            raise UserError(
                f"The policy decided {decision.kind!r} for prompt {decision.prompt_id!r}, which is not among the "
                f"{len(known)} prompts it may decide about. Return decisions only for prompts of the state or "
                "candidates of this round."
            )


def _check_choice(decision: Decision, scored: _Scored, slots: set[tuple[str, str]]) -> None:
    slot = (decision.prompt_id, decision.variant)
    if slot in slots:
        raise UserError(
            f"The policy chose two images of prompt {decision.prompt_id!r} with the variant {decision.variant!r}. "
            "Allowed is one, since a sample replaces the one of the same prompt and variant. Give each a `variant`."
        )
    slots.add(slot)
    if decision.kind != "buy" or (decision.prompt_id, decision.image_sha256) not in scored.samples:
        raise UserError(
            f"The policy decided {decision.kind!r} with image {decision.image_sha256!r} for prompt "
            f"{decision.prompt_id!r}. Allowed is `buy` with one of the {len(scored.samples)} images that a teacher "
            "drew for scoring in this round. Name the teacher, a self-teacher say, in the plan's `drawn_by`."
        )


def _chosen(decision: Decision, scored: _Scored) -> Sample:
    """Make the sample that a chosen image becomes."""
    drawn = scored.samples[decision.prompt_id, decision.image_sha256 or ""]
    return Sample.create(drawn.prompt, drawn.image_sha256, drawn.teacher, drawn.files, decision.variant)


def _compare_bought(round: Round, purchases: Purchases) -> None:
    drawn = round.parts.ledger.rounds.renders(round.info.round_id)
    pairs = []
    for sample in purchases.samples:
        student = drawn.get(steps.student_request(round, sample.prompt).request_id)
        if student:
            pairs.append((sample.prompt, student, sample.image_sha256))
    steps.compare(round, pairs, both_orders=True)


def _change(
    state: DatasetState,
    decisions: Sequence[Decision],
    purchases: Purchases,
    figures: RoundFigures,
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
    return RevisionChange(samples=samples, prompts=failed, states=states)


def _drawn_by(change: RevisionChange, mix: TrainingMix | None) -> RevisionChange:
    if mix is None:
        return change
    return replace(
        change,
        skill_weights=mix.skill_weights,
        replay_share=mix.replay_share,
        sample_weights=mix.sample_weights,
    )
