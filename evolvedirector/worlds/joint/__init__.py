"""A joint space of texts and images over the shapes world: what a prior can be trained in within seconds."""

from importlib import import_module
from typing import Any

_FILES = {
    "SceneArtist": "scene_artist",
    "SceneDecoder": "scene_decoder",
    "SceneEmbedder": "scene_embedder",
    "SceneNegatives": "scene_negatives",
    "ScenePrompts": "scene_prompts",
}
"""Class to module. Imported late: two of them bring torch."""

__all__ = [*_FILES]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
