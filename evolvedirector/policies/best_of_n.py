"""Best of N: a teacher draws several images of each prompt, and each aspect keeps the best ones by its own reward."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from evolvedirector.errors import UserError
from evolvedirector.policies.policy import RunSize
from evolvedirector.policies.screening.candidates import TEXTS_PER_MUTATION, apportioned, unit_draw
from evolvedirector.policies.screening.rates import known_skills
from evolvedirector.records import (
    UNLABELLED,
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    RoundInfo,
    RoundPlan,
    TrainingMix,
    WriteRequest,
    digest,
    seed_of,
)
from evolvedirector.records.plain_settings import settings_of

Pool = Mapping[str, Mapping[str, float]]
"""Value by image (sha256) by prompt id: what one aspect finds in the candidates of a round."""


@dataclass(frozen=True, slots=True)
class Aspect:
    """Say which reward stands for an aspect of quality, and how good an image must be to be kept.

    Args:
        reward: Name of the reward, as in EvolutionCallback's `rewards`. It selects, so it is never the evaluator of
            what was trained: what is selected by a score has that score. None with `by_chance` alone.
        threshold: Least score, in the reward's own scale. None: see `top_share`.
        top_share: Share of the pool that passes, over 0 to 1: the threshold is that quantile of the scores in the
            pool; images equal to it pass too. None, without a threshold: every image passes.
        by_chance: Choose by a seeded random number, 0 to 1, in place of a reward: the control for what training on own
            images does without any selection.

    Raises:
        UserError: No reward, or one beside `by_chance`; both limits, a threshold that is no number, or a share out of
            range.
    """

    reward: str | None = None
    threshold: float | None = None
    top_share: float | None = None
    by_chance: bool = False

    def __post_init__(self) -> None:
        if (self.reward is None) != self.by_chance:
            named = "names no reward" if self.reward is None else f"names the reward {self.reward!r} and by_chance"
            raise UserError(
                f"An aspect {named}. Allowed is one of the two. Write `reward:` with the name of one in `rewards`, or "
                "`by_chance: true` for a random choice."
            )
        if self.threshold is not None and self.top_share is not None:
            raise UserError(
                f"An aspect has threshold {self.threshold} and top_share {self.top_share}. Allowed is one of them, or "
                "none. Leave one out."
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UserError(f"threshold is {self.threshold}. Allowed is a finite number. Write `threshold: 0.5`, say.")
        if self.top_share is not None and not 0.0 < self.top_share <= 1.0:
            raise UserError(f"top_share is {self.top_share}. Allowed: over 0 to 1. Write `top_share: 0.3`, say.")


class BestOfN:
    """Let a teacher draw K images of N prompts, score them all, and keep for each aspect the best one of each prompt.

    Stages 1 and 2 of VersaT2I (Guo et al. 2024, arXiv 2403.18493): per aspect a threshold over the scores of all N K
    images, then at most one image of a prompt, so that easy prompts do not take over. All aspects choose from the same
    pool; an image that two of them choose becomes two samples, whose variants are the aspects' names. The teacher is
    the frozen student itself (a self-teacher) or any other. Prompts, images and scores are remembered under names that
    hold neither aspect nor threshold: with other ones a round is decided anew, and nothing is written, drawn or scored
    again.

    Example:
        ```yaml
        policy:
          class_path: evolvedirector.policies.BestOfN
          init_args:
            prompts: 150
            aspects:
              colourfulness: {reward: colourfulness, top_share: 0.5}
              chance: {by_chance: true, top_share: 0.5}
        ```

    Args:
        aspects: By name; the name is the variant of the samples that it keeps.
        prompts: N, how many prompts each round writes, spread evenly over the skills. None: the prompts of the dataset.
        images_per_prompt: K.
        drawn_by: Name of the teacher who draws.
        skills: To write prompts of. None: all that the prompts of the dataset have.
        texts_per_request: Most prompts asked of the writer at once; it keeps the texts of one request apart, while two
            requests may bring the same text, which is then refused.

    Raises:
        UserError: No aspect, an aspect without a name, or a number below 1.
    """

    def __init__(
        self,
        aspects: dict[str, Aspect],
        prompts: int | None = None,
        images_per_prompt: int = 8,
        drawn_by: str = "self",
        skills: Sequence[str] | None = None,
        texts_per_request: int = TEXTS_PER_MUTATION,
    ) -> None:
        if not aspects or "" in aspects:
            raise UserError(
                f"aspects is {dict(aspects)!r}. Allowed is at least one, each with a name. Write "
                "`aspects: {colourfulness: {reward: colourfulness, top_share: 0.5}}`, say."
            )
        counts = {"prompts": prompts, "images_per_prompt": images_per_prompt, "texts_per_request": texts_per_request}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise UserError(f"{name} is {count}. Allowed: 1 or more. Write `{name}: 8`, say.")
        self.aspects = {name: settings_of(Aspect, aspect, f"aspects.{name}") for name, aspect in aspects.items()}
        self.prompts = prompts
        self.images_per_prompt = images_per_prompt
        self.drawn_by = drawn_by
        self.skills = None if skills is None else tuple(skills)
        self.texts_per_request = texts_per_request
        self.checks_seeds = False
        self.leaves_seeds = True

    @property
    def fingerprint(self) -> str:
        """Name the rule and every setting."""
        drawn = (self.prompts, self.images_per_prompt, self.drawn_by, self.skills, self.texts_per_request)
        return f"best-of-n-1/{digest(repr((drawn, sorted(self.aspects.items()))))}"

    def check_parts(self, teachers: Collection[str], rewards: Collection[str]) -> None:
        """Refuse a run that lacks the teacher who draws or a reward that chooses.

        Args:
            teachers: Names of those who take part.
            rewards: Names of those that score.

        Raises:
            UserError: One of them is missing.
        """
        if self.drawn_by not in teachers:
            raise UserError(
                f"drawn_by is {self.drawn_by!r}, but no teacher is called so. Allowed: {', '.join(teachers)}. Write "
                "one of these names, or name that teacher in `teachers`."
            )
        for name, aspect in self.aspects.items():
            if aspect.reward is not None and aspect.reward not in rewards:
                raise UserError(
                    f"The aspect {name!r} is chosen by {aspect.reward!r}, but no reward is called so. Allowed: "
                    f"{', '.join(rewards) or 'none, since `rewards` is empty'}. Write `reward:` with one of these "
                    "names, or name that reward in `rewards`."
                )

    def most_looks(self, size: RunSize) -> int | None:
        """Return 0: rewards decide, no judge is asked.

        Args:
            size: Of the run.
        """
        return 0

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        """Write prompts, or take those of the dataset, and have each drawn K times and scored."""
        named = () if self.prompts is not None else tuple(_drawable(state))
        return RoundPlan(
            write=() if self.prompts is None else tuple(self._requests(state, round, self.prompts)),
            screen=False,
            score=named,
            score_candidates=self.prompts is not None,
            drawn_by=self.drawn_by,
            images_per_prompt=self.images_per_prompt,
        )

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        """Keep, for each aspect, at most the best image of each prompt that passes; all are drawn and paid for.

        Raises:
            UserError: An aspect has nothing to choose from, a reward that finds all images equal, or a threshold that
                no image passes; scores stay remembered, so another threshold needs no image and no score again.
        """
        scored = [item for item in evidence if item.kind == "score" and item.teacher_sha256 is not None]
        if not scored and 0 in (allowance.teacher_calls, allowance.cost_usd):
            return []  # the budget is spent: the last rounds of a run train on what there is
        decisions: list[Decision] = []
        for name, aspect in self.aspects.items():
            decisions += chosen_by(name, aspect, pool_of(name, aspect, scored, round.seed))
        return decisions

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        """Leave the draws as they are: which aspect is trained when is not the dataset's business."""
        return None

    def _requests(self, state: DatasetState, round: RoundInfo, count: int) -> list[WriteRequest]:
        """Ask for prompts under names that hold the writer but not this policy, so that they outlive its settings."""
        skills = sorted(known_skills(state, self.skills)) or [UNLABELLED]
        requests = []
        for skill, part in apportioned(count, dict.fromkeys(skills, 1.0)).items():
            for start in range(0, part, self.texts_per_request):
                number = min(self.texts_per_request, part - start)
                named = (round.writer, round.seed, round.index, skill, start, number)
                wanted = None if skill == UNLABELLED else skill
                request_id, seed = digest("best of n", *named), seed_of("best of n", *named)
                requests.append(WriteRequest(request_id, "mutation", None, wanted, number, seed))
        return requests


