"""Arms of a run with experts: what each comes to beside the base, on the same prompts drawn from the same noise.

An arm is a way to draw: the base alone, with one expert, with the LoRA that learned everything jointly, with a merge,
with the gate. An aspect is what one evaluator sees, or what it sees of the prompts of one skill.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from evolvedirector.evaluation.intervals import mean_interval

BASE = "base"
"""Name of the arm without any adapter, which all others are compared with."""

Scores: TypeAlias = Mapping[str, Mapping[str, float | None]]
"""Of one arm: by aspect and image. Images of different arms with one name share prompt and noise. None: not scored."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an arm is above the base on one aspect.

    Args:
        mean: Of the differences, one for each prompt.
        t: mean / (s / sqrt(n)), paired. None: every prompt differs by the same, so that there is no spread.
        effect: mean / s, Cohen's d of paired differences (Cohen 1988, section 2.3.5). None as for t.
        interval: 95 % interval of the mean, mean +- 1.96 s / sqrt(n). None for a single prompt.
        prompts: Different ones behind it.
    """

    mean: float
    t: float | None
    effect: float | None
    interval: tuple[float, float] | None
    prompts: int

    @property
    def is_surely_below(self) -> bool:
        """Whether the whole interval is below zero."""
        return self.interval is not None and self.interval[1] < 0


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """What one arm came to.

    Args:
        means: By aspect, over prompts; aspects that nobody could score are left out.
        differences: To the base, by aspect; empty for the base itself.
        worst: The aspect with the smallest paired t. None: nothing is compared.
        unscored: Scores that are missing.
    """

    means: Mapping[str, float]
    differences: Mapping[str, Difference]
    worst: str | None
    unscored: int

    @property
    def is_nowhere_below(self) -> bool:
        """Whether the arm is at or above the base on every aspect, by the means alone."""
        return bool(self.differences) and all(of.mean >= 0 for of in self.differences.values())

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        differences = {
            aspect: {**asdict(of), "interval": None if of.interval is None else list(of.interval)}
            for aspect, of in self.differences.items()
        }
        return {
            "means": dict(self.means),
            "differences": differences,
            "worst": self.worst,
            "nowhere_below": self.is_nowhere_below,
            "unscored": self.unscored,
        }


def compare_arms(arms: Mapping[str, Scores], prompt_of: Mapping[str, str]) -> dict[str, ArmFigures]:
    """Compare every arm with the base; images of one prompt count as one, since they resemble each other.

    Args:
        arms: Scores by the name of the arm; the base is one of them.
        prompt_of: Prompt of each image.
    """
    base = arms[BASE]
    found = {}
    for name, scores in arms.items():
        means = {aspect: _means_of_prompts(of, prompt_of) for aspect, of in scores.items()}
        differences: dict[str, Difference] = {}
        if name != BASE:
            pairs = {aspect: paired_difference(scores[aspect], base[aspect], prompt_of) for aspect in scores}
            differences = {aspect: pair for aspect, pair in pairs.items() if pair is not None}
        found[name] = ArmFigures(
            {aspect: sum(of.values()) / len(of) for aspect, of in means.items() if of},
            differences,
            worst_aspect(differences),
            sum(value is None for of in scores.values() for value in of.values()),
        )
    return found


def paired_difference(
    arm: Mapping[str, float | None], base: Mapping[str, float | None], prompt_of: Mapping[str, str]
) -> Difference | None:
    """Compare two arms on one aspect, image by image; None without an image that both have a score of.

    Args:
        arm: Scores by image.
        base: Scores of the same images under the base.
        prompt_of: Prompt of each image.
    """
    pairs = {image: (value, base.get(image)) for image, value in arm.items()}
    both = {image: of - beside for image, (of, beside) in pairs.items() if of is not None and beside is not None}
    values = list(_means_of_prompts(both, prompt_of).values())
    if not values:
        return None
    count = len(values)
    mean = sum(values) / count
    t: float | None = 0.0
    effect: float | None = 0.0
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1)) if count > 1 else 0.0
    if deviation > 1e-12 * abs(mean):  # beyond rounding
        t, effect = mean / (deviation / math.sqrt(count)), mean / deviation
    elif mean != 0:
        t = effect = None
    return Difference(mean, t, effect, mean_interval(values), count)


def worst_aspect(differences: Mapping[str, Difference]) -> str | None:
    """Name the aspect on which an arm is furthest below the base, or least above it: that of the smallest paired t.

    Args:
        differences: By aspect. Without any, None is returned.
    """

    def place(aspect: str) -> tuple[float, float]:
        of = differences[aspect]
        return math.copysign(math.inf, of.mean) if of.t is None else of.t, of.mean

    return min(differences, key=place, default=None)


def conflicts(figures: Mapping[str, ArmFigures], experts: Sequence[str]) -> list[tuple[str, str]]:
    """List what experts harm: (expert, aspect) wherever the interval of the difference is wholly below zero.

    An expert is meant for the aspect of its own name, if there is one; that aspect counts too.

    Args:
        figures: As `compare_arms` returns them.
        experts: Names of arms.
    """
    return [
        (expert, aspect)
        for expert in experts
        for aspect, of in figures[expert].differences.items()
        if of.is_surely_below
    ]


def split_by_skill(scores: Scores, skill_of: Mapping[str, str]) -> dict[str, dict[str, float | None]]:
    """Part each aspect by the skills of its prompts: SELMA's table, whose columns are skills.

    Args:
        scores: Of one arm. An only evaluator gives its columns the names of the skills; of several, each column is
            named `evaluator: skill`.
        skill_of: Skill of each image.
    """
    parted: dict[str, dict[str, float | None]] = {}
    for evaluator, of in scores.items():
        for skill in sorted(set(skill_of.values())):
            name = skill if len(scores) == 1 else f"{evaluator}: {skill}"
            parted[name] = {image: value for image, value in of.items() if skill_of[image] == skill}
    return parted


def _means_of_prompts(scores: Mapping[str, float | None], prompt_of: Mapping[str, str]) -> dict[str, float]:
    by_prompt: dict[str, list[float]] = {}
    for image, value in scores.items():
        if value is not None:
            by_prompt.setdefault(prompt_of[image], []).append(value)
    return {prompt: sum(values) / len(values) for prompt, values in by_prompt.items()}
