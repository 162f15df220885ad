"""Asking teachers: who may be asked for what within the budget, and the purchase itself, never made twice."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evolvedirector.evolution.round_context import RoundContext, in_groups
from evolvedirector.records import ImageReply, ImageRequest, Prompt, digest, seed_of
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import check_image
from evolvedirector.store.ledger import Call, StoredReply

Draw = tuple[Prompt, str]
"""A prompt and the teacher who is to draw it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted for one prompt: images of the first `count` of these teachers that can be asked."""

    prompt: Prompt
    teachers: Sequence[str]
    count: int = 1


def teacher_request(context: RoundContext, prompt: Prompt, teacher: str) -> ImageRequest:
    """Name one teacher's image of a prompt; the name holds no round, so a forked run finds its purchase again."""
    width_px, height_px = context.size_of(prompt)
    fingerprint = context.teacher_fingerprints[teacher]
    seed = seed_of("teacher", context.info.seed, prompt.id)
    name = digest("teach", fingerprint, prompt.id, prompt.text, seed, width_px, height_px, length=32)
    return ImageRequest(name, prompt.text, seed, width_px, height_px)


def choose_draws(context: RoundContext, wishes: Sequence[Wish], limit: int | None) -> list[Draw]:
    """Choose what is asked of whom, most urgent wish first, as far as the limits of calls reach.

    What the ledger holds an answer to is free. A teacher whose own budget is spent is passed over. The choice goes by
    urgency alone, not by who is asked first, so a purchase that was cut off anywhere chooses the same again.

    Args:
        context: The round.
        wishes: In order of urgency.
        limit: Teacher calls that the round may spend, those it has spent included; None is unlimited.
    """
    ledger, budget = context.store.ledger, context.budget
    recorded = _recorded(context, [(wish.prompt, teacher) for wish in wishes for teacher in wish.teachers])
    calls = [context.allowance().teacher_calls]
    if limit is not None:
        calls.append(limit - ledger.spend(context.info.round_id).teacher_calls)
    left = min((number for number in calls if number is not None), default=None)
    asked = ledger.calls.by_teacher() if budget.teacher_budgets else {}
    own = {name: calls - asked.get(name, 0) for name, calls in (budget.teacher_budgets or {}).items()}
    cap = budget.teacher_calls_per_lineage
    of_lineage = ledger.calls.by_lineage() if cap is not None else {}
    draws: list[Draw] = []
    for wish in wishes:
        lineage, count = wish.prompt.lineage_id, 0
        for teacher in wish.teachers:
            if count == wish.count:
                break
            if (wish.prompt.id, teacher) not in recorded:
                if own.get(teacher, 1) <= 0:
                    continue
                if (left is not None and left <= 0) or (cap is not None and of_lineage.get(lineage, 0) >= cap):
                    continue  # the next one's image may be there already
                left = None if left is None else left - 1
                own |= {teacher: own[teacher] - 1} if teacher in own else {}
                of_lineage[lineage] = of_lineage.get(lineage, 0) + 1
            draws.append((wish.prompt, teacher))
            count += 1
    return draws


def ask_teachers(context: RoundContext, draws: Sequence[Draw]) -> dict[tuple[str, str], StoredReply]:
    """Get one answer per draw, from the ledger when it has it; the rest as far as the money reaches.

    Returns:
        The answers by (prompt id, teacher).
    """
    answers = _recorded(context, draws)
    missing = [(prompt, teacher) for prompt, teacher in draws if (prompt.id, teacher) not in answers]
    for teacher in dict.fromkeys(teacher for _, teacher in missing):
        share = [prompt for prompt, name in missing if name == teacher]
        context.crew.enter("teach")
        for unit in context.units(share, "teach", context.crew.unit_of(teacher)):
            left = list(unit)
            while (number := _affordable(context, teacher, len(left))) > 0:
                requests = [(prompt, teacher_request(context, prompt, teacher)) for prompt in left[:number]]
                replies = _teach(context, teacher, requests)
                answers |= {(p.id, teacher): replies[request.request_id] for p, request in requests}
                left = left[number:]
    return answers


