"""Figures of a run that are measured apart from its training: shares with intervals, win rates, what they cost."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evolvedirector.evaluation.shares import Share, mean_of_shares, share_of_prompts
from evolvedirector.evaluation.teacher_images import TeacherImages

if TYPE_CHECKING:
    from evolvedirector.evaluation.feature_network import EfficientNetFeatures, VisionFeatures

_NETWORKS = ("EfficientNetFeatures", "VisionFeatures")  # imported when asked for: they bring torch

__all__ = [
    "EfficientNetFeatures",
    "Share",
    "TeacherImages",
    "VisionFeatures",
    "mean_of_shares",
    "share_of_prompts",
]


def __getattr__(name: str) -> Any:
    """Import a feature network when it is asked for."""
    if name not in _NETWORKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.feature_network"), name)
