"""Objectives: the maths of noise and loss, without any network."""

from evolvedirector.lightning_modules.objectives.ddpm_epsilon import DDPMEpsilon
from evolvedirector.lightning_modules.objectives.flow_matching import FlowMatching
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.objectives.resolution_flow import ResolutionFlowMatching

__all__ = ["DDPMEpsilon", "FlowMatching", "Objective", "ResolutionFlowMatching"]
