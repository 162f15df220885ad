"""LightningModules: what is trained."""

from typing import Any

from evolvedirector.lightning_modules.codecs import (
    Autoencoder,
    Codec,
    DeepCompressionAutoencoder,
    Flux2Autoencoder,
    Pixels,
    QwenAutoencoder,
)
from evolvedirector.lightning_modules.compute import Compute
from evolvedirector.lightning_modules.decoders import KandinskyDecoder, KarloDecoder
from evolvedirector.lightning_modules.families import (
    SD3,
    SDXL,
    Family,
    Flux1,
    Flux2Klein,
    PixArt,
    QwenImage,
    Sana,
    StableDiffusion,
    ZImage,
)
from evolvedirector.lightning_modules.feature_refiner import FeatureRefiner
from evolvedirector.lightning_modules.image_prior import ImagePrior
from evolvedirector.lightning_modules.objectives.ddpm import DDPM
from evolvedirector.lightning_modules.objectives.ddpm_epsilon import DDPMEpsilon
from evolvedirector.lightning_modules.objectives.dpm_flow import DPMFlowMatching
from evolvedirector.lightning_modules.objectives.flow_matching import FlowMatching
from evolvedirector.lightning_modules.objectives.flux2_flow import Flux2FlowMatching
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.objectives.resolution_flow import ResolutionFlowMatching
from evolvedirector.lightning_modules.optimizers import Muon, OptimizerFactory
from evolvedirector.lightning_modules.priors import (
    DiffusionPriorObjective,
    EclipseObjective,
    PriorNetwork,
    PriorObjective,
    ProjectionObjective,
)
from evolvedirector.lightning_modules.sharded_strategy import ShardedStrategy
from evolvedirector.lightning_modules.subject_to_image import SubjectToImage
from evolvedirector.lightning_modules.subjects import (
    DinoFeatures,
    EfficientNetFeatures,
    FeatureEncoder,
    FeatureFamily,
    RawPatches,
    SubjectFamily,
    ViewFamily,
)
from evolvedirector.lightning_modules.subjects.feature_student import FeatureTraining
from evolvedirector.lightning_modules.subjects.subject_student import SubjectDrawing, SubjectTraining
from evolvedirector.lightning_modules.text_encoders import (
    CLIPEncoder,
    Flux2Qwen3Encoder,
    Gemma2Encoder,
    MiniLMEncoder,
    PooledTextEncoder,
    QwenVLEncoder,
    RandomTextEncoder,
    T5Encoder,
    TextEncoder,
    ZImageQwen3Encoder,
)
from evolvedirector.lightning_modules.text_to_image import TextToImage
from evolvedirector.lightning_modules.view_generator import ViewGenerator
from evolvedirector.lightning_modules.warmup_decay_lr import WarmupDecayLR
from evolvedirector.renamed import old_attribute

__all__ = [
    "DDPM",
    "SD3",
    "SDXL",
    "Autoencoder",
    "CLIPEncoder",
    "Codec",
    "Compute",
    "DDPMEpsilon",
    "DPMFlowMatching",
    "DeepCompressionAutoencoder",
    "DiffusionPriorObjective",
    "DinoFeatures",
    "EclipseObjective",
    "EfficientNetFeatures",
    "Family",
    "FeatureEncoder",
    "FeatureFamily",
    "FeatureRefiner",
    "FeatureTraining",
    "FlowMatching",
    "Flux1",
    "Flux2Autoencoder",
    "Flux2FlowMatching",
    "Flux2Klein",
    "Flux2Qwen3Encoder",
    "Gemma2Encoder",
    "ImagePrior",
    "KandinskyDecoder",
    "KarloDecoder",
    "MiniLMEncoder",
    "Muon",
    "Objective",
    "OptimizerFactory",
    "PixArt",
    "Pixels",
    "PooledTextEncoder",
    "PriorNetwork",
    "PriorObjective",
    "ProjectionObjective",
    "QwenAutoencoder",
    "QwenImage",
    "QwenVLEncoder",
    "RandomTextEncoder",
    "RawPatches",
    "ResolutionFlowMatching",
    "Sana",
    "ShardedStrategy",
    "StableDiffusion",
    "SubjectDrawing",
    "SubjectFamily",
    "SubjectToImage",
    "SubjectTraining",
    "T5Encoder",
    "TextEncoder",
    "TextToImage",
    "ViewFamily",
    "ViewGenerator",
    "WarmupDecayLR",
    "ZImage",
    "ZImageQwen3Encoder",
]


def __getattr__(name: str) -> Any:
    return old_attribute(__name__, name)
