"""Asking teachers: who may be asked for what within the budget, and the purchase itself, never made twice."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from evolvedirector.evolution.prompt_files import PromptFiles
from evolvedirector.evolution.remembered import remembered
from evolvedirector.evolution.round_parts import Round
from evolvedirector.records import FileRef, ImageReply, ImageRequest, Prompt, digest, seed_of
from evolvedirector.store.errors import StoreError
from evolvedirector.store.files import checked_ref
from evolvedirector.store.images import check_image
from evolvedirector.store.ledger import Call, StoredReply


class Draw(NamedTuple):
    """One image of one prompt by one teacher."""

    prompt: Prompt
    teacher: str
    variant: int = 0
    """Which of several images of the prompt by that teacher; each has a seed of its own."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted for one prompt: images of the first `count` of these teachers that can be asked."""

    prompt: Prompt
    teachers: Sequence[str]
    count: int = 1
    variant: int = 0


def teacher_request(
    round: Round, prompt: Prompt, teacher: str, variant: int = 0, files: Mapping[str, FileRef] | None = None
) -> ImageRequest:
    """Name one teacher's image of a prompt; the name holds no round, so a forked run finds its purchase again.

    Args:
        round: The round.
        prompt: What to draw.
        teacher: Who draws.
        variant: Which of several images of the prompt.
        files: What it is drawn from, by role; other files are another image. None: nothing.
    """
    width_px, height_px = round.parts.size_of(prompt)
    fingerprint = round.parts.teacher_fingerprints[teacher]
    seed = seed_of("teacher", round.info.seed, prompt.id, *([variant] if variant else []))
    named = [part for role in sorted(files or {}) for part in (role, (files or {})[role].sha256)]
    name = digest("teach", fingerprint, prompt.id, prompt.text, seed, width_px, height_px, *named, length=32)
    return ImageRequest(name, prompt.text, seed, width_px, height_px, files=dict(files or {}))


def choose_draws(round: Round, wishes: Sequence[Wish], limit: int | None) -> list[Draw]:
    """Choose what is asked of whom, most urgent wish first, as far as the limits of calls reach.

    What the ledger holds an answer to is free. A teacher whose own budget is spent is passed over. The choice goes by
    urgency alone, not by who is asked first, so a purchase that was cut off anywhere chooses the same again.

    Args:
        round: The round.
        wishes: In order of urgency.
        limit: Teacher calls that the round may spend, those it has spent included; None is unlimited.
    """
    ledger, budget = round.parts.ledger, round.parts.budget
    files = PromptFiles(round)
    recorded = _recorded(
        round, files, [Draw(wish.prompt, name, wish.variant) for wish in wishes for name in wish.teachers]
    )
    calls = [round.allowance().teacher_calls]
    if limit is not None:
        calls.append(limit - ledger.spend(round.info.round_id).teacher_calls)
    left = min((number for number in calls if number is not None), default=None)
    asked = ledger.calls.by_teacher() if budget.teacher_budgets else {}
    own = {name: calls - asked.get(name, 0) for name, calls in (budget.teacher_budgets or {}).items()}
    cap = budget.teacher_calls_per_lineage
    of_lineage = ledger.calls.by_lineage() if cap is not None else {}
    booked = _booked_lineages(round, files, wishes) if cap is not None else {}
    draws: list[Draw] = []
    for wish in wishes:
        count = 0
        for teacher in wish.teachers:
            if count == wish.count:
                break
            draw = Draw(wish.prompt, teacher, wish.variant)
            if draw not in recorded:
                if own.get(teacher, 1) <= 0:
                    continue
                lineages = {wish.prompt.lineage_id, booked.get(draw, wish.prompt.lineage_id)}
                full = cap is not None and any(of_lineage.get(lineage, 0) >= cap for lineage in lineages)
                if full or (left is not None and left <= 0):
                    continue  # the next one's image may be there already
                left = None if left is None else left - 1
                own |= {teacher: own[teacher] - 1} if teacher in own else {}
                of_lineage |= {lineage: of_lineage.get(lineage, 0) + 1 for lineage in lineages}
            draws.append(draw)
            count += 1
    return draws


def ask_teachers(round: Round, draws: Sequence[Draw]) -> dict[Draw, StoredReply]:
    """Get one answer per draw, from the ledger when it has it; the rest as far as the money reaches.

    The files that a prompt is drawn from stay with its image, beside those that the teacher sent.
    """
    answers: dict[Draw, StoredReply] = {}
    files = PromptFiles(round)
    for teacher in dict.fromkeys(draw.teacher for draw in draws):
        answers |= _ask(round, files, teacher, [draw for draw in draws if draw.teacher == teacher])
    return {draw: replace(reply, files={**files.of(draw.prompt), **reply.files}) for draw, reply in answers.items()}


