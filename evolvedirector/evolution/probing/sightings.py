"""What a probe has seen, and how likely each prompt is one that the student fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from evolvedirector.evaluation.words import SeenPrompt, WordFinding, terms_of
from evolvedirector.records import JudgeAccuracy, Prompt, Tally
from evolvedirector.records.judge_accuracy import clipped

_SURE = 0.98
"""How far one look is believed at most, even of a judge that was never wrong: a student's next image may differ."""


class Answer(NamedTuple):
    """What came of one drawing: its image, and whether it lacks the prompt (None: the look could not be read)."""

    image_sha256: str
    failed: bool | None


@dataclass(frozen=True, slots=True)
class Looked:
    """A prompt with its images and what the judge said of each; None where a look could not be read."""

    prompt: Prompt
    failed: tuple[bool | None, ...]
    images: tuple[str, ...]
    """sha256 of each image, in the order of `failed`."""

    @property
    def first(self) -> bool | None:
        """Return the first answer that can be read: the one by which the prompt counts for skills and words."""
        return next((said for said in self.failed if said is not None), None)

    @property
    def tally(self) -> Tally:
        """Count all answers that can be read."""
        return Tally(sum(said is not None for said in self.failed), sum(said is True for said in self.failed))


@dataclass(slots=True)
class Sightings:
    """Everything that a probe saw so far, and which skills the writer has no more texts for."""

    prompts: dict[str, Looked] = field(default_factory=dict)
    """By prompt id, in the order in which they were looked at first."""
    used_up: set[str] = field(default_factory=set)
    children_asked: Counter[str] = field(default_factory=Counter)
    """Texts asked for, by the parent's id."""

    def add(self, prompt: Prompt, answer: Answer) -> None:
        """Take in what came of one drawing."""
        known = self.prompts.get(prompt.id) or Looked(prompt, (), ())
        self.prompts[prompt.id] = Looked(
            known.prompt, (*known.failed, answer.failed), (*known.images, answer.image_sha256)
        )

    def seen(self) -> list[SeenPrompt]:
        """List the prompts with an answer, as the statistics of words take them."""
        return [
            SeenPrompt(one.prompt.text, one.prompt.skill, one.first, one.prompt.lineage_id)
            for one in self.prompts.values()
            if one.first is not None
        ]

    def skills(self) -> dict[str, Tally]:
        """Count prompts by skill; children of failing prompts fail more often, so they do not count here."""
        found: dict[str, list[bool]] = {}
        for one in self.prompts.values():
            if one.first is not None and one.prompt.parent_id is None:
                found.setdefault(one.prompt.skill, []).append(one.first)
        return {skill: Tally(len(said), sum(said)) for skill, said in sorted(found.items())}


def half_width(tally: Tally, judge: JudgeAccuracy) -> float:
    """Return half of the 95 % interval of a true failed share.

    Args:
        tally: Looks.
        judge: How far it is right.
    """
    low, high = judge.interval(tally) or (0.0, 1.0)
    return (high - low) / 2


def failing_chances(
    sightings: Sightings,
    findings: Sequence[WordFinding],
    judge: JudgeAccuracy,
    level: float = 0.0,
    cautious: bool = False,
) -> dict[str, float]:
    """Return, by prompt id, how likely a prompt is one that the student fails, after all looks at it.

    Bayes: odds = f / (1 - f) x (Se / (1 - Sp))^failed x ((1 - Se) / Sp)^passed. The prior share f is that of the
    prompts with a named word in it, the largest where it has several, else that of its skill's prompts without one;
    both corrected for the judge after half a failed and half a passed prompt were added.

    Args:
        sightings: Of the probe.
        findings: Of the words.
        judge: How far it is right.
        level: Words with a p value up to it count as named, too: a suspicion, to choose what to look at.
        cautious: Take the lower end of the interval as the share of prompts without a named word: a judge whose false
            alarms are underrated by a small gold set makes right images look wrong.
    """
    counted = [finding for finding in findings if finding.named or finding.p_value <= level]
    words = {finding.word: _prior(finding.tally, judge) for finding in counted}
    within = {
        key: [word for word in terms_of(one.prompt.text) if word in words] for key, one in sightings.prompts.items()
    }
    plain: dict[str, list[bool]] = {}
    for key, one in sightings.prompts.items():
        if one.first is not None and not within[key]:
            plain.setdefault(one.prompt.skill, []).append(one.first)
    skills = {skill: _prior(Tally(len(said), sum(said)), judge, cautious) for skill, said in plain.items()}
    odds_failed, odds_passed = _odds_of_looks(judge)
    chances = {}
    for key, one in sightings.prompts.items():
        prior = max((words[word] for word in within[key]), default=skills.get(one.prompt.skill, 0.5))
        tally = one.tally
        odds = prior / (1 - prior) * odds_failed**tally.failed * odds_passed ** (tally.looked - tally.failed)
        chances[key] = odds / (1 + odds)
    return chances


def _prior(tally: Tally, judge: JudgeAccuracy, cautious: bool = False) -> float:
    share = judge.corrected(Tally(2 * tally.looked + 2, 2 * tally.failed + 1))
    if cautious and (bounds := judge.interval(tally)) is not None:
        share = bounds[0]
    return min(_SURE, max(1 - _SURE, clipped(0.5 if share is None else share)))


def _odds_of_looks(judge: JudgeAccuracy) -> tuple[float, float]:
    sensitivity, specificity = (min(_SURE, max(1 - _SURE, rate)) for rate in judge.rates)
    return sensitivity / (1 - specificity), (1 - sensitivity) / specificity
