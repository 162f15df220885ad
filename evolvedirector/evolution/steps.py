"""The steps of a round that ask the writer, the student, the judge and the rewards; each does what the ledger lacks."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from evolvedirector.evolution.candidates import accept_texts
from evolvedirector.evolution.prompt_files import PromptFiles
from evolvedirector.evolution.remembered import remembered, whole_chunks
from evolvedirector.evolution.round_parts import Round
from evolvedirector.records import (
    Evidence,
    FileRef,
    ImageAndPrompt,
    ImageReply,
    ImageRequest,
    Look,
    OrderedPair,
    Prompt,
    Score,
    WriteReply,
    WriteRequest,
    digest,
    seed_of,
)
from evolvedirector.records.looks import is_readable, preference_of, reading_of, verdict_of

Pair = tuple[Prompt, str, str]
"""Prompt, sha256 of the student's image, sha256 of the teacher's image."""
Question = TypeVar("Question", ImageAndPrompt, OrderedPair)


@dataclass(frozen=True, slots=True)
class Drawn:
    """An image that waits for a score."""

    prompt: Prompt
    sha256: str
    teacher: str | None
    """Who drew it; None is the student."""
    files: Mapping[str, FileRef] = field(default_factory=dict, hash=False)
    """What came with the image, by role, without content."""


def write(
    round: Round, requests: Sequence[tuple[WriteRequest, Prompt | None]], known_ids: Collection[str]
) -> list[Prompt]:
    """Ask the writer for texts and return those that may become prompts; refusals are counted by cause.

    An empty reply is final, an outage is not: it is not recorded, so a round that is finished later asks again.

    Args:
        round: The round.
        requests: Each with the parent whose lineage its texts join.
        known_ids: Ids of prompts that are no news: those of the revision and of this round so far.
    """
    book, writer = round.parts.ledger.prompts, round.parts.writer
    by_id = {request.request_id: request for request, _ in requests}

    def settle(replies: Sequence[WriteReply]) -> dict[str, WriteReply]:
        round.note_faults("writer", [reply.refusal for reply in replies if not (reply.answered or reply.texts)])
        book.add_writes(round.info.round_id, [reply for reply in replies if reply.answered or reply.texts])
        return {reply.request_id: reply for reply in replies}

    replies: dict[str, WriteReply] = remembered(
        round,
        "write",
        writer,
        "write",
        list(by_id),
        recorded=book.writes,
        requests=lambda keys: [by_id[key] for key in keys],
        settle=settle,
        silent=lambda keys: settle([WriteReply(key, refusal="no reply", answered=False) for key in keys]),
    )
    unanswered = [reply for reply in replies.values() if not reply.answered]
    if unanswered:
        warnings.warn(f"The writer writes nothing at present: {unanswered[0].refusal}", stacklevel=2)
    for request, _ in requests:
        reply = replies.get(request.request_id)
        if reply is not None and reply.refusal and request.skill is not None and len(reply.texts) < request.count:
            round.figures.shortfalls[request.skill] = reply.refusal
    written = accept_texts(requests, replies, known_ids, book.held_out())
    book.add(written.prompts)
    round.figures.refused.update(written.refused)
    return written.prompts


def render(round: Round, prompts: Sequence[Prompt], variant: int = 0) -> dict[str, str]:
    """Let the student draw the prompts; returns the image's sha256 by prompt id.

    Chunks are cut from the whole list and a chunk is drawn again when any of it is missing, so that a repeated
    round puts every image among the same neighbours.

    Args:
        round: The round.
        prompts: What to draw.
        variant: Which of several images of a prompt; each has a seed of its own.
    """
    files = PromptFiles(round)
    requests = {prompt.id: student_request(round, prompt, variant) for prompt in prompts}
    drawn = draw(round, {requests[prompt.id]: files.of(prompt) for prompt in prompts}, files)
    return {prompt_id: drawn[request.request_id] for prompt_id, request in requests.items()}


def draw(round: Round, asked: Mapping[ImageRequest, Mapping[str, FileRef]], files: PromptFiles) -> dict[str, str]:
    """Let the student draw requests, each from its files; returns the image's sha256 by request id.

    Args:
        round: The round.
        asked: Requests without files, and the files of each by role, without content.
        files: Reads their content.
    """
    parts, student = round.parts, round.parts.student
    requests = {request.request_id: request for request in asked}
    drawn_from = {request.request_id: roles for request, roles in asked.items()}
    # images of one size, from files of the same roles, are drawn together: mixed chunks would be mostly padding
    names = sorted(
        requests, key=lambda name: (requests[name].height_px, requests[name].width_px, sorted(drawn_from[name]))
    )

    def settle(replies: Sequence[ImageReply]) -> dict[str, str]:
        images = parts.store.blobs.put_many([reply.image or b"" for reply in replies])
        drawn = {reply.request_id: sha256 for reply, sha256 in zip(replies, images, strict=True)}
        parts.ledger.rounds.add_renders(round.info.round_id, drawn)
        return drawn

    return remembered(
        round,
        "render",
        student,
        "generate",
        names,
        recorded=lambda keys: whole_chunks(keys, student.chunk, parts.ledger.rounds.renders(round.info.round_id)),
        requests=lambda keys: [replace(requests[key], files=files.with_content(drawn_from[key])) for key in keys],
        settle=settle,
        group_seconds=math.inf,  # a unit is drawn as a whole: its images come all at once
    )


def student_request(round: Round, prompt: Prompt, variant: int = 0) -> ImageRequest:
    """Name a student image of a prompt in this round; its seed follows from the run, the round and the prompt."""
    info, further = round.info, [variant] if variant else []
    width_px, height_px = round.parts.size_of(prompt)
    name = digest("student", info.round_id, prompt.id, *further)
    seed = seed_of("student", info.seed, info.round_id, prompt.id, *further)
    return ImageRequest(name, prompt.text, seed, width_px, height_px)


def check(
    round: Round,
    images: Sequence[tuple[Prompt, str]],
    kind: Literal["screen", "probe", "faithfulness"] = "screen",
) -> list[Evidence]:
    """Ask whether each image (sha256) shows its prompt, as far as the budget of looks reaches.

    Args:
        round: The round.
        images: Prompts with the student's images, or a teacher's for `faithfulness`.
        kind: What the answers are evidence of.
    """
    of_teacher = kind == "faithfulness"
    evidence = [
        Evidence(
            prompt.id,
            kind,
            reading=reading_of(taken),
            looks=(taken,),
            student_sha256=None if of_teacher else sha256,
            teacher_sha256=sha256 if of_teacher else None,
            skill=prompt.skill,
            lineage_id=prompt.lineage_id,
        )
        for (prompt, sha256), taken in zip(images, _checked(round, images), strict=True)
        if taken is not None
    ]
    return _recorded(round, evidence)


def check_again(round: Round, screened: Sequence[Evidence], prompts: Mapping[str, Prompt]) -> list[Evidence]:
    """Let the student draw screened prompts once more and look at that; each keeps its first reading, and counts once.

    A student that draws the same image again, to the byte, teaches nothing: its look is the one already taken.

    Args:
        round: The round.
        screened: What was seen of them so far; with n looks taken, the drawing of variant n is next.
        prompts: By id.

    Returns:
        The evidence that has a look more than before.
    """
    by_variant: dict[int, list[Prompt]] = {}
    for item in screened:
        by_variant.setdefault(len(item.looks), []).append(prompts[item.prompt_id])
    drawn: dict[str, str] = {}
    for variant, again in sorted(by_variant.items()):
        drawn |= render(round, again, variant)
    images = [(prompts[item.prompt_id], drawn[item.prompt_id]) for item in screened]
    more = [
        replace(item, looks=(*item.looks, taken), further_sha256=(*item.further_sha256, sha256))
        for item, (_, sha256), taken in zip(screened, images, _checked(round, images), strict=True)
        if taken is not None and sha256 not in (item.student_sha256, *item.further_sha256)
    ]
    round.parts.ledger.looks.add_evidence(round.info.round_id, more)
    return more


def _checked(round: Round, images: Sequence[tuple[Prompt, str]]) -> list[Look | None]:
    """Ask whether each image (sha256) shows its prompt; None where the budget of looks kept it from being asked."""
    judge = round.parts.judge_fingerprint
    keys = [digest("check", judge, prompt.text, sha256, length=32) for prompt, sha256 in images]

    def question(position: int) -> ImageAndPrompt:
        prompt, sha256 = images[position]
        return ImageAndPrompt(keys[position], round.parts.store.blobs.get(sha256), prompt.text)

    looks = look(round, "check", keys, question)
    return [looks.get(key) for key in keys]


def compare(round: Round, pairs: Sequence[Pair], both_orders: bool) -> list[Evidence]:
    """Compare student with teacher, in both orders or once in a seeded random order."""
    judge, info = round.parts.judge_fingerprint, round.info
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
        blobs = round.parts.store.blobs
        return OrderedPair(key, blobs.get(first), blobs.get(second), prompt.text)

    looks = look(round, "look", [key for key, *_ in asked], question)
    by_order: dict[str, dict[bool, Look]] = {}
    for key, (prompt, *_), student_first in asked:
        if key in looks:
            by_order.setdefault(prompt.id, {})[student_first] = looks[key]
    evidence = []
    for prompt, student, teacher in pairs:
        taken = by_order.get(prompt.id, {})
        if len(taken) == (2 if both_orders else 1):
            preference = preference_of(taken.get(True), taken.get(False), round.parts.tie_margin)
            verdict = verdict_of(preference, first="student")
            evidence.append(Evidence(prompt.id, "compare", None, verdict, tuple(taken.values()), student, teacher))
    return _recorded(round, evidence)


def score(round: Round, images: Sequence[Drawn]) -> list[Evidence]:
    """Let every reward score the images; one that a reward could not score has no score of that reward."""
    by_name: dict[str, dict[str, Score]] = {}
    for name, reward in round.parts.rewards.items():
        keys = {_score_key(reward.fingerprint, drawn): drawn for drawn in images}

        def questions(names: Sequence[str], keys: dict[str, Drawn] = keys) -> list[ImageAndPrompt]:
            return [_to_score(round, key, keys[key]) for key in names]

        def settle(scores: Sequence[Score], reward: str = reward.fingerprint) -> dict[str, Score]:
            sent = [score for score in scores if score.sent]
            round.parts.ledger.looks.add_scores(round.info.round_id, reward, sent)
            return {score.item_id: score for score in sent}

        found: dict[str, Score] = remembered(
            round,
            "score",
            reward,
            "score",
            list(keys),
            recorded=round.parts.ledger.looks.scores,
            requests=questions,
            settle=settle,
        )
        by_name[name] = {_place(keys[key]): score for key, score in found.items() if not math.isnan(score.value)}
    evidence = []
    for drawn in images:
        scores = {name: found[_place(drawn)].value for name, found in by_name.items() if _place(drawn) in found}
        if scores:
            evidence.append(
                Evidence(
                    drawn.prompt.id,
                    "score",
                    student_sha256=drawn.sha256 if drawn.teacher is None else None,
                    teacher_sha256=drawn.sha256 if drawn.teacher is not None else None,
                    skill=drawn.prompt.skill,
                    lineage_id=drawn.prompt.lineage_id,
                    scores=scores,
                )
            )
    return _recorded(round, evidence)


def look(
    round: Round,
    method: Literal["check", "look"],
    keys: Sequence[str],
    question: Callable[[int], Question],
    may_be_unread: bool = False,
) -> dict[str, Look]:
    """Ask the judge what the ledger does not know yet, as far as the budget of looks reaches; returns looks by key.

    Args:
        round: The round.
        method: `check` for single images, `look` for pairs.
        keys: Names of the questions.
        question: Makes the question at a position of `keys`.
        may_be_unread: Whether no answer is a good one, so that it counts as no fault of the judge.
    """
    parts, info, book = round.parts, round.info, round.parts.ledger.looks
    price_usd = parts.budget.price_per_look_usd
    positions = {key: position for position, key in reversed(list(enumerate(keys)))}

    def within_budget(missing: Sequence[str]) -> Sequence[str]:
        allowed = round.allowance().judge_calls
        if allowed is None or len(missing) <= allowed:
            return missing
        round.figures.looks_beyond_budget += len(missing) - allowed
        return missing[:allowed]

    def settle(looks: Iterable[Look]) -> dict[str, Look]:
        looks = list(looks)
        unread = [look.reason or "an answer that cannot be read" for look in looks if not is_readable(look)]
        round.note_faults("judge", unread if not may_be_unread else ())
        # one that was cut off stays open, as after a kill: it counts, and is asked again when the round is repeated
        book.settle([look for look in looks if look.sent and not look.cut_off])
        book.withdraw([look.item_id for look in looks if not look.sent], price_usd)
        return {look.item_id: look for look in looks}

    return remembered(
        round,
        "judge",
        parts.judge,
        method,
        keys,
        recorded=book.get,
        requests=lambda names: [question(positions[name]) for name in names],
        settle=settle,
        reserve=lambda names: book.reserve(info.round_id, parts.judge_fingerprint, names, price_usd),
        silent=lambda names: settle(Look(name, 0.5, 0.0, "no answer") for name in names),
        within=within_budget,
    )


def _score_key(reward: str, drawn: Drawn) -> str:
    files = [part for role, file in sorted(drawn.files.items()) for part in (role, file.sha256)]
    return digest("score", reward, drawn.prompt.text, drawn.sha256, *files, length=32)


def _to_score(round: Round, key: str, drawn: Drawn) -> ImageAndPrompt:
    blobs = round.parts.store.blobs
    files = {role: replace(file, content=blobs.get(file.sha256)) for role, file in drawn.files.items()}
    return ImageAndPrompt(key, blobs.get(drawn.sha256), drawn.prompt.text, files)


def _place(drawn: Drawn) -> str:
    return f"{drawn.prompt.id} {drawn.sha256}"


def _recorded(round: Round, evidence: list[Evidence]) -> list[Evidence]:
    round.parts.ledger.looks.add_evidence(round.info.round_id, evidence)
    round.figures.add(evidence)
    return evidence
