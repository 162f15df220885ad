"""In which order failing candidates are bought, so that no skill takes a round for itself. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

from evolvedirector.records import Prompt, seed_of


def buying_order(
    failing: Iterable[Prompt],
    rates: Mapping[str, float],
    seed: int,
    round_id: str,
    least_rate: float,
    most_per_skill: int | None,
    append_rest: bool,
) -> list[Prompt]:
    """Interleave skills by rank (i + 1) / max(least rate, f_s): a skill failed twice as often comes up twice as often.

    Args:
        failing: Candidates that the student failed, in any order.
        rates: Failure rate f_s by skill.
        seed: With `round_id` and the prompt it names the order inside a skill.
        round_id: Names the round.
        least_rate: Floor of a rate, so that no skill is shut out.
        most_per_skill: Most candidates of one skill; None is no limit.
        append_rest: Put those beyond the limit at the end; otherwise leave them out.
    """
    by_skill: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in failing:
        by_skill[prompt.skill].append(prompt)
    ranked: list[tuple[bool, float, str, int, Prompt]] = []
    for skill, prompts in by_skill.items():
        rate = max(least_rate, rates.get(skill, 1.0))
        prompts.sort(key=lambda prompt: (seed_of("buy", seed, round_id, prompt.id), prompt.id))
        for place, prompt in enumerate(prompts):
            beyond = most_per_skill is not None and place >= most_per_skill
            if append_rest or not beyond:
                ranked.append((beyond, (place + 1) / rate, skill, place, prompt))
    return [item[-1] for item in sorted(ranked, key=lambda item: item[:4])]


def most_of_a_skill(calls: int, share: float, skills: int) -> int | None:
    """Return how many candidates of one skill a round may buy; None where there is only one skill to choose from."""
    return None if skills < 2 else math.ceil(share * calls)
