"""Objectives: the maths of noise and loss, without any network."""

from typing import Any

from evolvedirector.lightning_modules.objectives.ddpm_epsilon import DDPMEpsilon
from evolvedirector.lightning_modules.objectives.flow_matching import FlowMatching
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.objectives.resolution_flow import ResolutionFlowMatching
from evolvedirector.renamed import old_attribute

__all__ = ["DDPMEpsilon", "FlowMatching", "Objective", "ResolutionFlowMatching"]


def __getattr__(name: str) -> Any:
    return old_attribute(__name__, name)
