"""Networks that also say how uncertain a step back is: who learns that, and who can say it."""

from __future__ import annotations

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.families.family import Family, PredictsVariance
from evolvedirector.lightning_modules.objectives.objective import LearnsVariance, Objective


def learns_variance(objective: Objective) -> bool:
    """Say whether an objective reads what the network predicts of the variance.

    Args:
        objective: What is minimised.
    """
    return isinstance(objective, LearnsVariance) and objective.learns_variance


def check_variance(objective: Objective, family: Family) -> None:
    """Refuse an objective that trains the variance of a network without one.

    Args:
        objective: What is minimised.
        family: Describes the network.

    Raises:
        UserError: The network has no outputs for it.
    """
    if learns_variance(objective) and not (isinstance(family, PredictsVariance) and family.predicts_variance):
        raise UserError(
            f"{type(objective).__name__} trains a learned variance, but this {type(family).__name__} has no outputs "
            "for it. Allowed is a network with twice as many output channels. Write out_channels: 8 in the family (for "
            "a latent of 4 channels), or variational_weight: 0 in the objective."
        )
