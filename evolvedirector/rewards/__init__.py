"""Rewards: scores of images, with or without their prompts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolvedirector.rewards.clip_score import CLIPScore
    from evolvedirector.rewards.reward import Reward
    from evolvedirector.rewards.vqa_score import VQAScore

# Imported when asked for: they bring torch.
_FILES = {"CLIPScore": "clip_score", "Reward": "reward", "VQAScore": "vqa_score"}

__all__ = ["CLIPScore", "Reward", "VQAScore"]


def __getattr__(name: str) -> Any:
    """Import a reward when it is asked for."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
