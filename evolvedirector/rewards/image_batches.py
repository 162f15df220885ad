"""Scoring images batch by batch, as every reward that runs a model here does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.models.on_demand import MemoryGuard
from evolvedirector.records import ImageAndPrompt, Score
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import decode_image


class ImageBatches:
    """Decode images, score them in batches that fit the memory; nan with a reason for what cannot be scored.

    Args:
        values: Turns decoded images (uint8, [3 h w] each) and their prompts into one value each, [n].
        batch_size: Images at once.

    Raises:
        UserError: A batch size below 1.
    """

    def __init__(self, values: Callable[[list[Tensor], list[str]], Tensor], batch_size: int) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}. Allowed is 1 or more. Write `batch_size: 32`.")
        self._values = values
        self._batch_size = batch_size
        advice = f"Allowed is what it holds. Write a batch_size under {batch_size}."
        self._guard = MemoryGuard(self._scores, self._lost, advice)

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item, batch by batch.

        Args:
            items: Encoded images of any size with their prompts.

        Raises:
            UserError: One batch does not fit the memory.
        """
        for start in range(0, len(items), self._batch_size):
            yield from self._guard.run(items[start : start + self._batch_size])

    def _scores(self, items: Sequence[ImageAndPrompt]) -> list[Score]:
        found, images = {}, {}
        for place, item in enumerate(items):
            try:
                images[place] = torch.from_numpy(decode_image(item.image).copy()).permute(2, 0, 1)
            except (StoreError, ValueError) as error:
                found[place] = Score(item.item_id, math.nan, f"it is no image that can be read: {error}")
        if images:
            values = self._values(list(images.values()), [items[place].prompt for place in images])
            for place, value in zip(images, values.tolist(), strict=True):
                found[place] = Score(items[place].item_id, value)
        return [found[place] for place in range(len(items))]

    @staticmethod
    def _lost(item: ImageAndPrompt) -> Score:
        return Score(item.item_id, math.nan, "it does not fit the memory beside the model")
