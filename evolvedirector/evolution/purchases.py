"""Buying images: preferred teacher first, refusals passed on, the budget never exceeded, nothing bought twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evolvedirector.evolution.round_context import RoundContext, in_groups
from evolvedirector.records import ImageReply, ImageRequest, Prompt, Sample, digest, seed_of
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import check_image
from evolvedirector.store.ledger import Call, StoredReply

Faithful = Callable[[Sequence[tuple[Prompt, str]]], Mapping[str, bool]]
"""(prompt, image sha256) to: does the image show the prompt? By prompt id."""


@dataclass(frozen=True, slots=True)
class Purchases:
    """What buying gave: samples, prompts no teacher draws, and prompts left for later (the budget, an outage)."""

    samples: tuple[Sample, ...]
    failed: tuple[Prompt, ...]
    unbought: tuple[Prompt, ...]


def teacher_request(context: RoundContext, prompt: Prompt, teacher: str) -> ImageRequest:
    """Name one teacher's image of a prompt; the name holds no round, so a forked run finds its purchase again."""
    width_px, height_px = context.size_of(prompt)
    fingerprint = context.teacher_fingerprints[teacher]
    seed = seed_of("teacher", context.info.seed, prompt.id)
    name = digest("teach", fingerprint, prompt.id, prompt.text, seed, width_px, height_px, length=32)
    return ImageRequest(name, prompt.text, seed, width_px, height_px)


def preference(context: RoundContext, prompt: Prompt, favourite: str | None) -> list[str]:
    """Order the teachers for a prompt: its lineage's winner first, else spread by the prompt's id."""
    names = list(context.teacher_fingerprints)
    start = names.index(favourite) if favourite in names else seed_of("teacher of", prompt.id) % len(names)
    return names[start:] + names[:start]


def buy(
    context: RoundContext, prompts: Sequence[Prompt], favourites: Mapping[str, str], faithful: Faithful | None = None
) -> Purchases:
    """Buy one image per prompt, in order, as far as the budget reaches.

    A teacher that refuses or fails is passed over for the next one. With `faithful`, an image that does not show its
    prompt sends the prompt to the next teacher once. A refusal is final, a failure is not: a prompt that some teacher
    failed to draw (an outage, a damaged image) stays unbought and may be asked for again in a later round.

    Args:
        context: The round.
        prompts: What to buy, most urgent first.
        favourites: Teacher to ask first, by prompt id.
        faithful: Checks bought images; None trusts every teacher.
    """
    orders = {prompt.id: preference(context, prompt, favourites.get(prompt.id)) for prompt in prompts}
    waiting = {prompt.id: 0 for prompt in prompts}  # prompt id -> how many teachers were tried
    unfaithful: dict[str, int] = {}
    samples: dict[str, Sample] = {}
    failed: dict[str, Prompt] = {}
    outage: set[str] = set()
    while True:
        wanted = [(prompt, orders[prompt.id][waiting[prompt.id]]) for prompt in prompts if prompt.id in waiting]
        answers = _ask_teachers(context, wanted)
        if not answers:
            break
        bought = [(p, answers[p.id].image_sha256) for p, _ in wanted if _is_image(answers.get(p.id))]
        kept = faithful(bought) if faithful and bought else {}  # type: ignore[arg-type]
        for prompt, teacher in wanted:
            answer = answers.get(prompt.id)
            if answer is None:
                continue
            shows = kept.get(prompt.id, True)
            if answer.image_sha256 and shows:
                samples[prompt.id] = Sample.create(prompt, answer.image_sha256, teacher)
                del waiting[prompt.id]
                continue
            context.figures[f"teacher: {'unfaithful' if answer.image_sha256 else answer.status}"] += 1
            unfaithful[prompt.id] = unfaithful.get(prompt.id, 0) + bool(answer.image_sha256)
            if answer.status == "failure":
                outage.add(prompt.id)
            waiting[prompt.id] += 1
            if waiting[prompt.id] >= len(orders[prompt.id]) or unfaithful[prompt.id] > 1:
                if prompt.id not in outage:
                    failed[prompt.id] = prompt
                del waiting[prompt.id]
    return Purchases(
        tuple(samples[p.id] for p in prompts if p.id in samples),
        tuple(failed.values()),
        tuple(p for p in prompts if p.id not in samples and p.id not in failed),
    )


