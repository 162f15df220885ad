"""How rewards (CLIPScore, PickScore, HPSv2, ImageReward, ...) find the student's images, on the average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evolvedirector.errors import UserError
from evolvedirector.evaluation.prompt_choice import prompts_of, refuse_below, requests_to_draw, source_ids
from evolvedirector.evaluation.scored import scores_of
from evolvedirector.evaluation.suite import Asked, Drawn, Figure, Offered, Outcome, Readings, Sitting
from evolvedirector.records import ImageAndPrompt, Prompt, digest
from evolvedirector.records.part import Part, requests_in_flight_of
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.rewards.reward import Reward


class RewardMeans:
    """Score drawn images with rewards; report the mean of each, over all prompts and by skill.

    The images of one prompt count as one, so the 95 % intervals rest on prompts. An image that a reward cannot score is
    left out. CLIPScore is the usual one (Hessel et al. 2021); rewards that were trained on people's choices (PickScore,
    HPSv2, ImageReward) are comparable between students, not with each other.

    Example:
        ```yaml
        rewards:
          class_path: evolvedirector.evaluation.suites.RewardMeans
          init_args:
            rewards:
              clip_score:
                class_path: evolvedirector.rewards.CLIPScore
                init_args: {model: openai/clip-vit-large-patch14}
              pick_score: {class_path: evolvedirector.rewards.PickScore}
        ```

    Args:
        rewards: By the name of their row.
        prompts: A prompt file or a source. None: the datamodule's held-out prompts.
        images_per_prompt: Seeds of each prompt.
        max_prompts: Prompts at most, spread over skills. None: all.
        every_n_epochs: Epochs between further evaluations. None: only when training ends.
        seed: Root of the choice of prompts and of the seeds.

    Raises:
        UserError: No reward, or a number below 1.
    """

    def __init__(
        self,
        rewards: dict[str, Reward],
        prompts: PromptSource | str | Path | None = None,
        images_per_prompt: int = 1,
        max_prompts: int | None = None,
        every_n_epochs: int | None = None,
        seed: int = 0,
    ) -> None:
        if not rewards:
            raise UserError(
                "rewards is empty. Allowed: at least one. Write `rewards: {clip_score: {class_path: "
                "evolvedirector.rewards.CLIPScore, init_args: {model: openai/clip-vit-large-patch14}}}`, say."
            )
        refuse_below(1, images_per_prompt=images_per_prompt, max_prompts=max_prompts, every_n_epochs=every_n_epochs)
        self.rewards = rewards
        self.source = prompts
        self.images_per_prompt = images_per_prompt
        self.max_prompts = max_prompts
        self.every_n_epochs = every_n_epochs
        self.seed = seed

    @property
    def fingerprint(self) -> str:
        """Name rewards, prompts of a source, choice and seeds."""
        rewards = sorted(reward.fingerprint for reward in self.rewards.values())
        options = (self.images_per_prompt, str(self.max_prompts), self.seed)
        return f"reward-means-1/{digest(*options, *rewards, *source_ids(self.source))}"

    @property
    def reads_alone(self) -> bool:
        """Whether a reward asks a service: one process asks for all ranks."""
        return requests_in_flight_of(*self.rewards.values()) > 0

    def prompts(self, offered: Offered) -> Sequence[Prompt]:
        """List the prompts of the file, or the held-out ones."""
        return prompts_of(self.source, offered.held_out, self.max_prompts, self.seed)

    def requests(self, offered: Offered) -> Asked:
        """Ask for some images of each; the same for every step, so that steps are comparable."""
        return requests_to_draw(self.prompts(offered), self.images_per_prompt, self.seed, offered.size_px, "rewards")

    def read(self, drawn: Sequence[Drawn], sitting: Sitting) -> Readings:
        """Score each image with each reward; None where one could not."""
        return scores_of(self.rewards, [ImageAndPrompt(one.request_id, one.image, one.prompt.text) for one in drawn])

    def figures(self, readings: Readings, sitting: Sitting) -> Outcome:
        """Return the mean of each reward, then by skill where there are several."""
        prompts = {key: prompt for key, (_, prompt) in sitting.asked.items()}
        rows: dict[str, Figure] = {}
        for name in self.rewards:
            by_prompt: dict[str, list[float]] = {}
            for key, scores in readings.items():
                if (value := scores.get(name)) is not None:
                    by_prompt.setdefault(prompts[key].id, []).append(value)
            means = {prompt_id: sum(values) / len(values) for prompt_id, values in by_prompt.items()}
            skills = {prompt.id: prompt.skill for prompt in prompts.values()}
            rows[name] = Figure.of_mean(list(means.values()))
            if len(set(skills.values())) > 1:
                for skill in sorted(set(skills.values())):
                    rows[f"{name}/{skill}"] = Figure.of_mean([v for key, v in means.items() if skills[key] == skill])
        return Outcome(rows)

    def parts(self) -> Mapping[str, Part]:
        """Name the rewards."""
        return {f"rewards.{name}": reward for name, reward in self.rewards.items()}

    def looks(self, held_out: int) -> Mapping[str, int]:
        """Count one score for each image and reward."""
        prompts = held_out if self.source is None else len(prompts_of(self.source, (), None, self.seed))
        images = min(prompts, self.max_prompts or prompts) * self.images_per_prompt
        return {f"rewards.{name}": images for name in self.rewards}
