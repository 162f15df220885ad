"""Which teacher to ask first and when to believe that its image is wrong, from what earlier rounds recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evolvedirector.records import JudgeAccuracy, Preference, Prompt, Reading, Tally, seed_of
from evolvedirector.records.judge_accuracy import clipped
from evolvedirector.store.ledger import Ledger
from evolvedirector.store.ledger.rows import ResultKind

PRIOR_UNFAITHFUL = 0.1
"""Share of unfaithful images expected of a teacher nobody knows; over 0, so that an exact judge is always believed."""

PRIOR_WEIGHT = 4.0
"""Exact looks that the prior counts as."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What one teacher did in one skill."""

    wins: float = 0.0
    """Duels won, a tie counting one half."""
    duels: int = 0
    """Duels with a readable answer."""
    images: int = 0
    faithful: int = 0
    """Images the judge found faithful, its mistakes included."""
    unfaithful: int = 0
    refusals: int = 0
    failures: int = 0


Standings = Mapping[tuple[str, str], Standing]
"""By (skill, teacher)."""
ResultCount = tuple[str, str, ResultKind, int]
"""Skill, teacher, what came of asking, how often."""
DuelCount = tuple[str, str, str, Preference, int]
"""Skill, first teacher, second teacher, which one's image was preferred, how often."""


def standings_of(results: Iterable[ResultCount], duels: Iterable[DuelCount] = ()) -> Standings:
    """Count results and duels by skill and teacher, independent of their order.

    Args:
        results: What came of asking teachers.
        duels: Comparisons of two teachers; an unreadable one does not count.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    wins: dict[tuple[str, str], float] = {}
    for skill, teacher, result, number in results:
        counts.setdefault((skill, teacher), Counter())[result] += number
    for skill, first, second, preference, number in duels:
        if preference != "unreadable":
            won = {"first": 1.0, "tie": 0.5}.get(preference, 0.0)
            for teacher, share in ((first, won), (second, 1.0 - won)):
                counts.setdefault((skill, teacher), Counter())["duel"] += number
                wins[skill, teacher] = wins.get((skill, teacher), 0.0) + share * number
    return {
        key: Standing(
            wins.get(key, 0.0),
            count["duel"],
            count["faithful"] + count["unfaithful"] + count["unchecked"],
            count["faithful"],
            count["unfaithful"],
            count["refusal"],
            count["failure"],
        )
        for key, count in counts.items()
    }


def added(*parts: Standing) -> Standing:
    """Add up what was recorded apart."""
    names = Standing.__dataclass_fields__
    return Standing(**{name: sum(getattr(part, name) for part in parts) for name in names})


def past_standings(ledger: Ledger, revision_sha: str, without_round: str = "") -> Standings:
    """Count what the rounds that led to a revision recorded.

    Those rounds are finished and their rows never change, and a round leaves out itself, so a round that was killed
    and is finished later, and a fork that shares the ledger, see the standings they saw at first.

    Args:
        ledger: The books of the root.
        revision_sha: The revision that a round starts from, or that a report is about.
        without_round: Id of a round to leave out; empty leaves out none.
    """
    rounds = [round_id for round_id in ledger.rounds.leading_to(revision_sha) if round_id != without_round]
    return standings_of(ledger.calls.result_counts(rounds), ledger.looks.duel_counts(rounds))


def merit(standing: Standing, judge: JudgeAccuracy) -> float:
    """Return how good a teacher is in a skill, 0 to 1; one without bad marks and without duels scores 1/2.

    (wins + 1) / (duels + 2) x share of faithful images x (images + 1) / (images + refusals + 1). The faithful share
    is 1 minus the corrected unfaithful share shrunk towards 0: teachers without bad marks stay equal however often
    each was asked, so being asked first brings no advantage.

    Args:
        standing: What the teacher did.
        judge: How far it is right about single images.
    """
    won = (standing.wins + 1.0) / (standing.duels + 2.0)
    faithful = 1.0 - unfaithful_rate(standing, judge, prior=0.0)
    return won * faithful * (standing.images + 1.0) / (standing.images + standing.refusals + 1.0)


def in_order_of_merit(
    teachers: Sequence[str], prompt: Prompt, favourite: str | None, standings: Standings, judge: JudgeAccuracy
) -> list[str]:
    """Order the teachers for a prompt: the standing best in its skill first.

    Equal ones: its lineage's winner (the paper's rule), then spread by the prompt's id.

    Args:
        teachers: Names.
        prompt: What to draw.
        favourite: The teacher that won the parent; None has none.
        standings: What earlier rounds recorded.
        judge: How far it is right about single images.
    """
    names = list(teachers)
    start = names.index(favourite) if favourite in names else seed_of("teacher of", prompt.id) % len(names)
    spread = names[start:] + names[:start]
    merits = {name: merit(standings.get((prompt.skill, name), Standing()), judge) for name in names}
    return sorted(spread, key=lambda name: -merits[name])  # a stable sort: equal ones stay as they are spread


def unfaithful_rate(standing: Standing, judge: JudgeAccuracy, prior: float = PRIOR_UNFAITHFUL) -> float:
    """Estimate a teacher's true share of unfaithful images in a skill.

    The judged share of n images is corrected by the judge's sensitivity and specificity to x'; its variance grows as
    1 / J^2, J = Se + Sp - 1, so it counts as w = n J^2 exact looks beside the prior's m: (m prior + w x') / (m + w).
    Only the mean is clipped: x' alone is under 0 as often as chance takes it there.

    Args:
        standing: What the teacher did.
        judge: How far it is right about single images; where its looks say nothing the prior stays.
        prior: Share expected before the first look, 0 to 1.
    """
    checked = standing.faithful + standing.unfaithful
    share = judge.corrected(Tally(checked, standing.unfaithful))
    if share is None:
        return prior
    weight = checked * judge.youden**2
    return clipped((PRIOR_WEIGHT * prior + weight * share) / (PRIOR_WEIGHT + weight))


def is_faithful(reading: Reading, judge: JudgeAccuracy, unfaithful_rate: float) -> bool:
    """Say whether to train on a teacher's image, given what the judge reads in it.

    By Bayes an image judged unfaithful is so with probability pi Se / (pi Se + (1 - pi) (1 - Sp)); it is rejected
    where that is over 1/2. A judge that never calls a faithful image unfaithful (Sp = 1) is thus always believed; one
    that does so more often than the teacher is wrong is not. An unreadable answer rejects nothing.

    Args:
        reading: `lacks` for an image judged unfaithful.
        judge: Its sensitivity Se and specificity Sp.
        unfaithful_rate: pi, the teacher's share of unfaithful images in that skill.
    """
    if reading != "lacks":
        return True
    sensitivity, specificity = judge.rates
    wrongly = (1.0 - unfaithful_rate) * (1.0 - specificity)
    return specificity < 1.0 and unfaithful_rate * sensitivity <= wrongly
