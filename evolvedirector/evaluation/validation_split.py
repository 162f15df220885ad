"""Prompts and a reward that choose a setting: neither those that a student is trained on, nor those that measure it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolvedirector.errors import UserError
from evolvedirector.evaluation.prompt_choice import prompts_of, refuse_below
from evolvedirector.evaluation.scored import scores_of
from evolvedirector.records import ImageAndPrompt, Prompt
from evolvedirector.records.plain_settings import refuse_unbuilt
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.rewards.reward import Reward


@dataclass(frozen=True)
class ValidationSplit:
    """Score what a student draws for some prompts by one reward, to choose among settings by the mean.

    Args:
        prompts: A prompt file or a source; none that is held out, and those that are trained on are left out.
        reward: Scores the images; no evaluator, since what is chosen by a score has that score.
        images_per_prompt: Seeds of each prompt.
        max_prompts: Prompts at most, spread over skills. None: all.
        seed: Root of the choice of prompts and of the seeds.

    Raises:
        UserError: A number is below 1, or the reward is none.
    """

    prompts: PromptSource | str | Path
    reward: Reward
    images_per_prompt: int = 1
    max_prompts: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_below(1, images_per_prompt=self.images_per_prompt, max_prompts=self.max_prompts)
        refuse_unbuilt("validation.reward", self.reward, "evolvedirector.rewards.CLIPScore")

    def listed(self) -> list[Prompt]:
        """List the prompts, each once.

        Raises:
            UserError: There are none.
        """
        found = prompts_of(self.prompts, (), self.max_prompts, self.seed)
        if not found:
            raise UserError(
                "validation.prompts is empty. Allowed is at least one prompt. Write `prompts: validation.txt`, say."
            )
        return found

    def refuse_measured(self, held_out: Sequence[Prompt], evaluators: Mapping[str, Reward]) -> None:
        """Refuse a split that measures the result as well: what is chosen on it would look better than it is.

        Args:
            held_out: Prompts that figures are made of.
            evaluators: Rewards that they are made with, by name.

        Raises:
            UserError: A prompt or the reward is one of them.
        """
        names = {prompt.id for prompt in held_out}
        both = [prompt for prompt in self.listed() if prompt.id in names]
        if both:
            raise UserError(
                f"{len(both)} prompts of the validation split are held out to measure the result ({both[0].text!r}). "
                "Allowed are others: what is chosen on a prompt looks too good there. Write another file under "
                "validation.prompts."
            )
        own = self.reward.fingerprint
        if same := [name for name, evaluator in evaluators.items() if evaluator.fingerprint == own]:
            raise UserError(
                f"validation.reward is the evaluator {same[0]!r} ({own}). A reward that chooses is never the "
                "evaluator, the config says both. Write another class_path, or another model, for one of them."
            )

    def unseen(self, trained_on: Collection[str]) -> list[Prompt]:
        """List the prompts that are not trained on.

        Args:
            trained_on: Their texts.

        Raises:
            UserError: All are.
        """
        listed = self.listed()
        left = [prompt for prompt in listed if prompt.text not in set(trained_on)]
        if not left:
            raise UserError(
                f"All {len(listed)} prompts of the validation split are trained on. Allowed is a split with others. "
                "Write another file under validation.prompts."
            )
        return left

    def scores(self, images: Mapping[str, bytes], prompt_of: Mapping[str, str]) -> dict[str, float | None]:
        """Score images; None where one could not be scored.

        Args:
            images: Encoded, by key.
            prompt_of: Text of the prompt of each.
        """
        items = [ImageAndPrompt(key, image, prompt_of[key]) for key, image in images.items()]
        return {key: found["reward"] for key, found in scores_of({"reward": self.reward}, items).items()}


def mean_score(scores: Mapping[str, float | None]) -> float:
    """Return the mean over what could be scored; nan where nothing could.

    Args:
        scores: By image.
    """
    known = [score for score in scores.values() if score is not None]
    return sum(known) / len(known) if known else float("nan")
