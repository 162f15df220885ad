"""Which candidates a screening round asks for: expansions by failure rate, mutations spread over skills. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from evolvedirector.records import UNLABELLED, Prompt, RoundInfo, WriteRequest, digest, seed_of


def buying_order(
    failing: Iterable[Prompt],
    rates: Mapping[str, float],
    seed: int,
    round_id: str,
    least_rate: float,
    most_per_skill: int | None,
    append_rest: bool,
    sure: Mapping[str, float] | None = None,
) -> list[Prompt]:
    """Interleave skills by rank (i + 1) / max(least rate, f_s): a skill failed twice as often comes up twice as often.

    Args:
        failing: Candidates that the student failed, in any order.
        rates: Failure rate f_s by skill.
        seed: With `round_id` and the prompt it names the order of equally sure ones inside a skill.
        round_id: Names the round.
        least_rate: Floor of a rate, so that no skill is shut out.
        most_per_skill: Most candidates of one skill; None is no limit.
        append_rest: Put those beyond the limit at the end; otherwise leave them out.
        sure: Probability by prompt id that it fails: the surest of a skill come first. None: all are as sure.
    """
    by_skill: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in failing:
        by_skill[prompt.skill].append(prompt)
    ranked: list[tuple[bool, float, str, int, Prompt]] = []
    for skill, prompts in by_skill.items():
        rate = max(least_rate, rates.get(skill, 1.0))
        prompts.sort(key=lambda p: (-round(sure[p.id], 9) if sure else 0.0, seed_of("buy", seed, round_id, p.id), p.id))
        for place, prompt in enumerate(prompts):
            beyond = most_per_skill is not None and place >= most_per_skill
            if append_rest or not beyond:
                ranked.append((beyond, (place + 1) / rate, skill, place, prompt))
    return [item[-1] for item in sorted(ranked, key=lambda item: item[:4])]


def most_of_a_skill(calls: int, share: float, skills: int) -> int | None:
    """Return how many candidates of one skill a round may buy; None where there is only one skill to choose from."""
    return None if skills < 2 else math.ceil(share * calls)


TEXTS_PER_MUTATION = 16
"""Most texts per mutation request: one request keeps its own texts apart, several may repeat each other."""


def unit_draw(*parts: str | int) -> float:
    """Return a number in (0, 1] named by the parts: a draw that no order of arrival can change."""
    return (seed_of(*parts) + 1) / 2.0**63


def apportioned(total: int, weights: Mapping[str, float], least: int = 0) -> dict[str, int]:
    """Split a count in proportion to weights by largest remainder; each part gets at least `least`.

    Args:
        total: How many to split; parts raised to `least` come on top.
        weights: Weight over 0 by name.
        least: Least count per name.
    """
    if not weights:
        return {}
    names = sorted(weights)
    whole = sum(weights.values())
    exact = {name: total * weights[name] / whole for name in names}
    parts = {name: math.floor(exact[name] + 1e-9) for name in names}
    left = total - sum(parts.values())
    for name in sorted(names, key=lambda name: (parts[name] - exact[name], name))[: max(0, left)]:
        parts[name] += 1
    return {name: max(least, part) for name, part in parts.items()}


@dataclass(frozen=True, slots=True)
class CandidateShares:
    """How many candidates a round asks for, and how they are spread."""

    total: int
    """Candidates in all; minima per skill come on top."""
    weights: Mapping[str, float]
    """Share of the candidates by skill: its failure rate with a floor."""
    near_empty: Collection[str]
    """Skills with hardly any unseen prompts left: twice `least` are asked for, the others get their share."""
    least: int
    """Least candidates per skill, so that its failure rate can be measured."""
    mutation_share: float
    """Share of the candidates without parent."""
    open_share: float
    """Part of those whose skill the writer chooses, so that a skill nobody named yet can turn up."""

    def by_skill(self, count: int) -> dict[str, int]:
        """Split candidates over the skills by weight."""
        rich = {skill: weight for skill, weight in self.weights.items() if skill not in self.near_empty}
        parts = {skill: 2 * self.least for skill in self.weights if skill in self.near_empty}
        return parts | apportioned(max(0, count - sum(parts.values())), rich, self.least)


def candidate_requests(
    round: RoundInfo, shares: CandidateShares, parents: Mapping[Prompt, float], children: int, mutation: bool
) -> list[WriteRequest]:
    """Ask for expansions of failing prompts and for mutations; a skill with too few parents gets more mutations.

    Args:
        round: Names the requests and their seeds.
        shares: How many, and of what.
        parents: Weight of each prompt that may have children; empty: every candidate is a mutation.
        children: Most texts per parent.
        mutation: Whether texts without parent are allowed.
    """
    mutations = math.ceil(shares.total * shares.mutation_share) if mutation else 0
    of_any_skill = math.ceil(mutations * shares.open_share) if shares.weights else shares.total * mutation
    spread = apportioned(mutations - of_any_skill, dict.fromkeys(shares.weights, 1.0)) if shares.weights else {}
    requests: list[WriteRequest] = []
    for skill, count in sorted(shares.by_skill(shares.total - of_any_skill).items()):
        of_skill = {prompt.id: prompt for prompt in parents if prompt.skill == skill}
        weights = {prompt.id: parents[prompt] for prompt in of_skill.values()}
        expansions = expansion_requests(round, list(of_skill.values()), weights, count - spread[skill], children)
        requests += expansions
        if mutation:
            requests += mutation_requests(round, skill, count - sum(request.count for request in expansions))
    return requests + mutation_requests(round, None, of_any_skill)


def expansion_requests(
    round: RoundInfo, parents: Sequence[Prompt], weights: Mapping[str, float], count: int, children: int
) -> list[WriteRequest]:
    """Ask for children of weighted random parents, without replacement.

    The parents with the largest u^(1 / weight), u uniform, are such a draw (Efraimidis and Spirakis 2006); u is named
    by seed, round and prompt, so the draw does not depend on the order of the parents.

    Args:
        round: Names the requests and their seeds.
        parents: Prompts of one skill.
        weights: Weight over 0 by prompt id.
        count: Texts in all; fewer when there are too few parents.
        children: Most texts per parent.
    """

    def key(prompt: Prompt) -> tuple[float, str]:
        draw = unit_draw("parent", round.seed, round.round_id, prompt.id)
        return (-math.log(draw) / weights[prompt.id], prompt.id)

    requests = []
    for parent in sorted(parents, key=key):
        if count <= 0:
            break
        part = min(children, count)
        skill = None if parent.skill == UNLABELLED else parent.skill
        requests.append(_request(round, "expansion", parent.text, skill, part, parent.id))
        count -= part
    return requests


def mutation_requests(round: RoundInfo, skill: str | None, count: int) -> list[WriteRequest]:
    """Ask for unrelated texts of one skill, or of any skill the writer chooses when `skill` is None."""
    named = None if skill == UNLABELLED else skill
    return [
        _request(round, "mutation", None, named, min(TEXTS_PER_MUTATION, count - start), f"{skill} {start}")
        for start in range(0, count, TEXTS_PER_MUTATION)
    ]


def _request(
    round: RoundInfo, operation: str, parent: str | None, skill: str | None, count: int, name: str
) -> WriteRequest:
    return WriteRequest(
        digest("screening", operation, round.seed, round.round_id, name),
        operation,  # type: ignore[arg-type]
        parent,
        skill,
        count,
        seed_of("screening", operation, round.seed, round.round_id, name),
    )


def seeded_choice(names: Collection[str], count: int, *key: str | int) -> list[str]:
    """Choose up to `count` names by a seeded hash, whatever order they come in."""
    return sorted(names, key=lambda name: (seed_of(*key, name), name))[:count]
