"""From rows to training batches: a WebDataset pipeline over one revision, driven by batch number, and its loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader, Dataset

from evolvedirector.store import RevisionReader, StoreError
from evolvedirector.store.evolving_dataset import decode_sample
from evolvedirector.store.files import split_member
from evolvedirector.store.images import EXTENSIONS

MAX_CACHE_BYTES = 256 * 2**20


class SampleCache:
    """Keep decoded samples by key until the space is used up: a small live set is decoded once, not once per pass.

    Nothing is evicted while a revision is read: every pass goes through all samples, so the least recently used one is
    exactly the one that comes next.
    """

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        """Start empty.

        Args:
            max_bytes: Space for images and arrays, per process.
        """
        self._left_bytes = max_bytes
        self._samples: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> dict[str, Any] | None:
        """Look a sample up."""
        return self._samples.get(key)

    def add(self, sample: dict[str, Any]) -> None:
        """Keep a decoded sample if there is space."""
        size = _bytes_of(sample)
        if size <= self._left_bytes and sample["key"] not in self._samples:
            self._left_bytes -= size
            self._samples[sample["key"]] = sample

    def keep_only(self, keys: Iterable[str]) -> None:
        """Make space: forget samples that the revision does not hold."""
        wanted = set(keys)
        for key in [key for key in self._samples if key not in wanted]:
            self._left_bytes += _bytes_of(self._samples.pop(key))


def _bytes_of(value: Any) -> int:
    """Count the bytes of the images, arrays and tensors of a decoded sample."""
    if isinstance(value, dict):
        return sum(map(_bytes_of, value.values()))
    return value.nbytes if isinstance(value, np.ndarray | torch.Tensor) else 0


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
            for name in raw:
                role, extension = split_member(name)
                if role and extension in EXTENSIONS:
                    sample[role] = sample[role].transpose(2, 0, 1)  # [channel, height, width]
            self._cache.add(sample)
        return {**sample, "sample_seed": raw["__seed__"]}


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack decoded samples: seeds to int64 [batch], prompts to lists, and each role under its name.

    Images [channel, height, width] become uint8 [batch, 3, height, width], masks uint8 [batch, 1, height, width],
    arrays tensors [batch, ...], the tensors of a safetensors file a dict of such, texts and JSON values lists.

    Raises:
        StoreError: If the arrays of a role differ in shape or type.
    """
    seeds = torch.tensor([sample["sample_seed"] for sample in samples], dtype=torch.int64)
    described: dict[str, Any] = {name: [sample[name] for sample in samples] for name in ("prompt", "key", "skill")}
    roles = {name for name in samples[0] if not name.startswith("__")} - described.keys() - {"sample_seed"}
    return {**described, **{r: _stack(r, [s[r] for s in samples]) for r in sorted(roles)}, "sample_seed": seeds}


def _stack(role: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict) and any(isinstance(value, torch.Tensor) for value in first.values()):
        if any(value.keys() != first.keys() for value in values):
            raise _unequal(role, "hold tensors of different names")
        return {name: _stack(role, [value[name] for value in values]) for name in first}
    if not isinstance(first, np.ndarray | torch.Tensor):
        return values  # texts and JSON values
    if any(value.shape != first.shape or value.dtype != first.dtype for value in values):
        raise _unequal(role, f"are not all {first.dtype} of shape {tuple(first.shape)}")
    if isinstance(first, torch.Tensor):
        return torch.stack(values)
    return torch.from_numpy(np.ascontiguousarray(np.stack(values)))  # np.stack keeps the strides of a transposed image


def _unequal(role: str, how: str) -> StoreError:
    return StoreError(
        f"The files of the role '{role}' in one batch {how}. A role that is trained on must have one shape and type."
        " Publish it again with equal shapes, or leave it out of `data.init_args.roles`."
    )


class EvolvingLoader:
    """Deliver one epoch of an endless stream.

    It is no `DataLoader` (it owns one while it is read), so the trainer leaves its order alone. It has a length, since
    Lightning reads an unsized loader one batch ahead and would lose that batch at resume. Its position is bound at the
    first batch only: the trainer asks for iterators that it never reads.
    """

    def __init__(self, batches_per_epoch: int, deliver: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """Wrap what delivers the rest of the epoch.

        Args:
            batches_per_epoch: The length, also when part of the epoch was delivered before a resume.
            deliver: Called at the first batch; yields what is left of the epoch.
        """
        self._batches_per_epoch = batches_per_epoch
        self._deliver = deliver

    def __len__(self) -> int:
        return self._batches_per_epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self._deliver()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the datamodule keeps the position. The method tells Lightning that resume is exact."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing back, see `state_dict`."""


def describe_epoch(reader: RevisionReader, seed: int, global_batch_size: int, batches_per_epoch: int) -> str:
    """Say how often an epoch repeats the samples of a revision; a small stratum repeats most."""
    passes = reader.order(seed, global_batch_size).passes(batches_per_epoch)
    most = max(passes, key=lambda stratum: passes[stratum])
    return (
        f"Revision {reader.number} ({reader.revision_sha[:12]}): {len(reader)} samples in {len(reader.strata)} strata."
        f" An epoch goes {passes[most]:.2f} times through the most repeated ('{most.skill}', {most.state}) and"
        f" {min(passes.values()):.2f} times through the least repeated."
    )
