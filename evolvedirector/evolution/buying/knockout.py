"""The best of several teachers' images of one prompt: a knockout in which a pair is shown in both orders."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeAlias

from evolvedirector.evolution.round_parts import Round
from evolvedirector.evolution.steps import look
from evolvedirector.records import OrderedPair, Prompt, digest, seed_of
from evolvedirector.records.looks import preference_of
from evolvedirector.store.ledger import Duel

Contender = tuple[str, str]
"""Name of the teacher, sha256 of its image."""
Match: TypeAlias = tuple[Prompt, Contender, Contender]
"""Prompt, the one that stands, the one that challenges."""


def knockout(round: Round, entries: Sequence[tuple[Prompt, Sequence[Contender]]]) -> dict[str, Contender]:
    """Find the winner of each prompt, one that stands against the next; every duel is recorded.

    The paper lets the next one meet the winner so far, in one random order. Here each pair is shown in both orders:
    orders that disagree, a tie and an unreadable answer leave the one that stands, and so do looks that the budget no
    longer pays. Who begins is drawn per prompt, so that no teacher gains from its place in the list.

    Args:
        round: The round.
        entries: Prompts, each with at least one contender.
    """
    orders = {prompt.id: starting_order(contenders, round.info.seed, prompt) for prompt, contenders in entries}
    standing = {prompt.id: orders[prompt.id][0] for prompt, _ in entries}
    for place in range(1, max((len(order) for order in orders.values()), default=0)):
        matches: list[Match] = [
            (prompt, standing[prompt.id], orders[prompt.id][place])
            for prompt, _ in entries
            if place < len(orders[prompt.id])
        ]
        duels = fight(round, matches)
        round.parts.ledger.looks.add_duels(round.info.round_id, duels)
        round.figures.duels.update(duel.preference for duel in duels)
        for duel in duels:
            if duel.preference == "second":
                standing[duel.prompt_id] = (duel.second_teacher, duel.second_sha256)
    return standing


def starting_order(contenders: Sequence[Contender], seed: int, prompt: Prompt) -> list[Contender]:
    """Shuffle contenders by (seed, prompt), whatever order they came in."""
    order = sorted(contenders)
    random.Random(seed_of("knockout", seed, prompt.id)).shuffle(order)
    return order


def fight(round: Round, matches: Sequence[Match]) -> list[Duel]:
    """Compare each pair in both orders, as far as the budget of looks reaches; equal images are a tie unseen."""
    asked: list[tuple[str, Prompt, str, str]] = []
    for prompt, (_, first), (_, second) in matches:
        if first != second:
            asked += [_question(round, prompt, first, second), _question(round, prompt, second, first)]

    def pair(position: int) -> OrderedPair:
        key, prompt, first, second = asked[position]
        return OrderedPair(key, round.parts.store.blobs.get(first), round.parts.store.blobs.get(second), prompt.text)

    looks = look(round, "look", [key for key, *_ in asked], pair)
    duels = []
    for prompt, (one, first), (other, second) in matches:
        forth, back = (
            looks.get(_question(round, prompt, *pair_of)[0]) for pair_of in ((first, second), (second, first))
        )
        if first == second:
            duels.append(Duel(prompt.id, one, other, first, second, "tie"))
        elif forth is not None and back is not None:  # else one of the orders was not paid for
            preference = preference_of(forth, back, round.parts.tie_margin)
            duels.append(Duel(prompt.id, one, other, first, second, preference))
    return duels


def _question(round: Round, prompt: Prompt, first: str, second: str) -> tuple[str, Prompt, str, str]:
    key = digest("look", round.parts.judge_fingerprint, prompt.text, first, second, length=32)
    return key, prompt, first, second