def _drawable(state: DatasetState) -> list[str]:
    """List the prompts of a dataset that may be drawn, in a fixed order."""
    return sorted(key for key, entry in state.entries.items() if entry.state != "retired")


def pool_of(name: str, aspect: Aspect, scored: Sequence[Evidence], seed: int) -> dict[str, dict[str, float]]:
    """Collect what an aspect finds in the candidates; images that its reward could not score are left out.

    Args:
        name: Of the aspect.
        aspect: Names the reward; without one every image gets a random number, 0 to 1, named by seed, aspect, prompt
            and image, so that no order of arrival and no other setting changes the choice.
        scored: Images of a teacher with their scores.
        seed: Of the run.
    """
    pool: dict[str, dict[str, float]] = {}
    for item in scored:
        image = item.teacher_sha256 or ""
        if aspect.reward is None:
            value: float | None = unit_draw("chance", seed, name, item.prompt_id, image)
        else:
            value = item.scores.get(aspect.reward)
        if value is not None:
            pool.setdefault(item.prompt_id, {})[image] = value
    return dict(sorted(pool.items()))


def least_score(values: Sequence[float], aspect: Aspect) -> float:
    """Return the score from which on an image passes.

    Args:
        values: Of the whole pool; at least one.
        aspect: With a threshold, a share s of the pool (the ceil(s n)-th best of n values), or neither (minus
            infinity).
    """
    if aspect.threshold is not None:
        return aspect.threshold
    if aspect.top_share is None:
        return -math.inf
    return sorted(values, reverse=True)[math.ceil(aspect.top_share * len(values) - 1e-9) - 1]


