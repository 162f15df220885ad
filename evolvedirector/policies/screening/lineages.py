"""When a lineage is mastered, taken back or full, and what is probed. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from evolvedirector.policies.screening.candidates import seeded_choice
from evolvedirector.policies.screening.rates import (
    exceeds,
    folded_rates,
    lineage_of,
    skill_of,
    tallies_by,
)
from evolvedirector.records import (
    DatasetState,
    Decision,
    Evidence,
    JudgeAccuracy,
    Prompt,
    PromptEntry,
    RoundHistory,
    RoundInfo,
    Tally,
)
from evolvedirector.records.judge_accuracy import clipped

ROUNDS_TO_MASTER = 2
PROBE_DEVIATIONS = 1.0
"""Standard deviations by which probes must exceed the share: a few unlucky probes take nothing back."""


def by_lineage(entries: Sequence[PromptEntry]) -> dict[str, list[PromptEntry]]:
    """Group entries by lineage, both in a fixed order."""
    found: defaultdict[str, list[PromptEntry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.prompt.id):
        found[entry.prompt.lineage_id].append(entry)
    return dict(sorted(found.items()))


def mastered_lineages(
    history: Sequence[RoundHistory], now: Mapping[str, Tally], judge: JudgeAccuracy, min_looks: int, most_failed: float
) -> set[str]:
    """Name the lineages whose unseen children passed in this round and in the last one before that looked at enough.

    Args:
        history: Earlier rounds, oldest first.
        now: This round's tallies by lineage.
        judge: How far it is right in this round.
        min_looks: Looks at a lineage below which a round says nothing about it.
        most_failed: Corrected failed share up to which a round is passed.
    """

    def passed(tally: Tally, judge: JudgeAccuracy) -> bool | None:
        share = judge.corrected(tally) if tally.looked >= min_looks else None
        return None if share is None else share <= most_failed + 1e-9

    found = set()
    for lineage, tally in now.items():
        if not passed(tally, judge):
            continue
        rounds = (passed(past.lineages.get(lineage, Tally()), past.judge) for past in reversed(history))
        earlier = [verdict for verdict in rounds if verdict is not None][: ROUNDS_TO_MASTER - 1]
        if len(earlier) == ROUNDS_TO_MASTER - 1 and all(earlier):
            found.add(lineage)
    return found


def lineages_to_revive(
    mastered: Mapping[str, Sequence[PromptEntry]],
    lineages: Mapping[str, Tally],
    skills: Mapping[str, Tally],
    judge: JudgeAccuracy,
    min_looks: int,
    most_failed: float,
) -> set[str]:
    """Name the mastered lineages that the student forgot: by their own probes, or by their skill's if those are few.

    Args:
        mastered: Mastered entries by lineage.
        lineages: Probes of mastered prompts by lineage.
        skills: Probes of mastered prompts by skill.
        judge: How far it is right in this round.
        min_looks: Probes from which a lineage, or a skill, is judged.
        most_failed: True failed share that is still fine.
    """
    found = set()
    for lineage, entries in mastered.items():
        tally = lineages.get(lineage, Tally())
        if tally.looked < min_looks:
            tally = skills.get(entries[0].prompt.skill, Tally())
        if tally.looked >= min_looks and exceeds(tally, most_failed, judge, PROBE_DEVIATIONS):
            found.add(lineage)
    return found


def mastered_probes(state: DatasetState, round: RoundInfo, most: int, per_lineage: int) -> list[str]:
    """Choose mastered prompts to probe, a few of each lineage, other lineages every round."""
    groups = by_lineage(state.in_state("mastered"))
    chosen: list[str] = []
    for lineage in seeded_choice(groups, len(groups), "probe", round.seed, round.round_id):
        if len(chosen) >= most:
            break
        ids = [entry.prompt.id for entry in groups[lineage] if entry.sample]
        chosen += seeded_choice(ids, min(per_lineage, most - len(chosen)), "probe", round.seed, round.round_id)
    return chosen


def moves(
    state: DatasetState,
    evidence: Sequence[Evidence],
    judge: JudgeAccuracy,
    min_looks: int,
    master_failed_share: float,
    revive_failed_share: float,
) -> list[Decision]:
    """Master the lineages whose unseen children passed twice, and take back the mastered ones that were forgotten.

    Args:
        state: This round's candidates included.
        evidence: What the round saw, in any order.
        judge: How far it is right in this round.
        min_looks: Looks at a lineage below which a round says nothing about it.
        master_failed_share: Failed share of unseen children up to which a round is passed.
        revive_failed_share: Failed share of probes that is still fine.
    """
    screened = tallies_by(state, evidence, {"screen"}, lineage_of)
    passed = mastered_lineages(state.history, screened, judge, min_looks, master_failed_share)
    live = by_lineage([entry for entry in state.in_state("live") if entry.sample])
    mastered = by_lineage(state.in_state("mastered"))
    probed = [item for item in evidence if state.entries[item.prompt_id].state == "mastered"]
    by_line, by_skill = (tallies_by(state, probed, {"probe"}, name) for name in (lineage_of, skill_of))
    revived = lineages_to_revive(mastered, by_line, by_skill, judge, min_looks, revive_failed_share)
    return [
        *_each("master", {name: live[name] for name in live if name in passed}, "unseen children pass in two rounds"),
        *_each("revive", {name: mastered[name] for name in mastered if name in revived}, "probes of it fail again"),
    ]


def _each(
    kind: Literal["master", "revive", "retire"], groups: Mapping[str, Sequence[PromptEntry]], reason: str
) -> list[Decision]:
    return [Decision(kind, entry.prompt.id, 1, reason) for group in groups.values() for entry in group]


def parent_weights(state: DatasetState, cap: int | None, least_rate: float, smoothing: float) -> dict[Prompt, float]:
    """Weigh the prompts that may have children by how often their lineage is failed, twice for those failed themselves.

    Args:
        state: Mastered lineages and full ones have no children.
        cap: Most images of one lineage; None is no cap.
        least_rate: Floor of a lineage's failure rate.
        smoothing: Weight of the newest round in it.
    """
    closed = full(state, cap) | {entry.prompt.lineage_id for entry in state.in_state("mastered")}
    parents = [entry.prompt for entry in state.in_state("live") if entry.prompt.lineage_id not in closed]
    rounds = [(past.lineages, past.judge) for past in state.history]
    rates = folded_rates(rounds, {prompt.lineage_id for prompt in parents}, smoothing)
    failed = frozenset[str]().union(*(past.failed for past in state.history))
    return {p: max(least_rate, clipped(rates[p.lineage_id])) * (1 + (p.id in failed)) for p in parents}


def trainable(state: DatasetState) -> dict[str, list[PromptEntry]]:
    """Group the prompts that are trained on by lineage."""
    return by_lineage([e for e in state.entries.values() if e.sample and e.state in ("live", "mastered")])


def full(state: DatasetState, cap: int | None) -> set[str]:
    """Name the lineages that have as many images as the cap allows."""
    return set() if cap is None else {name for name, group in trainable(state).items() if len(group) >= cap}


def over_cap(state: DatasetState, cap: int | None) -> list[Decision]:
    """Retire what a lineage has beyond its cap (a lowered cap, an import), by a fixed hash, its ancestor last."""
    surplus = {}
    for name, group in trainable(state).items():
        ranked = sorted(group, key=lambda entry: (entry.prompt.id != name, entry.prompt.id))
        surplus[name] = ranked[cap:] if cap is not None else []
    return _each("retire", surplus, f"lineage over its cap of {cap} images")


def within_cap(state: DatasetState, prompts: Sequence[Prompt], cap: int | None) -> list[Prompt]:
    """Keep, in order, the prompts whose lineage has room for another image."""
    if cap is None:
        return list(prompts)
    images = Counter({name: len(group) for name, group in trainable(state).items()})
    kept = []
    for prompt in prompts:
        images[prompt.lineage_id] += 1
        if images[prompt.lineage_id] <= cap:
            kept.append(prompt)
    return kept
