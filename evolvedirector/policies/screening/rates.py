"""What a screening round knows of the skills: which there are, how often they fail, which run out. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from evolvedirector.records import DatasetState, Evidence, JudgeAccuracy, Prompt, RoundHistory, RoundInfo, Tally
from evolvedirector.records.judge_accuracy import clipped

NOTHING_KNOWN = 1.0
"""Failure rate before the first look: what was never looked at counts as failed, so that it is bought and looked at."""
LUCKY_SHARE = 0.1
"""Share of unseen prompts that a student draws right now and then before it can be said to draw a skill at all."""


def exceeds(tally: Tally, share: float, judge: JudgeAccuracy, deviations: float) -> bool:
    """Say whether more failed than a true failed share and the judge's mistakes explain.

    Under a true share f a look fails with q = f Se + (1 - f) (1 - Sp); the count of n looks is n q with the standard
    deviation sqrt(n q (1 - q)). With an exact judge and f = 0 one failure is enough.

    Args:
        tally: Readable looks and how many of them failed.
        share: f, 0 to 1.
        judge: Its sensitivity Se and specificity Sp; one whose looks say nothing never shows anything.
        deviations: How many standard deviations above the expected count it takes.
    """
    if not judge.says_something:
        return False
    shown = judge.apparent(share)
    expected = tally.looked * shown
    return tally.failed > expected + deviations * math.sqrt(expected * (1.0 - shown)) + 1e-9


def folded_rates(
    rounds: Iterable[tuple[Mapping[str, Tally], JudgeAccuracy]], names: Collection[str], smoothing: float = 0.5
) -> dict[str, float]:
    """Fold the corrected failed shares of successive rounds: f <- (1 - a) f + a x, starting at 1.

    Neither x nor f is clipped here: a share near 0 that is clipped in every round is too high on average (with 5 looks
    a round and a judge of .90 and .85 by .09, clipped once at the end by .05). Who needs a share clips it.

    Args:
        rounds: Tallies by name and how far the judge was right, oldest first.
        names: Skills or lineages to answer for.
        smoothing: a, the weight of the newest round.
    """
    rates = dict.fromkeys(sorted(names), NOTHING_KNOWN)
    for tallies, judge in rounds:
        for name in rates:
            share = judge.corrected(tallies.get(name, Tally()))
            if share is not None:
                rates[name] += smoothing * (share - rates[name])
    return rates


def tallies_by(
    state: DatasetState, evidence: Sequence[Evidence], kinds: Collection[str], name_of: Callable[[Prompt], str]
) -> dict[str, Tally]:
    """Count readable looks and failures of one round by skill or lineage; an unreadable one counts not.

    Args:
        state: Holds the prompts, this round's candidates included.
        evidence: What the round saw, in any order.
        kinds: Kinds of evidence that count.
        name_of: Skill or lineage of a prompt.
    """
    counts: dict[str, list[int]] = {}
    for item in evidence:
        if item.kind in kinds and item.reading in ("shows", "lacks"):
            count = counts.setdefault(name_of(state.entries[item.prompt_id].prompt), [0, 0])
            count[0] += 1
            count[1] += item.reading == "lacks"
    return {name: Tally(looked, failed) for name, (looked, failed) in sorted(counts.items())}


def draw_weight(rate: float, floor: float) -> float:
    """Weigh a skill in training: 1 while it is failed at least half of the time, then max(floor, 4 f (1 - f)).

    A skill that is always failed is not hopeless: it is drawn until its first success and after it.

    Args:
        rate: Failure rate f of the skill, 0 to 1.
        floor: Least weight, so that a mastered skill is not dropped.
    """
    return 1.0 if rate >= 0.5 else max(floor, 4.0 * rate * (1.0 - rate))


def tells_apart(history: Iterable[RoundHistory], deviations: float, min_looks: int) -> bool:
    """Say whether the student has begun to draw something unseen: in some round, some skill passed too often for luck.

    Before that all skills fail alike, and looks cannot say where an image is worth most.

    Args:
        history: Earlier rounds.
        deviations: How many standard deviations above `LUCKY_SHARE` the passes of a skill must be.
        min_looks: Looks at a skill below which a round says nothing of it.
    """
    return any(
        tally.looked >= min_looks
        and exceeds(Tally(tally.looked, tally.looked - tally.failed), LUCKY_SHARE, past.judge.swapped(), deviations)
        for past in history
        for tally in past.skills.values()
    )


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
    early_share: float | None = None,
    informed: bool = True,
) -> int:
    """Return the teacher calls of round k: A_k = S + (B - S) min(1, (k + 1) / ceil(d K)) - spent, never below 0.

    Buying ends at a share d of training, so that the last images are seen often enough; what a round leaves carries
    over. With an early share h the first round spends S + h (B - S), since a student without data learns nothing that
    looks could tell apart; then nothing is bought until they do, at most until half of the buying rounds; what is left
    is spread evenly over the others.

    Args:
        budget: B, teacher calls of the whole run.
        seed_calls: S, the calls spent on seeds.
        spent: Calls spent before this round, seeds included.
        index: k, from 0.
        rounds: K, rounds in all; None: `open_end_share` of what is left, each round.
        open_end_share: 0 to 1.
        buying_share: d, over 0 to 1.
        early_share: h, 0 to 1; None spends evenly from the first round to the last. Of no effect without K.
        informed: Whether looks tell skills apart by now.
    """
    if rounds is None:
        return max(0, math.ceil(open_end_share * (budget - spent)))
    last = last_buying_rounds(rounds, buying_share)
    done = index + 1
    if early_share is None or done >= last:
        share = min(1.0, done / last)
    elif done == 1 or (not informed and done <= last // 2):
        share = early_share
    else:
        return max(0, math.ceil((budget - spent) / (last - index)))
    planned = min(budget, seed_calls + math.floor((budget - seed_calls) * share + 1e-9))
    return max(0, planned - spent)


def skill_of(prompt: Prompt) -> str:
    """Name the skill of a prompt, for tallies."""
    return prompt.skill


def lineage_of(prompt: Prompt) -> str:
    """Name the lineage of a prompt, for tallies."""
    return prompt.lineage_id


def known_skills(state: DatasetState, named: Collection[str] | None) -> set[str]:
    """Collect the skills named by the user, or else all that prompts and past rounds brought up."""
    if named is not None:
        return set(named)
    return {entry.prompt.skill for entry in state.entries.values()}.union(*(past.skills for past in state.history))


def near_empty_skills(state: DatasetState, named: Collection[str] | None, min_candidates: int) -> set[str]:
    """Name the skills of which the last round asked for `min_candidates` or more and got fewer to look at.

    A skill that came up in the last round for the first time was not asked for, so it says nothing of itself.

    Args:
        state: Before or after this round's candidates entered.
        named: Skills that every round asks for; None: those met before.
        min_candidates: Unseen prompts that a measurement needs.
    """
    if not state.history:
        return set()
    asked = set(named or ()).union(*(past.skills for past in state.history[:-1]))
    asked |= {entry.prompt.skill for entry in state.entries.values() if entry.prompt.origin == "seed"}
    last = state.history[-1].skills
    return {skill for skill in asked if last.get(skill, Tally()).looked < min_candidates}


def skill_rates(
    state: DatasetState,
    evidence: Sequence[Evidence],
    round: RoundInfo,
    skills: Collection[str],
    near_empty: Collection[str],
    near_empty_rate: float,
    smoothing: float,
) -> dict[str, float]:
    """Return the failure rate per skill after this round's evidence; before it when there is none.

    Args:
        state: Holds the past, and the prompts that the evidence is about.
        evidence: Screened prompts count for every skill, probes of live prompts for those of `near_empty`.
        round: Its judge's accuracy corrects this round's looks.
        skills: Skills to answer for.
        near_empty: Skills with hardly any unseen prompts left.
        near_empty_rate: Floor of their rates.
        smoothing: Weight of the newest round.
    """

    def counts(item: Evidence) -> bool:
        entry = state.entries[item.prompt_id]
        return item.kind == "screen" or (entry.state == "live" and entry.prompt.skill in near_empty)

    seen = [item for item in evidence if item.kind in ("screen", "probe") and counts(item)]
    rounds = [(past.skills, past.judge) for past in state.history]
    rounds.append((tallies_by(state, seen, {"screen", "probe"}, skill_of), round.judge))
    rates = folded_rates(rounds, skills, smoothing)
    return {name: max(clipped(rate), near_empty_rate if name in near_empty else 0.0) for name, rate in rates.items()}
