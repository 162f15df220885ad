"""Rewards: scores of images, with or without their prompts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolvedirector.rewards.aesthetic_score import AestheticScore
    from evolvedirector.rewards.clip_iqa import CLIPIQA
    from evolvedirector.rewards.clip_score import CLIPScore
    from evolvedirector.rewards.faithfulness_score import FaithfulnessScore
    from evolvedirector.rewards.geometry_score import GeometryScore
    from evolvedirector.rewards.hps_v2 import HPSv2
    from evolvedirector.rewards.image_reward import ImageReward
    from evolvedirector.rewards.pick_score import PickScore
    from evolvedirector.rewards.reward import Reward
    from evolvedirector.rewards.sharpness_score import SharpnessScore
    from evolvedirector.rewards.text_score import TextScore
    from evolvedirector.rewards.vqa_score import VQAScore

# Imported when asked for: they bring torch.
_FILES = {
    "AestheticScore": "aesthetic_score",
    "CLIPIQA": "clip_iqa",
    "CLIPScore": "clip_score",
    "FaithfulnessScore": "faithfulness_score",
    "GeometryScore": "geometry_score",
    "HPSv2": "hps_v2",
    "ImageReward": "image_reward",
    "PickScore": "pick_score",
    "Reward": "reward",
    "SharpnessScore": "sharpness_score",
    "TextScore": "text_score",
    "VQAScore": "vqa_score",
}

__all__ = [
    "CLIPIQA",
    "AestheticScore",
    "CLIPScore",
    "FaithfulnessScore",
    "GeometryScore",
    "HPSv2",
    "ImageReward",
    "PickScore",
    "Reward",
    "SharpnessScore",
    "TextScore",
    "VQAScore",
]


def __getattr__(name: str) -> Any:
    """Import a reward when it is asked for."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