def _ask(round: Round, files: PromptFiles, teacher: str, draws: Sequence[Draw]) -> dict[Draw, StoredReply]:
    """Ask one teacher: reserved first, every image durable before its row says so."""
    parts, info, book = round.parts, round.info, round.parts.ledger.calls
    requests = {request.request_id: (draw, request) for draw in draws for request in (_request(round, files, draw),)}
    price_usd = (parts.budget.prices_usd or {}).get(teacher, 0.0)
    reasons: list[str] = []

    def reserve(keys: Sequence[str]) -> None:
        asked = [(requests[key][0].prompt, requests[key][1]) for key in keys]
        source = parts.teacher_fingerprints[teacher]
        calls = [Call(r.request_id, p.id, p.lineage_id, teacher, r.seed, source) for p, r in asked]
        book.reserve(info.round_id, calls, _price_usd(round, teacher) or 0.0)

    def made(keys: Sequence[str]) -> list[ImageRequest]:
        attempts = book.attempts(keys)
        asked = {key: requests[key][1] for key in keys}
        return [
            replace(request, attempt=attempts.get(key, 0), files=files.with_content(request.files))
            for key, request in asked.items()
        ]

    def settle(replies: Sequence[ImageReply]) -> dict[str, StoredReply]:
        replies = [_sound(_priced(reply, price_usd)) for reply in replies]
        sent = [reply for reply in replies if reply.sent]
        unsent = {reply.request_id: reply for reply in replies if not reply.sent}
        reasons.extend(reply.reason for reply in unsent.values())
        round.note_faults(f"teacher {teacher}", [_why_none(reply) for reply in replies if reply.status != "image"])
        book.settle(_durable(round, sent))
        book.withdraw(list(unsent))
        refused = {key: _unbooked(reply, requests[key][0]) for key, reply in unsent.items()}
        return book.replies([reply.request_id for reply in sent]) | refused

    found: dict[str, StoredReply] = remembered(
        round,
        "teach",
        parts.teachers[teacher],
        "generate",
        list(requests),
        recorded=lambda keys: _final(book.replies(keys)),
        requests=made,
        settle=settle,
        reserve=reserve,
        silent=lambda keys: settle([ImageReply(key, "failure", reason="no reply") for key in sorted(keys)]),
        afford=lambda number: _affordable(round, teacher, number),
    )
    if reasons:
        warnings.warn(f"The teacher {teacher} draws nothing at present: {reasons[0]}", stacklevel=2)
    return {requests[key][0]: reply for key, reply in found.items()}


def _why_none(reply: ImageReply) -> str:
    said = reply.reason or "no reason given"
    return f"refused: {said}" if reply.status == "refusal" else said


def _request(round: Round, files: PromptFiles, draw: Draw) -> ImageRequest:
    return teacher_request(round, draw.prompt, draw.teacher, draw.variant, files.of(draw.prompt))


def _recorded(round: Round, files: PromptFiles, draws: Sequence[Draw]) -> set[Draw]:
    """Find the draws whose final answers were bought before."""
    names = {draw: _request(round, files, draw).request_id for draw in draws}
    replies = _final(round.parts.ledger.calls.replies(list(names.values())))
    return {draw for draw, name in names.items() if name in replies}


def _booked_lineages(round: Round, files: PromptFiles, wishes: Sequence[Wish]) -> dict[Draw, str]:
    """Find what was asked before for another lineage: a text that failed there and was written anew for this one."""
    draws = [Draw(wish.prompt, name, wish.variant) for wish in wishes for name in wish.teachers]
    names = {draw: _request(round, files, draw).request_id for draw in draws}
    lineages = round.parts.ledger.calls.lineages(list(names.values()))
    return {draw: lineages[name] for draw, name in names.items() if name in lineages}


def _final(replies: Mapping[str, StoredReply]) -> dict[str, StoredReply]:
    """Leave out failures: they may be asked for again."""
    return {key: reply for key, reply in replies.items() if reply.status != "failure"}


def _affordable(round: Round, teacher: str, number: int) -> int:
    """Say how many of `number` images the money still pays at the teacher's price.

    A teacher whose price neither the table nor an answer has told yet is asked for one image first.
    """
    money = round.allowance().cost_usd
    if money is None or number == 0:
        return number
    price = _price_usd(round, teacher)
    if money <= 0 or price is None:
        return min(number, int(money > 0))
    return number if price <= 0 else min(number, int(money / price + 1e-9))  # 8.0 / 0.1 is 79.99999999999999


def _price_usd(round: Round, teacher: str) -> float | None:
    """Return the dearest of what the budget lists, the teacher says and its answers have cost; None while unknown."""
    parts = round.parts
    told = (parts.budget.prices_usd or {}).get(teacher), parts.teacher_prices_usd.get(teacher)
    return max((p for p in (*told, parts.ledger.calls.price_usd(teacher)) if p is not None), default=None)


def _durable(round: Round, replies: Sequence[ImageReply]) -> list[tuple[ImageReply, str | None]]:
    """Make images and files blobs; returns the replies, whose files have no content any more, with their images."""
    blobs = round.parts.store.blobs
    images = iter(blobs.put_many([reply.image for reply in replies if reply.image is not None]))
    settled = []
    for reply in replies:
        if reply.files:
            kept = blobs.put_files(list(reply.files.values()))
            reply = replace(reply, files=dict(zip(reply.files, kept, strict=True)))
        settled.append((reply, next(images) if reply.image is not None else None))
    return settled


def _unbooked(reply: ImageReply, draw: Draw) -> StoredReply:
    """Make the answer of a teacher that was not asked: it passes the prompt on, and no call is counted."""
    return StoredReply(reply.request_id, draw.prompt.id, draw.teacher, "failure", None, reply.reason, 0.0)


def _priced(reply: ImageReply, price_usd: float) -> ImageReply:
    """Charge the listed price for an image whose reply carries no cost."""
    return replace(reply, cost_usd=price_usd) if reply.status == "image" and not reply.cost_usd else reply


def _sound(reply: ImageReply) -> ImageReply:
    """Turn an image or a file that cannot be used into a failure: it was paid for, but nothing may be trained on it."""
    if reply.status != "image":
        sent = reply.sent or reply.status != "failure" or reply.cost_usd > 0
        return replace(reply, image=None, files={}, sent=sent)
    try:
        check_image(reply.image or b"")
        for file in reply.files.values():
            checked_ref(file)
    except StoreError as error:
        return ImageReply(reply.request_id, "failure", None, f"unusable image: {error}", reply.cost_usd, closed=True)
    return reply
