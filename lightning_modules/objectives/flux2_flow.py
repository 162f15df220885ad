"""Flow matching with the schedule of FLUX.2, which follows the size of the image and the number of steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.objectives.flow_matching import FlowMatching, schedule
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.objectives.resolution_flow import draw_shifted_time

# Black Forest Labs' fit, as in `compute_empirical_mu` of the stock pipeline: lines over the tokens at 200 and 10 steps.
_SLOPE_200, _START_200 = 0.00016927, 0.45666666
_SLOPE_10, _START_10 = 8.73809524e-05, 1.89833333
_TOKENS_OF_ONE_LINE = 4300
_MANY_STEPS = 200


def flux2_shift_exponent(tokens: int, steps: int) -> float:
    """Return mu, linear in the tokens at 10 and at 200 steps, and linear in the steps between (FLUX.2).

    Above 4300 tokens all numbers of steps take the line of 200, which has mu = .5 at 256 tokens and 1.15 at 4096, as
    FLUX.1 has.

    Args:
        tokens: Of one image.
        steps: Sampling steps.
    """
    at_200 = _SLOPE_200 * tokens + _START_200
    if tokens > _TOKENS_OF_ONE_LINE:
        return float(at_200)
    at_10 = _SLOPE_10 * tokens + _START_10
    slope = (at_200 - at_10) / 190.0
    return float(slope * steps + (at_200 - 200.0 * slope))


@dataclass(frozen=True)
class Flux2FlowMatching(FlowMatching):
    """Flow matching whose shift grows with the tokens of an image and shrinks with the number of sampling steps.

    Few steps spend more of themselves on high noise. Training times have no steps: they are shifted as a schedule of
    200 steps is, the finest of the fit.

    Args:
        prediction: what the transformer gives: the clean image (`x0`) or the `velocity`.
        time_distribution: `logit_normal` puts most draws at medium noise; `uniform` draws all alike.
        time_mean: mean of the normal distribution before the sigmoid, to which mu is added.
        time_deviation: its standard deviation.
        smallest_time: floor of t in the x0 loss; it caps the weight 1/t^2.
        shift: must stay 1: tokens and steps say the shift.
        equal_steps: before the shift, all sampling steps have one length, as in the stock pipeline.
        tokens: of the images at hand; the student fills it in.

    Raises:
        UserError: `shift` is not 1.
    """

    equal_steps: bool = True
    tokens: int = 4096

    def __post_init__(self) -> None:
        if self.shift != 1.0:
            raise UserError(
                f"shift is {self.shift}. Here the size of an image and the number of steps say it. Write shift: 1.0, "
                "or FlowMatching for a fixed one."
            )

    def at_resolution(self, tokens: int) -> Objective:
        """Return the objective for images of that many tokens."""
        return replace(self, tokens=tokens)

    def draw_time(self, generator: torch.Generator) -> float:
        """Draw the flow time of one sample, shifted for its size: logit(t') = logit(t) + mu."""
        return draw_shifted_time(self, flux2_shift_exponent(self.tokens, _MANY_STEPS), generator)

    def scheduler(self, steps: int) -> Any:
        """Make an Euler scheduler of the flow with dynamic shifting."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler: Any = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        scheduler.set_timesteps(**schedule(steps, self.equal_steps), mu=flux2_shift_exponent(self.tokens, steps))
        scheduler.set_begin_index(0)  # spares a search, and a wait for the device, in every step
        return scheduler
