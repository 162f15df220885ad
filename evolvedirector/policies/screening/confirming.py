"""Which candidates are looked at again, which are worth their image, and how many are written. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from evolvedirector.policies.policy import LOOKS_PER_BOUGHT_IMAGE
from evolvedirector.policies.screening.posterior import (
    Seen,
    believed,
    candidates_per_call,
    is_exact,
    posterior,
    prospect,
    reservation,
)
from evolvedirector.policies.screening.rates import last_buying_rounds
from evolvedirector.policies.screening.settings import Confirming
from evolvedirector.records import (
    DatasetState,
    Evidence,
    JudgeAccuracy,
    Origin,
    Prompt,
    RoundHistory,
    RoundInfo,
    Tally,
)
from evolvedirector.records.looks import reading_of

GROUP_LOOKS = 2.0
"""Looks that the share of a larger group is worth to a group inside it: as much as a uniform prior."""
FORGOTTEN = 1e-3
"""Weight below which an earlier round counts no more."""
DOUBTFUL = 0.5
"""Posterior from which on a candidate is bought though its skill as a whole shows no more than the judge's error."""

Group = tuple[str, ...]
"""Everything; a skill; an operation in a skill; a lineage: each inside the one before, or nearly so."""


def groups_of(skill: str, origin: str, lineage_id: str) -> list[Group]:
    """Name the groups that a candidate belongs to, from the largest to the smallest."""
    return [("all",), ("skill", skill), ("operation", skill, origin), ("lineage", lineage_id)]


def judge_of(
    round: RoundInfo, history: Sequence[RoundHistory], settings: Confirming, evidence: Iterable[Evidence] = ()
) -> JudgeAccuracy:
    """Return the judge's accuracy to reckon with, by gold and by all looks at candidates that it took.

    Args:
        round: The judge as measured.
        history: First looks of earlier rounds; those at which it was measured otherwise are left out.
        settings: What it is assumed to be where nothing was measured.
        evidence: What this round saw.
    """
    looks: Counter[tuple[int, int]] = Counter(taken(item) for item in evidence if item.kind == "screen")
    for past in history:
        if past.judge == round.judge:
            failed = sum(tally.failed for tally in past.skills.values())
            looks[1, 0] += failed
            looks[0, 1] += sum(tally.looked for tally in past.skills.values()) - failed
    return believed(round.judge, settings.assumed_accuracy, looks)


def seen_before(
    history: Sequence[RoundHistory], round: RoundInfo, now: JudgeAccuracy, settings: Confirming, smoothing: float
) -> dict[Group, Seen]:
    """Add up what earlier rounds saw by group; a round counts (1 - a) of the one after it: the student learns.

    Args:
        history: Earlier rounds, oldest first.
        round: The judge as measured.
        now: What it is reckoned with: in earlier rounds as well, if it was measured the same.
        settings: What another judge is believed.
        smoothing: a.
    """
    sums: dict[Group, Seen] = {}
    for age, past in enumerate(reversed(history), start=1):
        weight = (1.0 - smoothing) ** age
        if weight < FORGOTTEN:
            break
        judge = now if past.judge == round.judge else believed(past.judge, settings.assumed_accuracy)
        by_group: list[tuple[Group, Tally]] = [(("operation", *name), tally) for name, tally in past.operations.items()]
        by_group += [(("lineage", name), tally) for name, tally in past.lineages.items()]
        for skill, tally in past.skills.items():
            by_group += [(("skill", skill), tally), (("all",), tally)]
        for group, tally in by_group:
            sums[group] = sums.get(group, Seen()) + Seen.of(tally, judge, weight)
    return sums


def share_in(sums: Mapping[Group, Seen], groups: Iterable[Group], but: Seen = Seen()) -> float:  # noqa: B008 - frozen
    """Return the failing share of the smallest group, drawn towards that of the larger ones where it has few looks.

    Args:
        sums: What was seen by group.
        groups: From the largest to the smallest.
        but: What is left out of all of them: a candidate's own look is no prior of it.
    """
    share = 0.5
    for place, group in enumerate(groups):
        seen = sums.get(group, Seen()) - but
        share = seen.share(share, GROUP_LOOKS if place else 1.0)
    return share


def fresh_shares(sums: Mapping[Group, Seen], origin: Origin | None = None) -> dict[float, float]:
    """Return the weight by failing share of candidates such as were looked at so far.

    Args:
        sums: What was seen by group.
        origin: Of one operation alone; None: of any.
    """
    shares: Counter[float] = Counter()
    for group, seen in sorted(sums.items()):
        if group[0] == "operation" and seen.looks > 0 and origin in (None, group[2]):
            shares[share_in(sums, groups_of(group[1], group[2], "")[:3])] += seen.looks  # type: ignore[assignment]
    return dict(shares)


def base_share(sums: Mapping[Group, Seen]) -> float:
    """Return the failing share of prompts that nobody chose: mutations, or all where there are none; 1/2 unknown."""
    shares = fresh_shares(sums, "mutation") or fresh_shares(sums)
    return sum(share * weight for share, weight in shares.items()) / sum(shares.values()) if shares else 0.5


