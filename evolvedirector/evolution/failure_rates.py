"""How often the student fails: shares corrected for the judge's error, folded over rounds. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from evolvedirector.records import DatasetState, Evidence, Prompt, Tally

NOTHING_KNOWN = 1.0
"""Failure rate before the first look: what was never looked at counts as failed, so that it is bought and looked at."""


def corrected_share(tally: Tally, judge_error: float) -> float | None:
    """Return the failed share without the judge's mistakes; None where the looks say nothing.

    A judge that is wrong with probability e shows x = f (1 - e) + (1 - f) e, so f = (x - e) / (1 - 2 e), in [0, 1].

    Args:
        tally: Readable looks and how many of them failed.
        judge_error: e. From 0.5 on the looks say nothing.
    """
    if tally.looked <= 0 or not judge_error < 0.5:
        return None
    error = max(0.0, judge_error)
    return min(1.0, max(0.0, (tally.failed / tally.looked - error) / (1.0 - 2.0 * error)))


def exceeds(tally: Tally, share: float, judge_error: float, deviations: float) -> bool:
    """Say whether more failed than a true failed share and the judge's mistakes explain.

    Under a true share f a look fails with q = f (1 - e) + (1 - f) e; the count of n looks is n q with the standard
    deviation sqrt(n q (1 - q)). With e = 0 and f = 0 one failure is enough.

    Args:
        tally: Readable looks and how many of them failed.
        share: f, 0 to 1.
        judge_error: e. From 0.5 on nothing is ever shown.
        deviations: How many standard deviations above the expected count it takes.
    """
    if not judge_error < 0.5:
        return False
    error = max(0.0, judge_error)
    shown = share * (1.0 - error) + (1.0 - share) * error
    expected = tally.looked * shown
    return tally.failed > expected + deviations * math.sqrt(expected * (1.0 - shown)) + 1e-9


def folded_rates(
    rounds: Iterable[tuple[Mapping[str, Tally], float]], names: Collection[str], smoothing: float = 0.5
) -> dict[str, float]:
    """Fold the corrected failed shares of successive rounds: f <- (1 - a) f + a x, starting at 1.

    Args:
        rounds: Tallies by name and the judge's error, oldest first.
        names: Skills or lineages to answer for.
        smoothing: a, the weight of the newest round.
    """
    rates = dict.fromkeys(sorted(names), NOTHING_KNOWN)
    for tallies, judge_error in rounds:
        for name in rates:
            share = corrected_share(tallies.get(name, Tally()), judge_error)
            if share is not None:
                rates[name] += smoothing * (share - rates[name])
    return rates


def tallies_by(
    state: DatasetState, evidence: Sequence[Evidence], kinds: Collection[str], name_of: Callable[[Prompt], str]
) -> dict[str, Tally]:
    """Count readable looks and failures of one round by skill or lineage; a tie or an invalid verdict counts not.

    Args:
        state: Holds the prompts, this round's candidates included.
        evidence: What the round saw, in any order.
        kinds: Kinds of evidence that count.
        name_of: Skill or lineage of a prompt.
    """
    counts: dict[str, list[int]] = {}
    for item in evidence:
        if item.kind in kinds and item.verdict in ("student", "teacher"):
            count = counts.setdefault(name_of(state.entries[item.prompt_id].prompt), [0, 0])
            count[0] += 1
            count[1] += item.verdict == "teacher"
    return {name: Tally(looked, failed) for name, (looked, failed) in sorted(counts.items())}


def draw_weight(rate: float, floor: float) -> float:
    """Weigh a skill in training, max(floor, 4 f (1 - f)): most where the student is learning it.

    Args:
        rate: Failure rate f of the skill, 0 to 1.
        floor: Least weight, so that neither a mastered nor a hopeless skill is dropped.
    """
    return max(floor, 4.0 * rate * (1.0 - rate))


def last_buying_rounds(rounds: int, buying_share: float) -> int:
    """Return in how many of the rounds images are bought, at least 1."""
    return max(1, math.ceil(buying_share * rounds - 1e-9))


def round_allowance(
    budget: int,
    seed_calls: int,
    spent: int,
    index: int,
    rounds: int | None,
    open_end_share: float,
    buying_share: float = 0.5,
    pace: float = 1.0,
) -> int:
    """Return the teacher calls of round k: A_k = S + (B - S) min(1, (k + 1) / ceil(d K))^p - spent, never below 0.

    Buying ends at a share d of training, so that the last images are seen often enough; what a round leaves carries
    over. A pace p over 1 keeps money for later rounds: while the student fails everything, looks cannot tell skills
    apart.

    Args:
        budget: B, teacher calls of the whole run.
        seed_calls: S, the calls spent on seeds.
        spent: Calls spent before this round, seeds included.
        index: k, from 0.
        rounds: K, rounds in all; None: `open_end_share` of what is left, each round.
        open_end_share: 0 to 1.
        buying_share: d, over 0 to 1.
        pace: p, 1 spends evenly.
    """
    if rounds is None:
        return max(0, math.ceil(open_end_share * (budget - spent)))
    progress = min(1.0, (index + 1) / last_buying_rounds(rounds, buying_share)) ** pace
    planned = min(budget, seed_calls + math.floor((budget - seed_calls) * progress + 1e-9))
    return max(0, planned - spent)
