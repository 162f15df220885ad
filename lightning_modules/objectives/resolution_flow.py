"""Flow matching whose schedule follows the size of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.objectives.flow_matching import FlowMatching, schedule
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.objectives.prediction_targets import logit_normal_time


@runtime_checkable
class DependsOnResolution(Protocol):
    """An objective with a schedule of its own for each image size."""

    def at_resolution(self, tokens: int) -> Objective:
        """Return the objective for images of that many tokens."""
        ...


def at_resolution(objective: Objective, tokens: int) -> Objective:
    """Return the objective for images of that many tokens; most are the same for all.

    Args:
        objective: As configured.
        tokens: Of one image, as the family counts them.
    """
    return objective.at_resolution(tokens) if isinstance(objective, DependsOnResolution) else objective


def shift_exponent(tokens: int, base_tokens: int, max_tokens: int, base_shift: float, max_shift: float) -> float:
    """Return mu, linear in the tokens: more of them need more noise to be as hard to read.

    The shift t -> s t / (1 + (s - 1) t) with s = exp(mu) (Esser et al. 2024, arXiv:2403.03206, section 5.3.2), as the
    stock pipelines of SD3 and FLUX.1 compute it.

    Args:
        tokens: Of one image.
        base_tokens: Tokens at which mu is `base_shift`.
        max_tokens: Tokens at which mu is `max_shift`.
        base_shift: See `base_tokens`.
        max_shift: See `max_tokens`.
    """
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return tokens * slope + (base_shift - slope * base_tokens)


def draw_shifted_time(objective: FlowMatching, mu: float, generator: torch.Generator) -> float:
    """Draw a flow time of the objective's distribution and shift it: logit(t') = logit(t) + mu.

    Args:
        objective: Names the distribution.
        mu: Logarithm of the shift.
        generator: Where chance comes from.
    """
    if objective.time_distribution == "uniform":
        time = float(torch.rand((), generator=generator))
        shift = math.exp(mu)
        return shift * time / (1 + (shift - 1) * time)
    gaussian = float(torch.randn((), generator=generator))
    return logit_normal_time(gaussian, objective.time_mean + mu, objective.time_deviation)


@dataclass(frozen=True)
class ResolutionFlowMatching(FlowMatching):
    """Flow matching with a shift that grows with the number of tokens, in training and in sampling.

    For schedulers with `use_dynamic_shifting`; a fixed shift (SD3 and SD 3.5 as published: 3) is `FlowMatching`'s own.

    Args:
        prediction: what the transformer gives: the clean image (`x0`) or the `velocity`.
        time_distribution: `logit_normal` puts most draws at medium noise; `uniform` draws all alike.
        time_mean: mean of the normal distribution before the sigmoid, to which mu is added.
        time_deviation: its standard deviation.
        smallest_time: floor of t in the x0 loss; it caps the weight 1/t^2.
        shift: must stay 1: the number of tokens says the shift.
        equal_steps: before the shift, all sampling steps have one length, as in FLUX.1; false as in SD3.
        base_tokens: tokens at which mu is `base_shift`.
        max_tokens: tokens at which mu is `max_shift`.
        base_shift: logarithm of the shift at `base_tokens`.
        max_shift: logarithm of the shift at `max_tokens`.
        tokens: of the images at hand; the student fills it in.
        terminal_time: the last time at which the network is asked; the shifted schedule is stretched to end there
            (Qwen-Image: 0.02). None leaves it as it is.

    Raises:
        UserError: `shift` is not 1.
    """

    base_tokens: int = 256
    max_tokens: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15
    tokens: int | None = None
    terminal_time: float | None = None

    def __post_init__(self) -> None:
        if self.shift != 1.0:
            raise UserError(
                f"shift is {self.shift}. Here the size of an image says it: base_shift and max_shift are its "
                "logarithms. Write shift: 1.0, or FlowMatching for a fixed one."
            )

    def at_resolution(self, tokens: int) -> Objective:
        """Return the objective for images of that many tokens."""
        return replace(self, tokens=tokens)

    def draw_time(self, generator: torch.Generator) -> float:
        """Draw the flow time of one sample, shifted for its size: logit(t') = logit(t) + mu."""
        return draw_shifted_time(self, self._mu, generator)

    def scheduler(self, steps: int) -> Any:
        """Make an Euler scheduler of the flow with dynamic shifting."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler: Any = FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_image_seq_len=self.base_tokens,
            max_image_seq_len=self.max_tokens,
            base_shift=self.base_shift,
            max_shift=self.max_shift,
            shift_terminal=self.terminal_time,
        )
        scheduler.set_timesteps(**schedule(steps, self.equal_steps), mu=self._mu)
        scheduler.set_begin_index(0)  # spares a search, and a wait for the device, in every step
        return scheduler

    @property
    def _mu(self) -> float:
        tokens = self.base_tokens if self.tokens is None else self.tokens
        return shift_exponent(tokens, self.base_tokens, self.max_tokens, self.base_shift, self.max_shift)