def look_price(round: RoundInfo, settings: Confirming, base: float, most_per_call: int) -> float:
    """Return the price of a look in failing prompts bought blindly: base share times price of a look over an image's.

    A failing prompt is worth no more than the images of as many candidates as may be written for a call: a student that
    fails nothing any more is not searched for ever.

    Args:
        round: Its prices; where one is unknown or 0, those of the settings hold.
        settings: The default ratio.
        base: The failing share of prompts that nobody chose.
        most_per_call: Candidates per call, at most.
    """
    known = round.price_per_look_usd > 0 and round.price_per_image_usd > 0
    ratio = round.price_per_look_usd / round.price_per_image_usd if known else 1.0 / settings.looks_per_image_price
    return ratio * max(base, 1.0 / most_per_call)


def expansion_share(sums: Mapping[Group, Seen], least_expansion: float, least_mutation: float) -> float:
    """Return the share of the candidates that are children, by what expansion and mutation yield.

    s_e = l_e + (1 - l_e - l_m) y_e / (y_e + y_m), with y the failing share of each operation's candidates: probability
    matching with a floor, as operators are chosen in evolutionary algorithms (Thierens 2005, GECCO, p. 1539). Until
    both were tried, 1 - l_m.

    Args:
        sums: What was seen by group.
        least_expansion: l_e.
        least_mutation: l_m.
    """
    yields = {}
    for origin in ("expansion", "mutation"):
        seen = sum((s for group, s in sums.items() if group[0] == "operation" and group[2] == origin), Seen())
        if not seen.looks:
            return 1.0 - least_mutation
        yields[origin] = seen.share()
    of_expansion = yields["expansion"] / sum(yields.values())
    return least_expansion + max(0.0, 1.0 - least_expansion - least_mutation) * of_expansion


