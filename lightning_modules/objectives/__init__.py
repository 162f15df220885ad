"""Objectives: the maths of noise and loss, without any network."""

from typing import Any

from evolvedirector.lightning_modules.objectives.ddpm import DDPM
from evolvedirector.lightning_modules.objectives.ddpm_epsilon import DDPMEpsilon
from evolvedirector.lightning_modules.objectives.dpm_flow import DPMFlowMatching
from evolvedirector.lightning_modules.objectives.flow_matching import FlowMatching
from evolvedirector.lightning_modules.objectives.flux2_flow import Flux2FlowMatching
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.objectives.resolution_flow import ResolutionFlowMatching
from evolvedirector.renamed import old_attribute

__all__ = [
    "DDPM",
    "DDPMEpsilon",
    "DPMFlowMatching",
    "FlowMatching",
    "Flux2FlowMatching",
    "Objective",
    "ResolutionFlowMatching",
]


def __getattr__(name: str) -> Any:
    return old_attribute(__name__, name)
