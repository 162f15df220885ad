"""One revision for loaders that are not ours: a map-style dataset and a batch sampler in the same keyed order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.records import IMAGE_ROLE
from evolvedirector.records.buckets import BucketSize
from evolvedirector.store.errors import StoreError
from evolvedirector.store.files import decode_file, split_member
from evolvedirector.store.images import EXTENSIONS, crop_top_left_px, fit_size, fit_square
from evolvedirector.store.mirror import RootCache
from evolvedirector.store.order import KeyedOrder
from evolvedirector.store.reader import RevisionReader


class EvolvingDataset:
    """The trainable samples of one revision by row, for any loader that takes a map-style dataset.

    With `torch.utils.data.DataLoader(dataset, batch_sampler=dataset.batch_sampler(...))` and
    `Trainer(use_distributed_sampler=False)` a project keeps its own loader and still reads the keyed order.
    """

    def __init__(
        self,
        root: str | Path,
        revision_sha: str,
        image_size_px: int | None = None,
        roles: Sequence[str] = (IMAGE_ROLE,),
        channels_first: bool = False,
        buckets: Sequence[BucketSize] = (),
        cache: RootCache | None = None,
    ) -> None:
        """Open a revision.

        Args:
            root: The dataset root, or the URL of one.
            revision_sha: Which revision; at least 6 characters of it.
            image_size_px: Scale and crop images to squares of this side. None: as they are stored.
            roles: Files to read of each sample.
            channels_first: Give images as [3, height, width], as the batches of `EvolvingDataModule` hold them, in
                place of [height, width, 3]; masks likewise.
            buckets: Sizes (width, height) in px. Each image is scaled and cropped to the one of the nearest aspect
                ratio, in place of a square, and a batch of `batch_sampler` holds one of them. Empty: none.
            cache: Where what lies at a URL is kept on this machine. None: the default folder.

        Raises:
            StoreError: If there is no such revision, or a sample lacks one of the roles.
            UserError: If the buckets are none.
        """
        self.reader = RevisionReader(root, revision_sha, roles, buckets, cache=cache)
        self._image_size_px = image_size_px
        self._channels_first = channels_first

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Read and decode one sample: each role under its name (see `decode_sample`), `prompt`, `key` and `skill`."""
        raw = self.reader.raw(row)
        sample = decode_sample(raw, self._image_size_px, self.reader.bucket(row))
        if self._channels_first:
            for role in [role for role, extension in map(split_member, raw) if role and extension in EXTENSIONS]:
                sample[role] = np.ascontiguousarray(np.moveaxis(sample[role], 2, 0))
        return sample

    def batch_sampler(
        self,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        start_batch: int = 0,
        batches: int = 100,
    ) -> BatchSampler:
        """Return the rows of a stretch of global batches, one rank's part.

        Args:
            global_batch_size: Images per batch over all ranks; divisible by `world_size`.
            rank: Which slice is wanted.
            world_size: How many slices there are.
            seed: Names the order.
            start_batch: First global batch, counted from the start of this revision's endless stream.
            batches: How many.

        Raises:
            UserError: If the batch cannot be shared equally or the revision has no samples.
        """
        if global_batch_size % world_size or not 0 <= rank < world_size:
            raise UserError(
                f"Rank {rank} of {world_size} cannot take an equal part of {global_batch_size} images. The batch must"
                f" be divisible by the number of ranks. Write global_batch_size={world_size * global_batch_size}."
            )
        order = self.reader.order(seed, global_batch_size)
        return BatchSampler(order, rank, world_size, range(start_batch, start_batch + batches))


class BatchSampler:
    """Rows of consecutive global batches; sized, so that trainers can resume it exactly."""

    def __init__(self, order: KeyedOrder, rank: int, world_size: int, batches: range) -> None:
        self._order = order
        self._rank = rank
        self._world_size = world_size
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches:
            yield self._order.rank_batch(batch, self._rank, self._world_size).tolist()


def decode_sample(
    raw: Mapping[str, Any],
    image_size_px: int | None,
    bucket: BucketSize | None = None,
    role_sizes_px: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Decode what `RevisionReader.raw` read.

    Args:
        raw: Bytes by extension, and `__key__`.
        image_size_px: Scale and crop images to squares of this side. None: as they are.
        bucket: Scale and crop images to this size instead. None: they are in no bucket.
        role_sizes_px: Sides of the squares that the images of some roles are scaled and cropped to instead, by role.

    Returns:
        `prompt`, `key`, `skill` and each role under its name: images as uint8 [height, width, 3], masks as uint8
        [height, width, 1], the rest as `decode_file` returns it. In a bucket, how the role `image` was cut, too:
        `original_size_px` and `crop_top_left_px`, both int64 [2], rows first.

    Raises:
        StoreError: If a file is damaged; the message names the sample.
    """
    sample: dict[str, Any] = {}
    try:
        for name, content in raw.items():
            role, extension = split_member(name)
            if not role:
                continue  # the description of the sample, read below
            value = decode_file(content, extension, role)
            if extension in EXTENSIONS and role_sizes_px and role in role_sizes_px:
                value = fit_square(value, role_sizes_px[role])
            elif extension in EXTENSIONS and bucket is not None:
                if role == IMAGE_ROLE:
                    sample["original_size_px"] = np.array(value.shape[:2], np.int64)
                    sample["crop_top_left_px"] = np.array(crop_top_left_px(value.shape[:2], *bucket), np.int64)
                value = fit_size(value, *bucket)
            elif extension in EXTENSIONS and image_size_px is not None:
                value = fit_square(value, image_size_px)
            sample[role] = value
        about = json.loads(raw["json"])
    except (StoreError, ValueError) as error:
        raise StoreError(f"The sample '{raw['__key__']}' cannot be read: {error}") from error
    return {
        **sample,
        "prompt": raw["txt"].decode("utf-8", "surrogatepass"),
        "key": raw["__key__"],
        "skill": about["skill"],
    }
