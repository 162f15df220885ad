"""What happens when a batch does not fit a device's memory: an error at first, later one item at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from evolvedirector.judges.model_loading import free_memory, is_out_of_memory

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
            ValueError: If the first batch of all does not fit.
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
                raise ValueError(
                    f"The first batch of {len(items)} does not fit the memory beside the model. {self._advice}"
                ) from error
        free_memory()  # outside of the handler, whose traceback still holds the tensors
        if len(items) == 1:
            return [self._lost(items[0])]
        return [result for item in items for result in self.run([item])]
