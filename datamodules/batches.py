"""From rows to training batches: a WebDataset pipeline over one revision, driven by batch number, and its loader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader, Dataset

from evolvedirector.records import IMAGE_ROLE, Prompt
from evolvedirector.records.buckets import BucketSize
from evolvedirector.records.subset import Subset
from evolvedirector.store import RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.evolving_dataset import decode_sample
from evolvedirector.store.files import is_mask, split_member
from evolvedirector.store.images import EXTENSIONS, crop_top_left_px
from evolvedirector.store.latents import LatentFiles

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

    def __len__(self) -> int:
        return len(self._samples)

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
        latents: LatentFiles | None = None,
        form: BatchForm | None = None,
    ) -> None:
        """Set up the pipeline source -> decode -> collate.

        Args:
            reader: The revision.
            seed: Names the order.
            global_batch_size: Images over all ranks; divisible by `world_size`.
            image_size_px: Side of the square images, where the reader has no buckets.
            rank: Which slice is this process's.
            world_size: How many slices there are.
            cache: Decoded samples of this image size. None: decode every time.
            latents: Where all images of a batch have latents there, the batch holds these in their place:
                `latent_mean`, `latent_deviation` and `size_px` (height, width). None: images.
            form: What batches are made of samples in another way than `collate` makes them. None: that.
        """
        self._form = BatchForm() if form is None else form
        self.reader = reader
        self.order = reader.order(seed, global_batch_size)
        self._image_size_px = image_size_px
        self._cache = SampleCache(0) if cache is None else cache
        self._latents = latents
        self._slice = slice(rank * global_batch_size // world_size, (rank + 1) * global_batch_size // world_size)

    def __getitem__(self, batch: int) -> dict[str, Any]:
        return next(iter(self.pipeline([batch])))

    def pipeline(self, batches: Iterable[int]) -> webdataset.DataPipeline:
        """Compose the pipeline over some global batches; further stages can be added with `.compose(...)`."""
        share = self._slice.stop - self._slice.start
        return webdataset.DataPipeline(
            lambda: self._source(batches),
            webdataset.map(self._decode),
            webdataset.batched(share, collation_fn=self._form.collate),
        )

    def loader(self, batches: range, num_workers: int) -> DataLoader:
        """Read these batches in order; workers take whole batches, so the order is that of one process."""
        return numbered_loader(self, batches, num_workers)

    def _source(self, batches: Iterable[int]) -> Iterator[dict[str, Any]]:
        for batch in batches:
            rows = self.order.global_batch(batch)[self._slice]
            seeds = self.order.sample_seeds(batch)[self._slice]
            latents = self._latents_of(rows.tolist())
            for place, (row, seed) in enumerate(zip(rows.tolist(), seeds.tolist(), strict=True)):
                key, about = self.reader.key(row), {"__seed__": seed, "__bucket__": self.reader.bucket(row)}
                if latents is not None:
                    yield {**self.reader.raw(row, with_image=False), "__latent__": latents[place], **about}
                    continue
                raw = {"__key__": key} if self._cache.get(key) is not None else self.reader.raw(row)
                yield {**raw, **about}

    def latent_key(self, row: int, latents: LatentFiles) -> str:
        """Name the latents of a row's image, as it is trained on."""
        return latents.key(self.reader.image_digest(row), *self._size_px(row))

    def image(self, row: int) -> np.ndarray:
        """Read a row's image as it is trained on, uint8 [3, height, width]."""
        found: np.ndarray = self._decoded(self.reader.raw(row), self.reader.bucket(row))[IMAGE_ROLE]
        return found

    def _size_px(self, row: int) -> tuple[int, int]:
        """Return height and width of a row's image as it is trained on."""
        width_px, height_px = self.reader.bucket(row) or (self._image_size_px, self._image_size_px)
        return height_px, width_px

    def _cut_of(self, row: int) -> dict[str, np.ndarray]:
        """Say how a row's image was cut to its bucket, as `decode_sample` does; nothing without buckets."""
        bucket = self.reader.bucket(row)
        if bucket is None:
            return {}
        original = self.reader.image_px(row)
        cut = crop_top_left_px(original, *bucket)
        return {"original_size_px": np.array(original, np.int64), "crop_top_left_px": np.array(cut, np.int64)}

    def _latents_of(self, rows: Sequence[int]) -> list[dict[str, np.ndarray]] | None:
        """Read the latents of all rows; None where one of them has none."""
        found = []
        for row in rows if self._latents is not None else ():
            assert self._latents is not None
            latent = self._latents.read(self.latent_key(row, self._latents))
            if latent is None:
                return None
            mean, deviation = latent
            size_px = np.array(self._size_px(row), np.int64)
            parts = {"latent_mean": mean, "size_px": size_px, **self._cut_of(row)}
            found.append(parts if deviation is None else {**parts, "latent_deviation": deviation})
        return found or None

    def _decode(self, raw: dict[str, Any]) -> dict[str, Any]:
        if "__latent__" in raw:
            described = self._decoded(raw, raw["__bucket__"])
            return {**described, **raw["__latent__"], "sample_seed": raw["__seed__"]}
        sample = self._cache.get(raw["__key__"])
        if sample is None:
            sample = self._decoded(raw, raw["__bucket__"])
            self._cache.add(sample)
        return {**sample, "sample_seed": raw["__seed__"]}

    def _decoded(self, raw: dict[str, Any], bucket: BucketSize | None) -> dict[str, Any]:
        sample = decode_sample(raw, self._image_size_px, bucket, self._form.role_sizes_px)
        for name in raw:
            role, extension = split_member(name)
            if role and extension in EXTENSIONS:
                sample[role] = sample[role].transpose(2, 0, 1)  # [channel, height, width]
        return sample


