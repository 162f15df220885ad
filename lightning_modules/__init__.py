"""LightningModules: what is trained."""

from typing import Any

from evolvedirector.lightning_modules.codecs import Autoencoder, Codec, Pixels
from evolvedirector.lightning_modules.families import SD3, Family, PixArt
from evolvedirector.lightning_modules.objectives.ddpm_epsilon import DDPMEpsilon
from evolvedirector.lightning_modules.objectives.flow_matching import FlowMatching
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.objectives.resolution_flow import ResolutionFlowMatching
from evolvedirector.lightning_modules.sharded_strategy import ShardedStrategy
from evolvedirector.lightning_modules.text_encoders import (
    CLIPEncoder,
    MiniLMEncoder,
    PooledTextEncoder,
    RandomTextEncoder,
    T5Encoder,
    TextEncoder,
)
from evolvedirector.lightning_modules.text_to_image import TextToImage
from evolvedirector.lightning_modules.warmup_decay_lr import WarmupDecayLR
from evolvedirector.renamed import old_attribute

__all__ = [
    "SD3",
    "Autoencoder",
    "CLIPEncoder",
    "Codec",
    "DDPMEpsilon",
    "Family",
    "FlowMatching",
    "MiniLMEncoder",
    "Objective",
    "PixArt",
    "Pixels",
    "PooledTextEncoder",
    "RandomTextEncoder",
    "ResolutionFlowMatching",
    "ShardedStrategy",
    "T5Encoder",
    "TextEncoder",
    "TextToImage",
    "WarmupDecayLR",
]


def __getattr__(name: str) -> Any:
    return old_attribute(__name__, name)