def looks_of_round(round: RoundInfo, buying_rounds: int | None) -> int | None:
    """Return the looks at candidates that a round may take: an even part of what purchases leave; None: any number.

    Args:
        round: Its budget.
        buying_rounds: Rounds in which images are bought; None where that is not known.
    """
    if round.looks_left is None:
        return None
    calls = max(0, (round.budget_teacher_calls or 0) - round.teacher_calls)
    rounds = 1 if buying_rounds is None else max(1, buying_rounds - round.index)
    return max(0, (round.looks_left - LOOKS_PER_BOUGHT_IMAGE * calls) // rounds)


def candidates_wanted(
    state: DatasetState,
    round: RoundInfo,
    calls: int,
    settings: Confirming,
    smoothing: float,
    least_per_call: int,
    most_per_call: int,
    buying_share: float,
) -> int:
    """Return how many candidates a round writes for its calls: calls / P(a candidate is worth its image).

    A call carried over is written for as well, but a round writes for no more calls at the most per call than an even
    part of the budget: so a run writes no more than that for each call, however long it finds nothing. Once buying
    should have ended, and while nothing was seen, it is the least.

    Args:
        state: Its history says what fails.
        round: Its prices and budget.
        calls: Images that it may buy.
        settings: Looks at a candidate, and what a judge is believed.
        smoothing: How fast the past is forgotten.
        least_per_call: Candidates per call, at least.
        most_per_call: And at most.
        buying_share: Share of the rounds in which images are bought.
    """
    least = least_per_call * calls
    judge = judge_of(round, state.history, settings)
    sums = seen_before(state.history, round, judge, settings, smoothing)
    shares = fresh_shares(sums)
    buying = None if round.rounds is None else last_buying_rounds(round.rounds, buying_share)
    if not calls or not shares or not judge.says_something or (buying is not None and round.index >= buying):
        return least
    price = look_price(round, settings, base_share(sums), most_per_call)
    each = candidates_per_call(shares, judge, settings.most_looks, price)
    even = calls if buying is None else even_calls(round.budget_teacher_calls or 0, round.seed_calls, buying)
    wanted = min(each * calls, float(most_per_call * min(calls, even)))
    looks = looks_of_round(round, buying)
    return max(least, math.ceil(wanted if looks is None else min(wanted, float(looks))))


def even_calls(budget: int, seed_calls: int, buying_rounds: int) -> int:
    """Return the images of each buying round, were they spread evenly; rounded up."""
    return math.ceil(max(0, budget - seed_calls) / buying_rounds)


def taken(item: Evidence) -> tuple[int, int]:
    """Count the readable looks at a candidate: (lacks, shows). Evidence without looks has its reading alone."""
    readings = [reading_of(look) for look in item.looks] if item.looks else [item.reading]
    return readings.count("lacks"), readings.count("shows")


@dataclass(frozen=True, slots=True)
class Weighed:
    """A round's candidates as their looks weigh them.

    Args:
        judge: Sensitivity and specificity reckoned with.
        posteriors: Probability by prompt id that the student fails it.
        priors: The same before its own looks.
        looks: Readable and other looks by prompt id.
        least: Posterior by prompt id over which it is worth its image, were there no other candidates.
        price: Of a look, in failing prompts bought blindly.
    """

    judge: JudgeAccuracy
    posteriors: Mapping[str, float]
    priors: Mapping[str, float]
    looks: Mapping[str, int]
    least: Mapping[str, float]
    price: float

    def worth_buying(self) -> list[str]:
        """Name the candidates worth an image, the surest first: their looks speak for failing, and enough of it."""
        worth = [
            key
            for key, fails in self.posteriors.items()
            if fails > self.least[key] and fails > self.priors[key] + 1e-12
        ]
        return sorted(worth, key=lambda key: (-self.posteriors[key], key))

    def worth_a_look(self, calls: int, most_looks: int, most: int) -> list[str]:
        """Name the candidates at which one more look gains more than its price, the most gain first.

        A candidate competes for a call with the least that a call is worth anyway, and with the last of the other
        candidates that would be bought.

        Args:
            calls: Images that may be bought.
            most_looks: Most looks at one candidate.
            most: Most candidates to name.
        """
        if calls <= 0 or most <= 0:
            return []
        ranked = self.worth_buying()
        places = {key: place for place, key in enumerate(ranked)}
        gains: dict[str, float] = {}
        known: dict[tuple[float, float, int], float] = {}
        for key, fails in self.posteriors.items():
            left = most_looks - self.looks[key]
            if left <= 0:
                continue
            last = calls if places.get(key, calls) < calls else calls - 1  # among the others
            rival = self.posteriors[ranked[last]] if last < len(ranked) else 0.0
            keep = max(self.least[key], rival)
            case = (fails, keep, left)
            if case not in known:
                known[case] = prospect(fails, self.judge, left, keep, self.price).worth - max(fails, keep)
            if known[case] > 1e-9:
                gains[key] = known[case]
        return sorted(gains, key=lambda key: (-gains[key], key))[:most]


def weighed(
    state: DatasetState,
    evidence: Sequence[Evidence],
    round: RoundInfo,
    settings: Confirming,
    smoothing: float,
    most_per_call: int,
    shown: Collection[str],
    buying_rounds: int | None,
) -> Weighed:
    """Weigh a round's screened candidates.

    While candidates can still be written later, a call is worth what it would buy then (`reservation`), less the share
    of the training that is over by then: an image bought a round later is trained on for a round less. In the last
    buying round it is worth the price of its image, the base share: no candidate is bought that is less likely to fail
    than one bought blindly.

    Args:
        state: This round's candidates included.
        evidence: What the round saw.
        round: Its prices, and the judge as measured.
        settings: Looks at a candidate, and what a judge is believed.
        smoothing: How fast the past is forgotten.
        most_per_call: Candidates per call, at most.
        shown: Skills where more fail than the judge's error explains.
        buying_rounds: Rounds in which images are bought; None where that is not known.
    """
    judge = judge_of(round, state.history, settings, evidence)
    screened = {item.prompt_id: item for item in evidence if item.kind == "screen" and item.reading != "unreadable"}
    screened = {key: item for key, item in sorted(screened.items()) if item.reading is not None}
    prompts: dict[str, Prompt] = {key: state.entries[key].prompt for key in screened}
    groups = {key: groups_of(prompt.skill, prompt.origin, prompt.lineage_id) for key, prompt in prompts.items()}
    sums = seen_before(state.history, round, judge, settings, smoothing)
    own = {key: Seen.of(Tally(1, int(item.reading == "lacks")), judge) for key, item in screened.items()}
    for key, seen in own.items():
        for group in groups[key]:
            sums[group] = sums.get(group, Seen()) + seen
    priors = {key: share_in(sums, groups[key], own[key]) for key in screened}
    base = base_share(sums)
    price = look_price(round, settings, base, most_per_call)
    later = 0.0
    shares = fresh_shares(sums)
    if shares and (buying_rounds is None or round.index + 1 < buying_rounds):
        left = 1.0 if round.rounds is None else (round.rounds - round.index - 1) / (round.rounds - round.index)
        later = left * reservation(shares, judge, settings.most_looks, price)
    return Weighed(
        judge,
        {key: posterior(priors[key], *taken(item), judge) for key, item in screened.items()},
        priors,
        {key: max(1, len(item.looks)) for key, item in screened.items()},
        {key: max(later, base if prompt.skill in shown else DOUBTFUL) for key, prompt in prompts.items()},
        price,
    )


def is_in_doubt(round: RoundInfo, settings: Confirming) -> bool:
    """Say whether one look does not decide: the judge errs, but says something, and further looks are allowed."""
    judge = believed(round.judge, settings.assumed_accuracy)
    return settings.most_looks > 1 and judge.says_something and not is_exact(judge)


def looks_in(evidence: Iterable[Evidence]) -> tuple[int, int]:
    """Count what was looked at in a round so far: all looks, and those at a candidate after the first."""
    looks = [(item.kind, len(item.looks)) for item in evidence]
    return sum(count for _, count in looks), sum(max(0, count - 1) for kind, count in looks if kind == "screen")
