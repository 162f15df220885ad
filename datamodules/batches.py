"""From rows to training batches: a WebDataset pipeline over one revision, driven by batch number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader, Dataset

from evolvedirector.datamodules.sample_cache import SampleCache
from evolvedirector.store import RevisionReader
from evolvedirector.store.evolving_dataset import decode_sample


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
        cache: SampleCache | None = None,
    ) -> None:
        """Set up the pipeline source -> decode -> collate.

        Args:
            reader: The revision.
            seed: Names the order.
            global_batch_size: Images over all ranks; divisible by `world_size`.
            image_size_px: Side of the square images.
            rank: Which slice is this process's.
            world_size: How many slices there are.
            cache: Decoded samples of this image size. None: decode every time.
        """
        self.reader = reader
        self.order = reader.order(seed, global_batch_size)
        self._image_size_px = image_size_px
        self._cache = SampleCache(0) if cache is None else cache
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
                key = str(self.reader.keys[row])
                raw = {"__key__": key} if self._cache.get(key) is not None else self.reader.raw(row)
                yield {**raw, "__seed__": seed}

    def _decode(self, raw: dict[str, Any]) -> dict[str, Any]:
        sample = self._cache.get(raw["__key__"])
        if sample is None:
            sample = decode_sample(raw, self._image_size_px)
            self._cache.add(sample)
        return {**sample, "sample_seed": raw["__seed__"]}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack decoded samples: images to uint8 [batch, 3, height, width], seeds to int64 [batch], texts to lists."""
    batch: dict[str, Any] = {name: [s[name] for s in samples] for name in ("prompt", "key", "skill")}
    images = np.stack([sample["image"] for sample in samples])
    batch["image"] = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    batch["sample_seed"] = torch.tensor([sample["sample_seed"] for sample in samples], dtype=torch.int64)
    return batch


def describe_epoch(reader: RevisionReader, seed: int, global_batch_size: int, batches_per_epoch: int) -> str:
    """Say how often an epoch repeats the samples of a revision; a small stratum repeats most."""
    passes = reader.order(seed, global_batch_size).passes(batches_per_epoch)
    most = max(passes, key=lambda stratum: passes[stratum])
    return (
        f"Revision {reader.number} ({reader.revision_sha[:12]}): {len(reader)} samples in {len(reader.strata)} strata."
        f" An epoch goes {passes[most]:.2f} times through the most repeated ('{most.skill}', {most.state}) and"
        f" {min(passes.values()):.2f} times through the least repeated."
    )
