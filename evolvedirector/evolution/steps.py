"""The steps of a round that ask the writer, the student and the judge; each does only what the ledger lacks."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, TypeVar

from evolvedirector.evolution.candidates import accept_texts
from evolvedirector.evolution.round_context import RoundContext, in_groups
from evolvedirector.records import (
    Evidence,
    ImageAndPrompt,
    ImageRequest,
    Look,
    OrderedPair,
    Prompt,
    WriteRequest,
    digest,
    seed_of,
)
from evolvedirector.records.looks import preference_of, reading_of, verdict_of
from evolvedirector.records.part import close_parts

Pair = tuple[Prompt, str, str]
"""Prompt, sha256 of the student's image, sha256 of the teacher's image."""
Question = TypeVar("Question", ImageAndPrompt, OrderedPair)


def write(
    context: RoundContext, requests: Sequence[tuple[WriteRequest, Prompt | None]], known_ids: Collection[str]
) -> list[Prompt]:
    """Ask the writer for texts and return those that may become prompts; refusals are counted by cause.

    An empty reply is final, an outage is not: it is not recorded, so a round that is finished later asks again.

    Args:
        context: The round.
        requests: Each with the parent whose lineage its texts join.
        known_ids: Ids of prompts that are no news: those of the revision and of this round so far.
    """
    ledger = context.store.ledger
    replies = ledger.writes([request.request_id for request, _ in requests])
    missing = [request for request, _ in requests if request.request_id not in replies]
    try:
        for unit in context.units(missing, "write"):
            for group in in_groups(context.writer.write(unit)):
                ledger.add_writes(context.info.round_id, [reply for reply in group if reply.answered or reply.texts])
                replies |= {reply.request_id: reply for reply in group}
    finally:
        close_parts(context.writer)  # whoever works next needs the memory
    unheard = [reply for reply in replies.values() if not reply.answered]
    if unheard:
        warnings.warn(f"The writer writes nothing at present: {unheard[0].refusal}", stacklevel=2)
    written = accept_texts(requests, replies, known_ids, ledger.held_out())
    ledger.add_prompts(written.prompts)
    context.figures.refused.update(written.refused)
    return written.prompts


def render(context: RoundContext, prompts: Sequence[Prompt]) -> dict[str, str]:
    """Let the student draw the prompts; returns the image's sha256 by prompt id.

    Chunks are cut from the whole list and a chunk is drawn again when any of it is missing, so that a repeated
    round puts every image among the same neighbours.
    """
    if not prompts:
        return {}
    context.crew.enter("render")
    store, info = context.store, context.info
    requests = [student_request(context, prompt) for prompt in prompts]
    drawn = store.ledger.renders(info.round_id)
    chunk = context.crew.chunk
    chunks = [requests[start : start + chunk] for start in range(0, len(requests), chunk)]
    missing = [r for part in chunks if any(r.request_id not in drawn for r in part) for r in part]
    for unit in context.units(missing, "render"):
        names = store.blobs.put_many(context.crew.render(unit))
        images = {request.request_id: sha256 for request, sha256 in zip(unit, names, strict=True)}
        store.ledger.add_renders(info.round_id, images)
        drawn |= images
    return {prompt.id: drawn[request.request_id] for prompt, request in zip(prompts, requests, strict=True)}


def student_request(context: RoundContext, prompt: Prompt) -> ImageRequest:
    """Name the student image of a prompt in this round; its seed follows from the run, the round and the prompt."""
    width_px, height_px = context.size_of(prompt)
    seed = seed_of("student", context.info.seed, context.info.round_id, prompt.id)
    return ImageRequest(digest("student", context.info.round_id, prompt.id), prompt.text, seed, width_px, height_px)


def check(
    context: RoundContext,
    images: Sequence[tuple[Prompt, str]],
    kind: Literal["screen", "probe", "faithfulness"] = "screen",
) -> list[Evidence]:
    """Ask whether each image (sha256) shows its prompt, as far as the budget of looks reaches.

    Args:
        context: The round.
        images: Prompts with the student's images, or a teacher's for `faithfulness`.
        kind: What the answers are evidence of.
    """
    of_teacher = kind == "faithfulness"
    judge = context.judge_fingerprint
    keys = [digest("check", judge, prompt.text, sha256, length=32) for prompt, sha256 in images]

    def question(position: int) -> ImageAndPrompt:
        prompt, sha256 = images[position]
        return ImageAndPrompt(keys[position], context.store.blobs.get(sha256), prompt.text)

    looks = ask(context, keys, question, context.crew.check)
    evidence = [
        Evidence(
            prompt.id,
            kind,
            reading=reading_of(looks[key]),
            looks=(looks[key],),
            student_sha256=None if of_teacher else sha256,
            teacher_sha256=sha256 if of_teacher else None,
            skill=prompt.skill,
            lineage_id=prompt.lineage_id,
        )
        for key, (prompt, sha256) in zip(keys, images, strict=True)
        if key in looks
    ]
    _record(context, evidence)
    return evidence


def compare(context: RoundContext, pairs: Sequence[Pair], both_orders: bool) -> list[Evidence]:
    """Compare student with teacher, in both orders or once in a seeded random order."""
    judge, info = context.judge_fingerprint, context.info
    asked: list[tuple[str, Pair, bool]] = []
    for prompt, student, teacher in pairs:
        coin = random.Random(seed_of("order", info.seed, info.round_id, prompt.id)).random() < 0.5
        for student_first in (True, False) if both_orders else (coin,):
            first, second = (student, teacher) if student_first else (teacher, student)
            key = digest("look", judge, prompt.text, first, second, length=32)
            asked.append((key, (prompt, student, teacher), student_first))

    def question(position: int) -> OrderedPair:
        key, (prompt, student, teacher), student_first = asked[position]
        first, second = (student, teacher) if student_first else (teacher, student)
        return OrderedPair(key, context.store.blobs.get(first), context.store.blobs.get(second), prompt.text)

    looks = ask(context, [key for key, *_ in asked], question, context.crew.look)
    by_order: dict[str, dict[bool, Look]] = {}
    for key, (prompt, *_), student_first in asked:
        if key in looks:
            by_order.setdefault(prompt.id, {})[student_first] = looks[key]
    evidence = []
    for prompt, student, teacher in pairs:
        taken = by_order.get(prompt.id, {})
        if len(taken) == (2 if both_orders else 1):
            preference = preference_of(taken.get(True), taken.get(False), context.tie_margin)
            evidence.append(
                Evidence(
                    prompt.id,
                    "compare",
                    verdict=verdict_of(preference, first="student"),
                    looks=tuple(taken.values()),
                    student_sha256=student,
                    teacher_sha256=teacher,
                )
            )
    _record(context, evidence)
    return evidence


def ask(
    context: RoundContext,
    keys: Sequence[str],
    question: Callable[[int], Question],
    judge: Callable[[Sequence[Question]], Iterable[Look]],
) -> dict[str, Look]:
    """Ask what the ledger does not know yet; a question is reserved before it is asked and paid from the allowance."""
    if not keys:
        return {}
    ledger = context.store.ledger
    looks = ledger.looks(keys)
    missing = list({key: position for position, key in enumerate(keys) if key not in looks}.values())
    allowed = context.allowance().judge_calls
    if allowed is not None and len(missing) > allowed:
        context.figures.looks_beyond_budget += len(missing) - allowed
        missing = missing[:allowed]
    context.crew.enter("judge")
    for unit in context.units(missing, "judge", context.crew.unit_of(None)):
        names = [keys[position] for position in unit]
        price_usd = context.budget.price_per_look_usd
        ledger.reserve_looks(context.info.round_id, context.judge_fingerprint, names, price_usd)
        expected = {keys[position] for position in unit}
        for group in in_groups(judge([question(position) for position in unit])):
            group = [look for look in group if look.item_id in expected]  # an answer nobody asked for is no answer
            # one that was cut off stays open, as after a kill: it counts, and is asked again when the round is repeated
            ledger.settle_looks([look for look in group if look.sent and not look.cut_off])
            ledger.withdraw_looks([look.item_id for look in group if not look.sent], price_usd)
            looks |= {look.item_id: look for look in group}
        silent = [Look(key, 0.5, 0.0, "no answer") for key in expected - looks.keys()]
        ledger.settle_looks(silent)
        looks |= {look.item_id: look for look in silent}
    return looks


def _record(context: RoundContext, evidence: Sequence[Evidence]) -> None:
    context.store.ledger.add_evidence(context.info.round_id, evidence)
    context.figures.add(evidence)
