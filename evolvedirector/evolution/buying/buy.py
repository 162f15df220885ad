"""Buying images: the standing best teacher first, some prompts drawn by all of them, the budget never exceeded.

The round calls `buy(round, prompts, favourites, check_teacher=plan.check_teacher,
test_all_share=plan.test_all_share, limit=plan.budget_teacher_calls)`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolvedirector.errors import UserError
from evolvedirector.evolution import steps
from evolvedirector.evolution.budget import check_teacher_names
from evolvedirector.evolution.buying.ask_teachers import Wish, ask_teachers, choose_draws
from evolvedirector.evolution.buying.knockout import Contender, knockout
from evolvedirector.evolution.buying.standings import (
    Standing,
    Standings,
    added,
    in_order_of_merit,
    is_faithful,
    past_standings,
    standings_of,
    unfaithful_rate,
)
from evolvedirector.evolution.round_parts import Round
from evolvedirector.records import FileRef, Prompt, Reading, Sample, seed_of
from evolvedirector.store.ledger import StoredReply, TeacherResult
from evolvedirector.store.ledger.rows import ResultKind

MAX_UNFAITHFUL = 2
"""Unfaithful images after which a prompt is given up: the first one sends it to the next teacher once."""

_RESULT: Mapping[Reading, ResultKind] = {"shows": "faithful", "lacks": "unfaithful", "unreadable": "unchecked"}


@dataclass(frozen=True, slots=True)
class Purchases:
    """What buying gave: samples, prompts no teacher draws, and prompts left for later (the budget, an outage)."""

    samples: tuple[Sample, ...]
    failed: tuple[Prompt, ...]
    unbought: tuple[Prompt, ...]


@dataclass(slots=True)
class _Order:
    """One prompt on its way to an image."""

    prompt: Prompt
    left: list[str]
    """Teachers not asked yet, the first to ask in front."""
    by_all: bool
    unfaithful: int = 0
    outage: bool = False
    closed: bool = False
    failed: bool = False
    sample: Sample | None = None


def buy(
    round: Round,
    prompts: Sequence[Prompt],
    favourites: Mapping[str, str],
    check_teacher: bool = False,
    test_all_share: float = 0.0,
    limit: int | None = None,
    bought_from: str | None = None,
) -> Purchases:
    """Buy one image per prompt, in order, as far as the budget reaches.

    The teacher with the best standing in the prompt's skill is asked first. A teacher that refuses or fails is passed
    over for the next one, and so is one whose own budget is spent. An unfaithful image sends the prompt to the next
    teacher once. A refusal is final, a failure is not: a prompt that some teacher failed to draw (an outage, a damaged
    image) stays unbought and may be asked for again in a later round.

    Args:
        round: The round.
        prompts: What to buy, most urgent first.
        favourites: Teacher that won the parent, by prompt id; asked first among those of equal standing.
        check_teacher: Check bought images and drop unfaithful ones; otherwise every teacher is trusted.
        test_all_share: Share of the prompts, drawn by their id, that all teachers draw; a knockout chooses the image.
            Such a prompt costs one call per teacher.
        limit: Teacher calls this purchase may spend; what an earlier attempt of the same round spent counts. None
            leaves it to the budget.
        bought_from: The one teacher that is asked. None: all of them.

    Raises:
        UserError: The budget names an unknown teacher, or the share is not between 0 and 1.
    """
    check_teacher_names(round.parts.budget, list(round.parts.teachers))
    names = list(round.parts.teachers) if bought_from is None else [bought_from]
    if not 0.0 <= test_all_share <= 1.0:
        raise UserError(f"test_all_share is {test_all_share}. Allowed: 0 to 1. Write 0 to re-test no teacher.")
    info = round.info
    standings = past_standings(round.parts.ledger, info.revision_sha, info.round_id)
    orders = [
        _Order(
            prompt,
            in_order_of_merit(names, prompt, favourites.get(prompt.id), standings, info.judge),
            len(names) > 1 and is_tested_by_all(prompt, info.seed, test_all_share),
        )
        for prompt in {prompt.id: prompt for prompt in prompts}.values()
    ]
    results: list[TeacherResult] = []
    while waiting := [order for order in orders if not order.closed]:
        wishes = [Wish(order.prompt, order.left, len(order.left) if order.by_all else 1) for order in waiting]
        answers = {
            (draw.prompt.id, draw.teacher): reply
            for draw, reply in ask_teachers(round, choose_draws(round, wishes, limit)).items()
        }
        if not answers:
            break
        _settle(round, orders, answers, results, standings if check_teacher else None)
    return Purchases(
        tuple(order.sample for order in orders if order.sample),
        tuple(order.prompt for order in orders if order.failed),
        tuple(order.prompt for order in orders if not order.sample and not order.failed),
    )


def is_tested_by_all(prompt: Prompt, seed: int, share: float) -> bool:
    """Toss the coin that says whether all teachers draw a prompt: the same for a prompt whenever it is tossed."""
    return random.Random(seed_of("test all", seed, prompt.id)).random() < share


def _settle(
    round: Round,
    orders: Sequence[_Order],
    answers: Mapping[tuple[str, str], StoredReply],
    results: list[TeacherResult],
    standings: Standings | None,
) -> None:
    """Take in one answer or several per prompt: drop what is unfaithful, choose the best, or pass the prompt on.

    Args:
        round: The round.
        orders: All prompts; those that are closed are left alone.
        answers: By (prompt id, teacher).
        results: What came of this purchase so far; grows.
        standings: How far each teacher is trusted against the judge; None checks no image.
    """
    waiting = [order for order in orders if not order.closed]
    got = {order.prompt.id: [name for name in order.left if (order.prompt.id, name) in answers] for order in waiting}
    images = [
        (order.prompt, sha256)
        for order in waiting
        for name in got[order.prompt.id]
        if (sha256 := answers[order.prompt.id, name].image_sha256)
    ]
    readings = _check(round, images) if standings is not None else {}
    fresh = {
        (order.prompt.id, name): _result(answers[order.prompt.id, name], readings)
        for order in waiting
        for name in got[order.prompt.id]
    }
    results += [TeacherResult(prompt_id, name, result) for (prompt_id, name), result in fresh.items()]
    rejected = _rejected(round, orders, fresh, results, standings or {})
    entries: list[tuple[Prompt, list[Contender]]] = []
    for order in waiting:
        contenders: list[Contender] = []
        for name in got[order.prompt.id]:
            answer = answers[order.prompt.id, name]
            if answer.image_sha256 and (order.prompt.id, name) not in rejected:
                contenders.append((name, answer.image_sha256))
                continue
            round.figures.no_image["unfaithful" if answer.status == "image" else answer.status] += 1
            order.unfaithful += bool(answer.image_sha256)
            order.outage |= answer.status == "failure"
        if contenders:
            entries.append((order.prompt, contenders))
    round.parts.ledger.calls.add_results(round.info.round_id, results[len(results) - len(fresh) :])
    winners = knockout(round, entries)
    for order in waiting:
        won = winners.get(order.prompt.id)
        files = answers[order.prompt.id, won[0]].files if won is not None else {}
        _close(order, won, files, got[order.prompt.id])


def _close(order: _Order, winner: Contender | None, files: Mapping[str, FileRef], asked: Sequence[str]) -> None:
    """Give a prompt its image, pass it on to teachers not asked yet, or give it up."""
    order.left = [name for name in order.left if name not in asked]
    order.by_all = order.by_all and not asked
    if winner is not None:
        teacher, sha256 = winner
        order.sample, order.closed = Sample.create(order.prompt, sha256, teacher, files), True
    elif not order.left or order.unfaithful >= MAX_UNFAITHFUL:
        order.closed, order.failed = True, not order.outage


def _check(round: Round, images: Sequence[tuple[Prompt, str]]) -> dict[tuple[str, str], Reading]:
    """Ask the judge whether each image shows its prompt, one that several teachers drew alike once."""
    evidence = steps.check(round, list(dict.fromkeys(images)), "faithfulness")
    return {(item.prompt_id, item.teacher_sha256 or ""): item.reading or "unreadable" for item in evidence}


def _result(answer: StoredReply, readings: Mapping[tuple[str, str], Reading]) -> ResultKind:
    if answer.status == "image":
        return _RESULT[readings.get((answer.prompt_id, answer.image_sha256 or ""), "unreadable")]
    return answer.status


def _rejected(
    round: Round,
    orders: Sequence[_Order],
    fresh: Mapping[tuple[str, str], ResultKind],
    results: Sequence[TeacherResult],
    standings: Standings,
) -> set[tuple[str, str]]:
    """Find the images, by (prompt id, teacher), that the judge's accuracy and the teacher's record say are unfaithful.

    The record is that of earlier rounds and of this purchase so far: in a first round the prior alone would not tell
    a bad teacher from a judge that errs. A purchase that is finished later goes through the same answers again.
    """
    judge = round.info.judge
    skills = {order.prompt.id: order.prompt.skill for order in orders}
    now = standings_of((skills[item.prompt_id], item.teacher, item.result, 1) for item in results)
    found = set()
    for (prompt_id, name), result in fresh.items():
        key = skills[prompt_id], name
        rate = unfaithful_rate(added(standings.get(key, Standing()), now.get(key, Standing())), judge)
        if result == "unfaithful" and not is_faithful("lacks", judge, rate):
            found.add((prompt_id, name))
    return found