def best_of_each(pool: Pool, least: float) -> dict[str, str]:
    """Return, by prompt id, the image of the highest value that passes; of equal ones the one whose sha256 is first.

    Args:
        pool: What one aspect finds.
        least: Value from which on an image passes.
    """
    found: dict[str, str] = {}
    for prompt_id, images in pool.items():
        image = min(images, key=lambda sha256: (-images[sha256], sha256))
        if images[image] >= least:
            found[prompt_id] = image
    return found


def chosen_by(name: str, aspect: Aspect, pool: Pool) -> list[Decision]:
    """Decide what one aspect keeps, and say why: the score, among how many, and what it had to reach.

    Args:
        name: Of the aspect; the variant of what it keeps.
        aspect: Its reward and its limit.
        pool: What it finds.

    Raises:
        UserError: The pool is empty, all its values are equal, or none passes.
    """
    values = [value for images in pool.values() for value in images.values()]
    by = "chance" if aspect.reward is None else f"the reward {aspect.reward!r}"
    if not values:
        raise UserError(
            f"The aspect {name!r} has nothing to choose from: no image of this round has a score of {by}. Needed is "
            "a teacher that draws and a reward that can score. Look at what the ledger says about both; what was drawn "
            "is remembered."
        )
    if len(values) > 1 and max(values) == min(values):
        raise UserError(
            f"The aspect {name!r} cannot choose: {by} gives all {len(values)} images of the pool {values[0]:.4g}. "
            "Allowed is a reward that tells images apart. Name another one, or write `by_chance: true` for a random "
            "choice; what was drawn and scored is remembered."
        )
    least = least_score(values, aspect)
    best = best_of_each(pool, least)
    if not best:
        raise UserError(
            f"No image passes the threshold {least:.4g} of the aspect {name!r}: the best of {len(values)} images has "
            f"{max(values):.4g}, the median {statistics.median(values):.4g}. Allowed is what some image reaches. "
            f"Write a lower `threshold`, or `top_share: 0.3`; what was drawn and scored is remembered."
        )
    limit = "" if least == -math.inf else f", at least {least:.3g}"
    return [
        Decision(
            "buy",
            prompt_id,
            reason=f"{name} {pool[prompt_id][image]:.3g}, best of {len(pool[prompt_id])}{limit}",
            image_sha256=image,
            variant=name,
        )
        for prompt_id, image in best.items()
    ]
