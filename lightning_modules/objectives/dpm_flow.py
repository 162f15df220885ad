"""Flow matching whose images are drawn by a solver of second order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.objectives.flow_matching import FlowMatching


@dataclass(frozen=True)
class DPMFlowMatching(FlowMatching):
    """Flow matching drawn with DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), as Sana is: fewer steps than Euler.

    Training is that of `FlowMatching`. The solver tells the network whole times: 1000 s without its fraction.

    Args:
        prediction: what the transformer gives: the clean image (`x0`) or the `velocity`.
        time_distribution: `logit_normal` puts most draws at medium noise; `uniform` draws all alike.
        time_mean: mean of the normal distribution before the sigmoid; above 0 means more noise.
        time_deviation: its standard deviation.
        smallest_time: floor of t in the x0 loss; it caps the weight 1/t^2.
        shift: time shift of the sampling schedule, t -> shift t / (1 + (shift - 1) t).
        equal_steps: must stay false: the solver has its own steps.

    Raises:
        UserError: `equal_steps` is true.
    """

    def __post_init__(self) -> None:
        if self.equal_steps:
            raise UserError(
                "equal_steps is true, but DPM-Solver++ spaces its steps itself. Write equal_steps: false, or "
                "FlowMatching for Euler steps."
            )

    def scheduler(self, steps: int) -> Any:
        """Make a multistep solver of the flow."""
        from diffusers import DPMSolverMultistepScheduler

        scheduler: Any = DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.shift
        )
        scheduler.set_timesteps(steps)
        scheduler.set_begin_index(0)  # spares a search, and a wait for the device, in every step
        return scheduler
