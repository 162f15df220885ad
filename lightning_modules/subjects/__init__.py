"""How a network reads a subject: features of references, their tokens on the canvas, and attention to them."""

from evolvedirector.lightning_modules.subjects.dino_features import DinoFeatures
from evolvedirector.lightning_modules.subjects.efficientnet_features import EfficientNetFeatures
from evolvedirector.lightning_modules.subjects.feature_encoder import FeatureEncoder, PatchFeatures
from evolvedirector.lightning_modules.subjects.feature_family import FeatureFamily
from evolvedirector.lightning_modules.subjects.raw_patches import RawPatches
from evolvedirector.lightning_modules.subjects.subject_family import SubjectFamily
from evolvedirector.lightning_modules.subjects.view_family import ViewFamily

__all__ = [
    "DinoFeatures",
    "EfficientNetFeatures",
    "FeatureEncoder",
    "FeatureFamily",
    "PatchFeatures",
    "RawPatches",
    "SubjectFamily",
    "ViewFamily",
]
