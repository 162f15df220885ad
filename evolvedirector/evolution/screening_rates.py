"""What a screening round knows of the skills: which there are, how often they fail, which run out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from evolvedirector.evolution.failure_rates import folded_rates, tallies_by
from evolvedirector.records import DatasetState, Evidence, Prompt, RoundInfo, Tally


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
        round: Its judge error corrects this round's looks.
        skills: Skills to answer for.
        near_empty: Skills with hardly any unseen prompts left.
        near_empty_rate: Floor of their rates.
        smoothing: Weight of the newest round.
    """

    def counts(item: Evidence) -> bool:
        entry = state.entries[item.prompt_id]
        return item.kind == "screen" or (entry.state == "live" and entry.prompt.skill in near_empty)

    seen = [item for item in evidence if item.kind in ("screen", "probe") and counts(item)]
    rounds = [(past.skills, past.judge_error) for past in state.history]
    rounds.append((tallies_by(state, seen, {"screen", "probe"}, skill_of), round.judge_error))
    rates = folded_rates(rounds, skills, smoothing)
    return {name: max(rate, near_empty_rate) if name in near_empty else rate for name, rate in rates.items()}
