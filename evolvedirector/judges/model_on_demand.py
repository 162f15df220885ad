"""A model of the transformers library that is in memory only between its first use and `close`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from evolvedirector.judges.model_files import ModelSettings, ModelSource, find_model, weight_bytes
from evolvedirector.judges.model_loading import check_weights, free_memory

Loaded = TypeVar("Loaded")


class ModelOnDemand(Generic[Loaded]):
    """Find a model, load it when it is first used, and let go of it again.

    Judges, writers and rewards that run a model hold one of these: the device is the student's until they are asked.

    Args:
        settings: Which model, and how its weights are held.
        load: Brings what was found into memory.
    """

    def __init__(self, settings: ModelSettings, load: Callable[[ModelSource, ModelSettings], Loaded]) -> None:
        self._settings = settings
        self._load = load
        self._loaded: Loaded | None = None

    @property
    def is_loaded(self) -> bool:
        """Say whether the weights are in memory now."""
        return self._loaded is not None

    def source(self) -> ModelSource:
        """Find the model's folder or its name on the hub.

        Raises:
            ValueError: If there is no such model.
        """
        return find_model(self._settings.model, self._settings.revision)

    def checked_source(self) -> ModelSource:
        """Find the model, and see that a folder has weights that may be read; loads none of them.

        Raises:
            ValueError: If there is no such model, or no safetensors weights.
        """
        source = self.source()
        check_weights(source)
        return source

    def get(self) -> Loaded:
        """Return the loaded model.

        Raises:
            ValueError: If it cannot be loaded, or does not fit the device.
        """
        if self._loaded is None:
            self._loaded = self._load(self.source(), self._settings)
        return self._loaded

    def close(self) -> None:
        """Free the model's memory; the next `get` loads it again."""
        if self._loaded is not None:
            self._loaded = None
            free_memory()

    def estimated_bytes(self) -> int | None:
        """Estimate the memory of the loaded weights from the headers of their files; None if they are not here yet.

        Raises:
            ValueError: If there is no such model.
        """
        folder = self.source().folder
        return None if folder is None else weight_bytes(folder, self._settings.dtype, self._settings.quantisation)
