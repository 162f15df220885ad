"""LightningModules: what is trained."""

from evolvedirector.lightning_modules.codecs.autoencoder import Autoencoder
from evolvedirector.lightning_modules.families import PixArt, TransformerFamily
from evolvedirector.lightning_modules.objectives.ddpm_epsilon import DDPMEpsilon
from evolvedirector.lightning_modules.objectives.flow_matching import FlowMatching
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.sharded_strategy import ShardedStrategy
from evolvedirector.lightning_modules.text_encoders import MiniLMEncoder, RandomTextEncoder, T5Encoder, TextEncoder
from evolvedirector.lightning_modules.text_to_image import TextToImage
from evolvedirector.lightning_modules.warmup_decay_lr import WarmupDecayLR

__all__ = [
    "Autoencoder",
    "DDPMEpsilon",
    "FlowMatching",
    "MiniLMEncoder",
    "Objective",
    "PixArt",
    "RandomTextEncoder",
    "ShardedStrategy",
    "T5Encoder",
    "TextEncoder",
    "TextToImage",
    "TransformerFamily",
    "WarmupDecayLR",
]
