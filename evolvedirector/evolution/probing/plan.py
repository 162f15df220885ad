"""What a probe asks next, when it ends, and what it knows then. Pure; others ask for it.

A step is planned from what was seen before it alone, so a probe that was killed plans the same steps again and finds
their answers in the ledger.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from evolvedirector.errors import UserError
from evolvedirector.evaluation.words import WordFinding, terms_of, word_findings
from evolvedirector.evolution.probing.sightings import Answer, Looked, Sightings, failing_chances, half_width
from evolvedirector.records import UNLABELLED, JudgeAccuracy, Prompt, Tally, WriteRequest, digest, seed_of

STEP_LOOKS = 48
"""Looks between two plans."""
LEAST_PER_SKILL = 20
"""Looks at each skill before anything is followed."""
CHILDREN = 3
"""Children of one prompt in a step."""
CHILDREN_IN_ALL = 9
"""Children of one prompt in all: a single prompt must not speak for a word."""
AGAIN = 8
"""Prompts of a step that are drawn and looked at once more."""
MOST_LOOKS_PER_PROMPT = 5
SUSPICIOUS = 0.05
"""p value below which a word counts as suspected when parents of children are chosen; nothing is said of it."""
WORTH_FOLLOWING = 0.25
"""How likely a prompt must fail so that its children are written: below, new texts say more."""
NARROW = 0.1
"""Half of an interval that is enough of a named word where no other is asked for."""
USED_UP = 0.25
"""Share of new texts below which the writer has no more to say about a skill."""
_LEAST_TEXTS = 4


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """Say what a probe looks for and where it ends.

    Args:
        looks: Looks at most, those that check the judge included.
        cost_usd: Money at most, for looks and for the writer's replies. None: no limit.
        within: It ends when the failed share of every skill and of every named word is known within this much on each
            side (half of the 95 % interval), over 0 to 1. 0 goes on to the budget.
        skills: What texts are asked for. Empty: those that the writer brings up.
        seed: Root of every draw.

    Raises:
        UserError: A number out of its range.
    """

    looks: int = 600
    cost_usd: float | None = None
    within: float = 0.1
    skills: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.looks < 1:
            raise UserError(f"looks is {self.looks}. Allowed: 1 or more. Write `--looks 600`, say.")
        if self.cost_usd is not None and not (0 <= self.cost_usd < math.inf):
            raise UserError(f"usd is {self.cost_usd}. Allowed: 0 or more, in US dollars. Write `--usd 1.50`, say.")
        if not 0 <= self.within < 1:
            raise UserError(f"within is {self.within}. Allowed: 0 (never) to under 1. Write `--within 0.1`, say.")


class Step(NamedTuple):
    """What is asked next: texts, each request with its parent, and known prompts to draw and look at again."""

    write: list[tuple[WriteRequest, Prompt | None]]
    again: list[Looked]


class Asks(Protocol):
    """Who asks the writer, the student and the judge for a probe."""

    def write(
        self, requests: Sequence[tuple[WriteRequest, Prompt | None]], known: Collection[str]
    ) -> list[Prompt] | None:
        """Return new prompts, none of which has one of these ids; None where the budget cannot pay for them."""
        ...

    def look(self, drawings: Sequence[tuple[Prompt, int]]) -> list[Answer | None]:
        """Draw each prompt (the number tells its drawings apart) and look at it; answers in order.

        None stands for what the budget kept from being asked.
        """
        ...


Ended = Literal["narrow", "budget", "nothing new", "stopped"]
"""Why a probe looks no further: intervals are narrow enough, the budget is spent, the writer repeats itself; or it was
told to after a step."""


def probe(
    asks: Asks,
    settings: ProbeSettings,
    judge: JudgeAccuracy,
    sightings: Sightings,
    goes_on: Callable[[Sequence[WordFinding]], bool] = lambda findings: True,
) -> Ended:
    """Look until the intervals are narrow, the budget is spent or the writer has nothing new; say which.

    Args:
        asks: Carries the questions.
        settings: Where to end.
        judge: How far it is right.
        sightings: Empty; filled with what is seen, also where somebody who is asked raises an error.
        goes_on: Is shown the words after each step; False ends the probe.
    """
    number = 0
    while True:
        findings = word_findings(sightings.seen())
        if sightings.prompts and not goes_on(findings):
            return "stopped"
        if is_narrow(sightings, findings, settings, judge):
            return "narrow"
        step = next_step(sightings, findings, settings, judge, number)
        if not (step.write or step.again):
            return "nothing new"
        written = asks.write(step.write, sightings.prompts)
        if written is None:
            return "budget"
        _note_writer(sightings, step.write, written)
        if not (written or sightings.prompts):
            return "nothing new"
        drawings = [(one.prompt, len(one.failed)) for one in step.again] + [(prompt, 0) for prompt in written]
        looked = asks.look(drawings)
        for (prompt, _), answer in zip(drawings, looked, strict=True):
            if answer is not None:
                sightings.add(prompt, answer)
        if None in looked:
            return "budget"
        number += 1


def is_narrow(
    sightings: Sightings, findings: Sequence[WordFinding], settings: ProbeSettings, judge: JudgeAccuracy
) -> bool:
    """Say whether the shares of all skills and named words are known as well as was asked for.

    A skill that the writer has no more texts for is as well known as it can be.

    Args:
        sightings: So far.
        findings: Of the words.
        settings: Ask for it.
        judge: Its own uncertainty widens the intervals.
    """
    skills = sightings.skills()
    if not skills or settings.within == 0 or any(skill not in skills for skill in settings.skills):
        return False
    open_skills = [tally for skill, tally in skills.items() if skill not in sightings.used_up]
    if not open_skills or any(tally.looked < LEAST_PER_SKILL for tally in open_skills):
        return False
    tallies = [*open_skills, *(finding.tally for finding in findings if finding.named)]
    return all(half_width(tally, judge) <= settings.within for tally in tallies)


def next_step(
    sightings: Sightings,
    findings: Sequence[WordFinding],
    settings: ProbeSettings,
    judge: JudgeAccuracy,
    number: int,
) -> Step:
    """Plan the next step.

    First every skill gets `LEAST_PER_SKILL` looks, evenly; which skills there are is found out by letting the writer
    choose. What is left of a step of `STEP_LOOKS` draws up to `AGAIN` doubtful prompts once more (they failed, and it
    is open whether they would again), gives half of the rest to children of the prompts that most likely fail, which
    keep what is around a hidden word and change the rest, and the other half to the skills whose interval is widest.

    Args:
        sightings: So far.
        findings: Of the words, suspected ones first.
        settings: Of the probe.
        judge: How far it is right.
        number: Of the step, from 0.
    """
    skills = _open_skills(sightings, settings)
    tallies = sightings.skills()
    looked = {skill: tallies.get(skill, Tally()) for skill in skills}
    if not sightings.prompts and not settings.skills:
        return Step([(_request(settings, number, None, STEP_LOOKS, None), None)], [])
    missing = {skill: max(0, LEAST_PER_SKILL - tally.looked) for skill, tally in looked.items()}
    first = _evenly(missing, STEP_LOOKS)
    left = STEP_LOOKS - sum(first.values())
    again = _doubtful(sightings, findings, judge)[: min(AGAIN, left)]
    left -= len(again)
    parents = _parents(sightings, findings, settings, judge, left // 2 if skills else left)
    children = [(_request(settings, number, parent.skill, count, parent), parent) for parent, count in parents]
    widest = _widest(looked, judge, left - sum(count for _, count in parents))
    counts = {skill: first[skill] + widest[skill] for skill in looked}
    return Step([*children, *_spread(settings, number, counts)], again)


def _open_skills(sightings: Sightings, settings: ProbeSettings) -> list[str]:
    """List the skills that the writer may have more texts for."""
    met = {one.prompt.skill for one in sightings.prompts.values()}
    return sorted((set(settings.skills) or met) - sightings.used_up)


def _request(
    settings: ProbeSettings, number: int, skill: str | None, count: int, parent: Prompt | None
) -> WriteRequest:
    about = "" if parent is None else parent.id
    name = digest("probe", settings.seed, number, skill or "", about, count)
    seed = seed_of("probe", settings.seed, number, skill or "", about)
    operation: Literal["expansion", "mutation"] = "mutation" if parent is None else "expansion"
    wanted = None if skill == UNLABELLED else skill
    return WriteRequest(name, operation, None if parent is None else parent.text, wanted, count, seed)


def _spread(
    settings: ProbeSettings, number: int, counts: Mapping[str, int]
) -> list[tuple[WriteRequest, Prompt | None]]:
    return [(_request(settings, number, skill, count, None), None) for skill, count in counts.items() if count]


def _evenly(missing: Mapping[str, int], most: int) -> dict[str, int]:
    """Share out texts, each to the skill that lacks most."""
    given = dict.fromkeys(missing, 0)
    for _ in range(min(most, sum(missing.values()))):
        skill = max(given, key=lambda name: (missing[name] - given[name], name))
        given[skill] += 1
    return given


def _widest(looked: Mapping[str, Tally], judge: JudgeAccuracy, count: int) -> dict[str, int]:
    """Share out looks, each to the skill whose interval would still be the widest: its width falls as 1 / sqrt(n)."""
    widths = {skill: half_width(tally, judge) for skill, tally in looked.items()}
    given = dict.fromkeys(looked, 0)
    for _ in range(count if looked else 0):
        skill = max(
            given,
            key=lambda name: (
                widths[name] / math.sqrt(1 + given[name] / max(1, looked[name].looked)),
                name,
            ),
        )
        given[skill] += 1
    return given


def _doubtful(sightings: Sightings, findings: Sequence[WordFinding], judge: JudgeAccuracy) -> list[Looked]:
    """List prompts that failed, but may do so by a wrong look: those nearest to even odds first."""
    chances = failing_chances(sightings, findings, judge)
    open_prompts = [
        one
        for key, one in sightings.prompts.items()
        if one.tally.failed and 0.2 <= chances[key] <= 0.8 and len(one.failed) < MOST_LOOKS_PER_PROMPT
    ]
    return sorted(open_prompts, key=lambda one: (abs(chances[one.prompt.id] - 0.5), one.prompt.id))


def _parents(
    sightings: Sightings, findings: Sequence[WordFinding], settings: ProbeSettings, judge: JudgeAccuracy, count: int
) -> list[tuple[Prompt, int]]:
    """Choose whose children are written: most likely failing first, those with few children before others.

    A prompt with a named word whose share is known well enough has told what it can.
    """
    chances = failing_chances(sightings, findings, judge, SUSPICIOUS)
    enough = settings.within or NARROW
    rates = JudgeAccuracy(judge.sensitivity, judge.specificity)  # looks make nothing else of an interval narrower
    known = {f.word for f in findings if f.named and half_width(f.tally, rates) <= enough}
    asked = sightings.children_asked
    open_parents = [
        one.prompt
        for key, one in sightings.prompts.items()
        if one.tally.failed
        and chances[key] >= WORTH_FOLLOWING
        and asked[key] < CHILDREN_IN_ALL
        and known.isdisjoint(terms_of(one.prompt.text))
    ]
    open_parents.sort(key=lambda p: (-chances[p.id] / (1 + asked[p.id]), seed_of("parent", settings.seed, p.id), p.id))
    chosen = []
    for prompt in open_parents:
        if count <= 0:
            break
        number = min(CHILDREN, count, CHILDREN_IN_ALL - asked[prompt.id])
        chosen.append((prompt, number))
        count -= number
    return chosen


def _note_writer(
    sightings: Sightings, asked: Sequence[tuple[WriteRequest, Prompt | None]], written: Sequence[Prompt]
) -> None:
    """Remember whose children were asked for, and which skills bring hardly anything new."""
    new = Counter(prompt.skill for prompt in written if prompt.parent_id is None)
    for request, parent in asked:
        skill = request.skill or UNLABELLED
        left_to_writer = request.skill is None and bool(written) and not new[UNLABELLED]  # it named skills of its own
        if parent is not None:
            sightings.children_asked[parent.id] += request.count
        elif not left_to_writer and new[skill] < (USED_UP * request.count if request.count >= _LEAST_TEXTS else 1):
            sightings.used_up.add(skill)