def numbered_loader(dataset: Dataset, batches: range, num_workers: int) -> DataLoader:
    """Read batches in the order of their numbers; workers take whole batches.

    Args:
        dataset: Maps the number of a batch to the batch.
        batches: Their numbers.
        num_workers: Reader processes; 0 reads in this one.
    """
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        num_workers=num_workers,
        collate_fn=_as_it_is,  # else every text of a batch is looked at for arrays in it
        generator=torch.Generator(),  # else the loader draws from the global one, and resume would differ
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack decoded samples: seeds to int64 [batch], prompts to lists, and each role under its name.

    Images [channel, height, width] become uint8 [batch, 3, height, width], masks uint8 [batch, 1, height, width],
    arrays tensors [batch, ...], the tensors of a safetensors file a dict of such, texts and JSON values lists. What a
    bucket says of its images (`original_size_px`, `crop_top_left_px`) becomes int64 [batch, 2].

    Raises:
        StoreError: If the arrays of a role differ in shape or type.
    """
    seeds = torch.tensor([sample["sample_seed"] for sample in samples], dtype=torch.int64)
    described: dict[str, Any] = {name: [sample[name] for sample in samples] for name in ("prompt", "key", "skill")}
    roles = {name for name in samples[0] if not name.startswith("__")} - described.keys() - {"sample_seed"}
    return {**described, **{r: _stack(r, [s[r] for s in samples]) for r in sorted(roles)}, "sample_seed": seeds}


@dataclass(frozen=True)
class BatchForm:
    """How samples become batches, and which of their files are read.

    Args:
        optional_roles: Files that are read of the samples that have them, beside those that all must have.
        role_sizes_px: Sides of the squares that the pictures of some roles are cut to, by role; the others get the
            size of the image.
        collate: Makes a batch of decoded samples.
    """

    optional_roles: tuple[str, ...] = ()
    role_sizes_px: Mapping[str, int] = field(default_factory=dict)
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]] = collate


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


def placeholder(
    prompts: Sequence[Prompt],
    count: int,
    image_size_px: int,
    roles: Sequence[str],
    bucket: BucketSize | None = None,
) -> dict[str, Any] | None:
    """Make a batch of shaded pictures, as `collate` makes one of samples; None for a role whose form nobody knows yet.

    Args:
        prompts: Taken in turn; none: a text that stands for one.
        count: Samples.
        image_size_px: Side of pictures and masks.
        roles: What a sample has.
        bucket: Width and height of pictures and masks instead. None: they are squares.
    """
    if any(role != IMAGE_ROLE and not is_mask(role) for role in roles):
        return None
    texts = [(prompt.text, prompt.id, prompt.skill) for prompt in prompts] or [("a placeholder", "placeholder", "")]
    width_px, height_px = bucket or (image_size_px, image_size_px)
    shade = np.linspace(0, 255, width_px).astype(np.uint8)  # flat grey would be fitted before the first step
    whole = {"original_size_px": np.array([height_px, width_px]), "crop_top_left_px": np.zeros(2, np.int64)}
    cut = whole if bucket and IMAGE_ROLE in roles else {}
    samples = []
    for number in range(count):
        text, key, skill = texts[number % len(texts)]
        files = {role: np.tile(shade, (1 if is_mask(role) else 3, height_px, 1)) for role in roles}
        samples.append({**files, **cut, "prompt": text, "key": key, "skill": skill, "sample_seed": number})
    return collate(samples)


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


def nothing_in(root: Path, revision_sha: str, subset: Subset) -> str:
    """Say that a revision has no sample of a subset, and what it has.

    Args:
        root: Of the dataset.
        revision_sha: Of the revision.
        subset: What was asked for.
    """
    revision = RevisionFiles(root).load(revision_sha)
    trained = [entry for entry in revision.state.entries.values() if entry.state in ("live", "mastered")]
    found = Counter((entry.prompt.skill, sample.variant) for entry in trained for sample in entry.samples)
    skills, variants = (sorted({pair[place] for pair in found}) for place in (0, 1))
    has = f"skills {', '.join(skills)}; variants {', '.join(map(repr, variants))}" if found else "no image at all"
    return (
        f"Revision {revision.number} ({revision_sha[:12]}) of '{root}' has no sample of the subset {subset.named()}. "
        f"It has {has}. At least one sample is needed. Name some of these under `trains_on`, or let rounds come before "
        "the stage (`first_rounds: 1` under the init_args of EvolutionCallback)."
    )
