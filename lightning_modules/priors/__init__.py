"""Priors: from a text to an image embedding."""

from evolvedirector.lightning_modules.priors.diffusion_prior_objective import DiffusionPriorObjective
from evolvedirector.lightning_modules.priors.eclipse_objective import EclipseObjective
from evolvedirector.lightning_modules.priors.prior_network import PriorNetwork
from evolvedirector.lightning_modules.priors.prior_objective import PriorObjective
from evolvedirector.lightning_modules.priors.projection_objective import ProjectionObjective

__all__ = [
    "DiffusionPriorObjective",
    "EclipseObjective",
    "PriorNetwork",
    "PriorObjective",
    "ProjectionObjective",
]
