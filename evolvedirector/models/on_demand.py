"""A model of the transformers library that is in memory only between its first use and `close`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from evolvedirector.errors import UserError
from evolvedirector.models.model_files import ModelSettings, ModelSource, find_model, weight_bytes
from evolvedirector.models.model_loading import check_weights, free_memory, is_out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


class MemoryGuard(Generic[Item, Result]):
    """Run batches that may not fit.

    A first batch that does not fit means settings that never will: one error that says so, before anything else was
    spent. Later the settings have proved themselves, and something else (a longer question, another process) took the
    memory: the items are tried one by one, and what still does not fit is lost as a value.

    Args:
        work: Turns items into as many results.
        lost: Makes the result of an item that does not fit.
        advice: What to write when the first batch does not fit.
    """

    def __init__(
        self, work: Callable[[Sequence[Item]], list[Result]], lost: Callable[[Item], Result], advice: str
    ) -> None:
        self._work = work
        self._lost = lost
        self._advice = advice
        self._has_worked = False

    def run(self, items: Sequence[Item]) -> list[Result]:
        """Return one result per item.

        Args:
            items: A batch.

        Raises:
            UserError: If the first batch of all does not fit.
        """
        if not items:
            return []
        try:
            results = self._work(items)
            self._has_worked = True
            return results
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if not self._has_worked:
                raise UserError(
                    f"The first batch of {len(items)} does not fit the memory beside the model. {self._advice}"
                ) from error
        free_memory()  # outside of the handler, whose traceback still holds the tensors
        if len(items) == 1:
            return [self._lost(items[0])]
        return [result for item in items for result in self.run([item])]


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
