"""Which teacher to ask first and when to believe that its image is wrong, from what earlier rounds recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evolvedirector.policies.screening.rates import corrected_share
from evolvedirector.records import Preference, Prompt, Reading, Tally, seed_of
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


def score(standing: Standing, judge_error: float) -> float:
    """Return how good a teacher is in a skill, 0 to 1; one without bad marks and without duels scores 1/2.

    (wins + 1) / (duels + 2) x share of faithful images x (images + 1) / (images + refusals + 1). The faithful share
    is 1 minus the corrected unfaithful share shrunk towards 0: teachers without bad marks stay equal however often
    each was asked, so being asked first brings no advantage.

    Args:
        standing: What the teacher did.
        judge_error: Share of wrong looks at single images, 0 to 0.5.
    """
    won = (standing.wins + 1.0) / (standing.duels + 2.0)
    faithful = 1.0 - unfaithful_rate(standing, judge_error, prior=0.0)
    return won * faithful * (standing.images + 1.0) / (standing.images + standing.refusals + 1.0)


def preference(
    teachers: Sequence[str], prompt: Prompt, favourite: str | None, standings: Standings, judge_error: float
) -> list[str]:
    """Order the teachers for a prompt: the standing best in its skill first.

    Equal ones: its lineage's winner (the paper's rule), then spread by the prompt's id.

    Args:
        teachers: Names.
        prompt: What to draw.
        favourite: The teacher that won the parent; None has none.
        standings: What earlier rounds recorded.
        judge_error: Share of wrong looks at single images, 0 to 0.5.
    """
    names = list(teachers)
    start = names.index(favourite) if favourite in names else seed_of("teacher of", prompt.id) % len(names)
    spread = names[start:] + names[:start]
    scores = {name: score(standings.get((prompt.skill, name), Standing()), judge_error) for name in names}
    return sorted(spread, key=lambda name: -scores[name])  # a stable sort: equal ones stay as they are spread


def unfaithful_rate(standing: Standing, judge_error: float, prior: float = PRIOR_UNFAITHFUL) -> float:
    """Estimate a teacher's true share of unfaithful images in a skill.

    The judged share x of n images, corrected for the judge's error e, is (x - e) / (1 - 2 e); its variance grows as
    1 / (1 - 2 e)^2, so it counts as w = n (1 - 2 e)^2 exact looks beside the prior's m: (m prior + w x') / (m + w).

    Args:
        standing: What the teacher did.
        judge_error: e, 0 to 0.5; from 0.5 on the looks say nothing and the prior stays.
        prior: Share expected before the first look, 0 to 1.
    """
    checked = standing.faithful + standing.unfaithful
    share = corrected_share(Tally(checked, standing.unfaithful), judge_error)
    if share is None:
        return prior
    weight = checked * (1.0 - 2.0 * max(0.0, judge_error)) ** 2
    return (PRIOR_WEIGHT * prior + weight * share) / (PRIOR_WEIGHT + weight)


def is_faithful(reading: Reading, judge_error: float, unfaithful_rate: float) -> bool:
    """Say whether to train on a teacher's image, given what the judge reads in it.

    By Bayes an image judged unfaithful is so with probability pi (1 - e) / (pi (1 - e) + (1 - pi) e); it is rejected
    where that is over 1/2, which is pi > e. An exact judge (e = 0) is thus always believed; one that is wrong more
    often than the teacher is not. An unreadable answer rejects nothing.

    Args:
        reading: `lacks` for an image judged unfaithful.
        judge_error: e, share of wrong looks, 0 to 0.5.
        unfaithful_rate: pi, the teacher's share of unfaithful images in that skill.
    """
    if reading != "lacks":
        return True
    return judge_error > 0.0 and unfaithful_rate <= judge_error