def _recorded(context: RoundContext, draws: Sequence[Draw]) -> dict[tuple[str, str], StoredReply]:
    """Find final answers that were bought before; a failure may be asked for again."""
    names = {(p.id, teacher): teacher_request(context, p, teacher).request_id for p, teacher in draws}
    replies = context.store.ledger.calls.replies(list(names.values()))
    return {key: replies[name] for key, name in names.items() if name in replies and replies[name].status != "failure"}


def _affordable(context: RoundContext, teacher: str, number: int) -> int:
    """Say how many of `number` images the money still pays at the teacher's price.

    A teacher whose price neither the table nor an answer has told yet is asked for one image first.
    """
    money = context.allowance().cost_usd
    if money is None or number == 0:
        return number
    price = _price_usd(context, teacher)
    if money <= 0 or price is None:
        return min(number, int(money > 0))
    return number if price <= 0 else min(number, int(money / price + 1e-9))  # 8.0 / 0.1 is 79.99999999999999


def _price_usd(context: RoundContext, teacher: str) -> float | None:
    """Return the dearest of what the budget lists, the teacher says and its answers have cost; None while unknown."""
    told = (context.budget.prices_usd or {}).get(teacher), context.teacher_prices_usd.get(teacher)
    return max((p for p in (*told, context.store.ledger.calls.price_usd(teacher)) if p is not None), default=None)


def _teach(context: RoundContext, teacher: str, items: Sequence[tuple[Prompt, ImageRequest]]) -> dict[str, StoredReply]:
    """Send one unit of requests: reserved first, every image durable before its row says so."""
    ledger, blobs = context.store.ledger, context.store.blobs
    prices: Mapping[str, float] = context.budget.prices_usd or {}
    calls = [Call(request.request_id, p.id, p.lineage_id, teacher) for p, request in items]
    ledger.calls.reserve(context.info.round_id, calls, _price_usd(context, teacher) or 0.0)
    open_ids = {request.request_id for _, request in items}
    not_sent: list[ImageReply] = []
    attempts = ledger.calls.attempts(list(open_ids))
    requests = [replace(request, attempt=attempts.get(request.request_id, 0)) for _, request in items]
    for group in in_groups(context.crew.teach(teacher, requests)):
        replies = [_sound(_priced(reply, prices.get(teacher, 0.0))) for reply in group if reply.request_id in open_ids]
        open_ids -= {reply.request_id for reply in replies}
        not_sent += [reply for reply in replies if not reply.sent]
        replies = [reply for reply in replies if reply.sent]
        names = iter(blobs.put_many([reply.image for reply in replies if reply.image is not None]))
        ledger.calls.settle([(reply, next(names) if reply.image is not None else None) for reply in replies])
    unanswered = [ImageReply(request_id, "failure", reason="no reply") for request_id in sorted(open_ids)]
    ledger.calls.settle([(reply, None) for reply in unanswered])
    by_request = {call.request_id: call for call in calls}
    ledger.calls.withdraw([reply.request_id for reply in not_sent])
    refused = {reply.request_id: _unbooked(reply, by_request[reply.request_id]) for reply in not_sent}
    if not_sent:
        warnings.warn(f"The teacher {teacher} draws nothing at present: {not_sent[0].reason}", stacklevel=2)
    return ledger.calls.replies([call.request_id for call in calls if call.request_id not in refused]) | refused


def _unbooked(reply: ImageReply, call: Call) -> StoredReply:
    """Make the answer of a teacher that was not asked: it passes the prompt on, and no call is counted."""
    return StoredReply(reply.request_id, call.prompt_id, call.teacher, "failure", None, reply.reason, 0.0)


def _priced(reply: ImageReply, price_usd: float) -> ImageReply:
    """Charge the listed price for an image whose reply carries no cost."""
    return replace(reply, cost_usd=price_usd) if reply.status == "image" and not reply.cost_usd else reply


def _sound(reply: ImageReply) -> ImageReply:
    """Turn an image that cannot be used into a failure: it was paid for, but nothing may be trained on it."""
    if reply.status != "image":
        return replace(reply, image=None, sent=reply.sent or reply.status != "failure" or reply.cost_usd > 0)
    try:
        check_image(reply.image or b"")
    except StoreError as error:
        return ImageReply(reply.request_id, "failure", None, f"unusable image: {error}", reply.cost_usd, closed=True)
    return reply