def _is_image(answer: StoredReply | None) -> bool:
    return answer is not None and answer.image_sha256 is not None


def _ask_teachers(context: RoundContext, wanted: Sequence[tuple[Prompt, str]]) -> dict[str, StoredReply]:
    """Get one answer per (prompt, teacher), from the ledger when it has it; the rest as far as the budget reaches."""
    requests = {prompt.id: teacher_request(context, prompt, teacher) for prompt, teacher in wanted}
    recorded = context.store.ledger.replies([request.request_id for request in requests.values()])
    recorded = {key: reply for key, reply in recorded.items() if reply.status != "failure"}
    missing = [(p, teacher) for p, teacher in wanted if requests[p.id].request_id not in recorded]
    for teacher in dict.fromkeys(teacher for _, teacher in missing):
        share = [prompt for prompt, name in missing if name == teacher]
        context.crew.enter("teach")
        for unit in context.units(share, "teach"):
            left = list(unit)
            while affordable := _affordable(context, teacher, left):
                recorded |= _teach(context, teacher, [(p, requests[p.id]) for p in affordable])
                left = [prompt for prompt in left if prompt not in affordable]
    return {p.id: recorded[requests[p.id].request_id] for p, _ in wanted if requests[p.id].request_id in recorded}


def _affordable(context: RoundContext, teacher: str, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Keep what the budget still pays for: calls in all, per round and per lineage, and money at the teacher's price.

    Under a limit of money a teacher whose price is not known yet is asked for one image first.
    """
    allowance = context.allowance()
    left = len(prompts) if allowance.teacher_calls is None else allowance.teacher_calls
    if allowance.cost_usd is not None:
        price = context.store.ledger.price_usd(teacher)
        if allowance.cost_usd <= 0 or price is None:
            left = min(left, int(allowance.cost_usd > 0))
        elif price > 0:
            left = min(left, int(allowance.cost_usd / price + 1e-9))  # 8.0 / 0.1 is 79.99999999999999
    cap = context.budget.teacher_calls_per_lineage
    spent = context.store.ledger.lineage_calls() if cap is not None else {}
    chosen: list[Prompt] = []
    for prompt in prompts:
        if len(chosen) >= left:
            break
        used = spent.get(prompt.lineage_id, 0)
        if cap is None or used < cap:
            chosen.append(prompt)
            spent[prompt.lineage_id] = used + 1
    return chosen


def _teach(context: RoundContext, teacher: str, items: Sequence[tuple[Prompt, ImageRequest]]) -> dict[str, StoredReply]:
    """Send one unit of requests: reserved first, every image durable before its row says so."""
    ledger, blobs = context.store.ledger, context.store.blobs
    calls = [Call(request.request_id, p.id, p.lineage_id, teacher) for p, request in items]
    ledger.reserve_calls(context.info.round_id, calls)
    open_ids = {request.request_id for _, request in items}
    for group in in_groups(context.crew.teach(teacher, [request for _, request in items])):
        replies = [_sound(reply) for reply in group if reply.request_id in open_ids]
        open_ids -= {reply.request_id for reply in replies}
        names = iter(blobs.put_many([reply.image for reply in replies if reply.image is not None]))
        ledger.settle_calls([(reply, next(names) if reply.image is not None else None) for reply in replies])
    unanswered = [ImageReply(request_id, "failure", reason="no reply") for request_id in sorted(open_ids)]
    ledger.settle_calls([(reply, None) for reply in unanswered])
    return ledger.replies([call.request_id for call in calls])


def _sound(reply: ImageReply) -> ImageReply:
    """Turn an image that cannot be used into a failure: it was paid for, but nothing may be trained on it."""
    if reply.status != "image":
        return ImageReply(reply.request_id, reply.status, None, reply.reason, reply.cost_usd)
    try:
        check_image(reply.image or b"")
    except StoreError as error:
        return ImageReply(reply.request_id, "failure", None, f"unusable image: {error}", reply.cost_usd)
    return reply
