"""The student at work: a network with the parts that turn prompts and images into what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evolvedirector.lightning_modules.codecs.codec import latent_shape
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.lightning_modules.families.family import Family, GuidesItself
from evolvedirector.lightning_modules.latents import posterior_of_batch, size_of_batch
from evolvedirector.lightning_modules.learned_variance import learns_variance
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.objectives.resolution_flow import at_resolution
from evolvedirector.lightning_modules.role_files import extras_of_batch, roles_of_requests
from evolvedirector.lightning_modules.sample_losses import images_of, mean_losses
from evolvedirector.lightning_modules.sampling import (
    Drawing,
    check_finite,
    chunks_of_one_size,
    guide,
    initial_noise,
    sample,
    to_uint8,
)
from evolvedirector.lightning_modules.text_cache import TextCache
from evolvedirector.records import ImageRequest, LossRequest
from evolvedirector.records.condition import Condition, Extras, Size, TextStates

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How images are drawn.

    Args:
        steps: Scheduler steps of an image.
        guidance_scale: Of classifier-free guidance; 1 is none.
        chunk_size: Images drawn at once. Chunks always have this size, so that an image does not depend on how many
            were asked for.
    """

    steps: int
    guidance_scale: float
    chunk_size: int


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What a training step begins with.

    Args:
        size: Of the images.
        objective: At their resolution.
        dropped: Which samples lose their text.
        clean: Float[batch, channel, height, width]: images or latents.
        noise: Of the same shape.
        times: Float[batch], in the unit of the objective.
        noisy: What the network is shown.
        states: Of the texts; of the empty one where a text is lost.
    """

    size: Size
    objective: Objective
    dropped: Sequence[bool]
    clean: Tensor
    noise: Tensor
    times: Tensor
    noisy: Tensor
    states: TextStates


@dataclass(frozen=True, slots=True, eq=False)
class Student:
    """Read batches, draw images and measure losses with one network, without owning it.

    Args:
        family: Conventions, text encoders and codec.
        objective: What the network predicts.
        network: Built, with its adapters.
        text_states: Of prompts, kept.
        device: Of the network.
    """

    family: Family
    objective: Objective
    network: nn.Module
    text_states: TextCache
    device: torch.device

    def clean(
        self, batch: Mapping[str, Any], latent_noise: Tensor | None
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the images of a batch as the objective sees them: normalised latents, or pixels.

        Args:
            batch: With images or latents.
            latent_noise: Of a random codec. None: its means.
        """
        posterior = posterior_of_batch(self.family.codec, batch, self.device)
        noise = None if latent_noise is None else latent_noise.to(self.device)
        return self.family.codec.normalise(posterior.sample(noise))

    def condition(self, states: TextStates, size: Size, extras: Extras) -> Condition:
        """Return what the network reads beside noisy images of one size.

        Args:
            states: Of the prompts.
            size: Of the images.
            extras: Roles and guidance.
        """
        # encoders may work in half precision; autocast, where it is on, goes back to it where that is safe
        return self.family.condition(states, [size] * states.count, extras).to(self.device, torch.float32)

    def predict(
        self,
        noisy: Float[Tensor, "batch channel height width"],
        times: Float[Tensor, " batch"],
        condition: Condition,
        with_variance: bool = False,
    ) -> Float[Tensor, "batch outputs height width"]:
        """Return what the network predicts.

        Args:
            noisy: Images or latents.
            times: On the objective's scale of the network.
            condition: Of each.
            with_variance: Keep the channels of a learned variance, where there are some.
        """
        prediction = self.family.predict(self.network, noisy, times, condition)
        return prediction if with_variance else prediction[:, : noisy.shape[1]]

    def training_losses(self, batch: Mapping[str, Any], condition_dropout: float) -> Float[Tensor, " batch"]:
        """Return the loss of each sample of a batch; every draw follows from its `sample_seed`.

        Args:
            batch: Images or latents with their prompts.
            condition_dropout: Share of samples that lose their text.
        """
        step = self.step(batch, condition_dropout)
        condition = self.condition(step.states, step.size, self.training_extras(batch))
        objective = step.objective
        prediction = self.predict(
            step.noisy, objective.transformer_time(step.times), condition, learns_variance(objective)
        )
        return objective.loss(prediction, step.clean, step.noise, step.times)

    def training_extras(self, batch: Mapping[str, Any]) -> Extras:
        """Return what a training batch brings beside texts.

        Args:
            batch: As for `training_losses`.
        """
        return extras_of_batch(batch, self.family.roles, self.device)

    def step(self, batch: Mapping[str, Any], condition_dropout: float) -> Step:
        """Draw what chance decides about a batch, make its images noisy and take the states of its texts.

        Args:
            batch: Images or latents with their prompts.
            condition_dropout: Share of samples that lose their text.
        """
        size = size_of_batch(batch)
        objective = at_resolution(self.objective, self.family.tokens(size))
        codec = self.family.codec
        draws = draw(batch["sample_seed"], objective, condition_dropout, latent_shape(codec, size), codec.is_random)
        noise, times = draws.noise.to(self.device), draws.time.to(self.device)
        clean = self.clean(batch, draws.latent_noise)
        noisy = objective.corrupt(clean, noise, times)
        texts = ["" if dropped else text for text, dropped in zip(batch["prompt"], draws.dropped, strict=True)]
        states = self.text_states.get(texts, self.device)
        return Step(size, objective, draws.dropped, clean, noise, times, noisy, states)

    def draw(self, requests: Sequence[ImageRequest], sampling: Sampling) -> list[Tensor]:
        """Draw one uint8 image (3, height, width) per request, on the CPU.

        Args:
            requests: In any sizes that family and codec take.
            sampling: How.

        Raises:
            UserError: A request has another size.
        """
        for request in requests:
            self.family.tokens(Size(request.height_px, request.width_px))
        images: dict[int, Tensor] = {}
        for places, chunk in chunks_of_one_size(requests, sampling.chunk_size):
            images |= dict(zip(places, self._draw_chunk(chunk, sampling), strict=False))
        return [images[index] for index in range(len(requests))]

    def sample_losses(self, requests: Sequence[LossRequest], size_px: int, chunk_size: int) -> list[float]:
        """Return the mean training loss of each sample at fixed noise levels.

        Args:
            requests: Samples with the seeds of their noise, all of as many levels.
            size_px: Side of the square that each image is cut to.
            chunk_size: Samples measured at once; the last chunk is padded, as in drawing.
        """
        losses: list[float] = []
        for start in range(0, len(requests), chunk_size):
            chunk = list(requests[start : start + chunk_size])
            padded = chunk + chunk[-1:] * (chunk_size - len(chunk))
            losses += self._losses_of_chunk(padded, size_px)[: len(chunk)]
        return losses

    def _draw_chunk(self, chunk: Sequence[ImageRequest], sampling: Sampling) -> list[Tensor]:
        result = sample(self.drawing(chunk, sampling))
        self.family.codec.to(self.device)
        images = self.family.codec.decode(result)
        check_finite(images, [request.prompt for request in chunk])
        return list(to_uint8(images).cpu())

    def drawing(self, chunk: Sequence[ImageRequest], sampling: Sampling) -> Drawing:
        """Return what some images are drawn from.

        Args:
            chunk: Requests of one size, with files of the same roles and sizes.
            sampling: How.
        """
        size = Size(chunk[0].height_px, chunk[0].width_px)
        codec, scale = self.family.codec, sampling.guidance_scale
        extras = self.extras(chunk, scale)
        states = self.text_states.get([request.prompt for request in chunk], self.device, keep=False)
        own = self.family if isinstance(self.family, GuidesItself) else None
        null = None
        if scale != 1 if own is None else own.needs_null(scale):
            null = self.condition(self.text_states.get([""], self.device).repeat(len(chunk)), size, extras)
        return Drawing(
            self.predict,
            at_resolution(self.objective, self.family.tokens(size)),
            initial_noise([request.seed for request in chunk], latent_shape(codec, size)).to(self.device),
            self.condition(states, size, extras),
            null,
            sampling.steps,
            scale,
            guide if own is None else own.guide,
        )

    def extras(
        self,
        chunk: Sequence[ImageRequest | LossRequest],
        guidance_scale: float | None = None,
        size_px: int | None = None,
    ) -> Extras:
        """Return the files of requests that the family reads.

        Args:
            chunk: Requests.
            guidance_scale: For networks that read it.
            size_px: Side of the squares that pictures are cut to, as for training. None: they stay as they are.
        """
        return Extras(roles_of_requests(chunk, self.family.roles, self.device, size_px), guidance_scale)

    def _losses_of_chunk(self, chunk: Sequence[LossRequest], size_px: int) -> list[float]:
        images = images_of(chunk, size_px)
        size = Size(*images.shape[-2:])
        extras = self.extras(chunk, size_px=size_px)
        condition = self.condition(
            self.text_states.get([request.prompt for request in chunk], self.device), size, extras
        )
        objective = at_resolution(self.objective, self.family.tokens(size))
        clean = self.clean({"image": images}, None)
        seeds = [request.noise_seeds for request in chunk]
        predict = partial(self.predict, with_variance=learns_variance(objective))
        return mean_losses(predict, objective, clean, condition, seeds).tolist()
