"""From rows to training batches: a WebDataset pipeline over one revision, driven by batch number."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader, Dataset

from evolvedirector.store import RevisionReader, StoreError, decode_image
from evolvedirector.store.images import EXTENSIONS


class RevisionBatches(Dataset):
    """Map the number of a global batch to this rank's part of it; the same number gives the same batch anywhere."""

    def __init__(
        self,
        reader: RevisionReader,
        seed: int,
        global_batch_size: int,
        image_size_px: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Set up the pipeline source -> decode -> collate.

        Args:
            reader: The revision.
            seed: Names the order.
            global_batch_size: Images over all ranks; divisible by `world_size`.
            image_size_px: Side of the square images.
            rank: Which slice is this process's.
            world_size: How many slices there are.
        """
        self.reader = reader
        self.order = reader.order(seed, global_batch_size)
        self._image_size_px = image_size_px
        self._slice = slice(rank * global_batch_size // world_size, (rank + 1) * global_batch_size // world_size)

    def __getitem__(self, batch: int) -> dict[str, Any]:
        return next(iter(self.pipeline([batch])))

    def pipeline(self, batches: Iterable[int]) -> webdataset.DataPipeline:
        """Compose the pipeline over some global batches; further stages can be added with `.compose(...)`."""
        share = self._slice.stop - self._slice.start
        return webdataset.DataPipeline(
            lambda: self._source(batches),
            webdataset.map(self._decode),
            webdataset.batched(share, collation_fn=collate),
        )

    def loader(self, batches: range, num_workers: int) -> DataLoader:
        """Read these batches in order; workers take whole batches, so the order is that of one process."""
        return DataLoader(
            self,
            batch_size=None,
            sampler=batches,
            num_workers=num_workers,
            generator=torch.Generator(),  # else the loader draws from the global one, and resume would differ
        )

    def _source(self, batches: Iterable[int]) -> Iterator[dict[str, Any]]:
        for batch in batches:
            rows = self.order.global_batch(batch)[self._slice]
            seeds = self.order.sample_seeds(batch)[self._slice]
            for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
                yield {**self.reader.raw(row), "__seed__": seed}

    def _decode(self, raw: dict[str, Any]) -> dict[str, Any]:
        encoded = next(raw[extension] for extension in EXTENSIONS if extension in raw)
        try:
            pixels = fit_square(decode_image(encoded), self._image_size_px)
            about = json.loads(raw["json"])
        except (StoreError, ValueError) as error:
            raise StoreError(
                f"The sample '{raw['__key__']}' of '{self.reader.root}' cannot be read: {error}"
            ) from error
        return {
            "image": pixels,
            "prompt": raw["txt"].decode("utf-8", "surrogatepass"),
            "key": raw["__key__"],
            "skill": about["skill"],
            "sample_seed": raw["__seed__"],
        }


def fit_square(pixels: np.ndarray, side_px: int) -> np.ndarray:
    """Scale and crop an image to a centred square.

    Args:
        pixels: uint8 [height, width, 3].
        side_px: Side of the square; an image that has it already is returned as it is.

    Returns:
        uint8 [side, side, 3].
    """
    if pixels.shape[:2] == (side_px, side_px):
        return pixels
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(Image.fromarray(pixels), (side_px, side_px), Image.Resampling.BICUBIC))


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack decoded samples: images to uint8 [batch, 3, height, width], seeds to int64 [batch], texts to lists."""
    batch: dict[str, Any] = {name: [s[name] for s in samples] for name in ("prompt", "key", "skill")}
    images = np.stack([sample["image"] for sample in samples])
    batch["image"] = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    batch["sample_seed"] = torch.tensor([sample["sample_seed"] for sample in samples], dtype=torch.int64)
    return batch
