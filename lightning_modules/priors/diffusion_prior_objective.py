"""The diffusion baseline of a prior: unCLIP's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.objectives.prior_losses import projection_loss
from evolvedirector.lightning_modules.priors.prior_condition import PriorCondition
from evolvedirector.lightning_modules.priors.prior_objective import PredictEmbedding, PriorDraws, PriorLosses
from evolvedirector.lightning_modules.sampling import guide


class DiffusionPriorObjective:
    """Train a prior to predict clean image embeddings from noisy ones, and draw by DDPM steps with guidance.

    The baseline that ECLIPSE compares itself with (arXiv:2312.04655, section 4): its own network with a time embedding.
    The loss is |z - z'|^2, the mean over dimensions (Ramesh et al. 2022, arXiv:2204.06125, equation 2).

    Args:
        steps: Times of the diffusion; the paper has 1000.
        sampling_steps: Of drawing; the paper has 25.
        guidance_scale: Of classifier-free guidance in drawing, 1 is none; the paper has 4.
        condition_dropout: Share of training samples that lose their text, which guidance needs; 0.1 is ours. 0 only
            without guidance.
        schedule: Of the noise: unCLIP's squared cosine, or `linear`, as the paper says of its baseline.
        embedding_scale: Embeddings are multiplied by this for the diffusion, so that their values have a deviation of
            about 1, that of the noise; ours, in place of the release's mean and deviation.

    Raises:
        UserError: A number is out of range, or the schedule is another word.
    """

    reads_time = True

    def __init__(
        self,
        steps: int = 1000,
        sampling_steps: int = 25,
        guidance_scale: float = 4.0,
        condition_dropout: float = 0.1,
        schedule: Literal["squared_cosine", "linear"] = "squared_cosine",
        embedding_scale: float = 1.0,
    ) -> None:
        if not (1 <= sampling_steps <= steps and 0 <= condition_dropout < 1 and embedding_scale > 0):
            raise UserError(
                f"steps is {steps}, sampling_steps {sampling_steps}, condition_dropout {condition_dropout}, "
                f"embedding_scale {embedding_scale}. Allowed are 1 to steps sampling steps, a dropout from 0 to under "
                "1, and a scale above 0. Write steps: 1000, sampling_steps: 25, condition_dropout: 0.1."
            )
        if not 0 <= guidance_scale < math.inf:
            raise UserError(
                f"guidance_scale is {guidance_scale}. Allowed is 0 or more, 1 is no guidance. Write guidance_scale: "
                "4.0."
            )
        if guidance_scale != 1 and not condition_dropout:
            raise UserError(
                f"guidance_scale is {guidance_scale} and condition_dropout 0, so drawing would read an empty text that "
                "no training sample has. Allowed is guidance with dropout, or neither. Write condition_dropout: 0.1, "
                "or guidance_scale: 1."
            )
        if schedule not in ("squared_cosine", "linear"):
            raise UserError(
                f"schedule is {schedule!r}. Allowed are squared_cosine and linear. Write schedule: squared_cosine."
            )
        self.steps, self.sampling_steps, self.guidance_scale = steps, sampling_steps, guidance_scale
        self.condition_dropout, self.schedule, self.embedding_scale = condition_dropout, schedule, embedding_scale

    @property
    def guides(self) -> bool:
        """Whether drawing needs the empty text, too."""
        return self.guidance_scale != 1

    def times(self, uniform: Tensor) -> Tensor:
        """Return one of the times for each number, all alike.

        Args:
            uniform: In (0, 1), one per sample.
        """
        return (uniform * self.steps).floor()

    def losses(
        self,
        predict: PredictEmbedding,
        target: Tensor,
        condition: PriorCondition,
        draws: PriorDraws,
        prompts: Sequence[str],
    ) -> PriorLosses:
        """Return |z - z'(z_t, t)|^2 of each sample, z_t = sqrt(a_t) z + sqrt(1 - a_t) e.

        Args:
            predict: The network.
            target: Float[batch, embedding], true image embeddings.
            condition: Of each, with the empty text where it was dropped.
            draws: Times and noise.
            prompts: Not read.
        """
        clean = target * self.embedding_scale
        kept = self._kept.to(clean.device)[draws.time.long()][:, None]
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * draws.noise
        return PriorLosses(projection_loss(predict(noisy, self._scaled(draws.time), condition), clean, "mean"))

    def own_losses(
        self,
        predict: PredictEmbedding,
        target: Tensor,
        condition: PriorCondition,
        draws: PriorDraws,
    ) -> Tensor:
        """Return the losses: each is its sample's own.

        Args:
            predict: The network.
            target: Float[batch, embedding], true image embeddings.
            condition: Of each.
            draws: Times and noise.
        """
        return self.losses(predict, target, condition, draws, ()).total

    def sample(
        self,
        predict: PredictEmbedding,
        shape: tuple[int, int],
        seeds: Sequence[int],
        condition: PriorCondition,
        null: PriorCondition | None,
    ) -> Tensor:
        """Draw embeddings by DDPM steps from noise, each with a generator of its own seed.

        Args:
            predict: The network.
            shape: Embeddings and their width.
            seeds: One for each.
            condition: Of each.
            null: One row, the empty text. None: no guidance.
        """
        scheduler, device = self._scheduler(), condition.text_embedding.device
        scheduler.set_timesteps(self.sampling_steps)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noisy = torch.stack([torch.randn(shape[1:], generator=generator) for generator in generators]).to(device)
        both = condition if null is None else condition.beside(null)
        for time in scheduler.timesteps:
            shown = noisy if null is None else torch.cat([noisy, noisy])
            times = self._scaled(time.to(device, torch.float32)).expand(len(shown))
            clean = predict(shown, times, both).float()
            if null is not None:
                conditional, unconditional = clean.chunk(2)
                clean = guide(conditional, unconditional, self.guidance_scale)
            noisy = scheduler.step(clean, time, noisy, generator=generators, return_dict=False)[0]
        return noisy / self.embedding_scale

    def loss_settings(self) -> Mapping[str, str]:
        """Name what decides how diffusion trains and draws."""
        return {
            "diffusion": f"{self.steps} times, {self.schedule}, embeddings times {self.embedding_scale:g}",
            "drawing": f"{self.sampling_steps} steps, guidance {self.guidance_scale:g}",
        }

    def _scaled(self, time: Tensor) -> Tensor:
        """Return times on the scale 0...1000."""
        return time.float() * (1000 / self.steps)

    @cached_property
    def _kept(self) -> Tensor:
        """Float[time]: the share of variance that is left of the clean embedding, a_t."""
        kept: Tensor = self._scheduler().alphas_cumprod
        return kept

    def _scheduler(self) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler(
            num_train_timesteps=self.steps,
            beta_schedule="squaredcos_cap_v2" if self.schedule == "squared_cosine" else "linear",
            prediction_type="sample",
            clip_sample=False,
            timestep_spacing="linspace",  # begins at pure noise and ends at the least
        )
