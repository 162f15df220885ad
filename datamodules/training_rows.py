"""What training reads of a revision: its rows, in batches, with their latents, or placeholders where there are none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evolvedirector.datamodules.batches import (
    BatchForm,
    RevisionBatches,
    SampleCache,
    describe_epoch,
    nothing_in,
    placeholder,
)
from evolvedirector.errors import RunError, UserError
from evolvedirector.records import IMAGE_ROLE
from evolvedirector.records.buckets import BucketSize
from evolvedirector.records.split import Split
from evolvedirector.records.subset import Subset
from evolvedirector.store import RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.files import is_mask
from evolvedirector.store.latents import LatentFiles

_log = logging.getLogger(__name__)


@dataclass
class TrainingRows:
    """Open the revision that is trained on, once, and say what is wrong with it.

    Args:
        root: The dataset.
        seed: Names the order of samples.
        global_batch_size: Images of a batch over all ranks.
        batches_per_epoch: Of the trainer's epochs.
        image_size_px: Side of the images, where there are no buckets.
        roles: Files of each sample that are read.
        buckets: Sizes that images are trained in; none: squares.
        form: How samples become batches.
    """

    root: Path
    seed: int
    global_batch_size: int
    batches_per_epoch: int
    image_size_px: int
    roles: tuple[str, ...]
    buckets: tuple[BucketSize, ...]
    form: BatchForm = field(default_factory=BatchForm)
    latents: LatentFiles | None = None
    """Take the place of images in batches; None: batches hold images."""
    split: Split | None = None
    """Prompts that are trained on; None: all."""
    _reader: RevisionReader | None = field(default=None, repr=False)
    _cache: SampleCache = field(default_factory=SampleCache, repr=False)
    _told_of_empty_buckets: bool = field(default=False, repr=False)

    def whole(self, revision_sha: str) -> RevisionReader:
        """Open a revision with every sample that any stage may train on.

        Args:
            revision_sha: Of the revision.
        """
        optional = self.form.optional_roles
        return RevisionReader(
            self.root, revision_sha, self.roles, self.buckets, split=self.split, optional_roles=optional
        )

    def open(self, revision_sha: str, subset: Subset, buys_images: bool) -> RevisionReader:
        """Open what is trained on now.

        Args:
            revision_sha: Of the revision.
            subset: Its samples that are read.
            buys_images: Whether rounds will bring images for buckets that have none.

        Raises:
            StoreError: The revision has no image.
            RunError: The subset has none.
            UserError: A bucket has none.
        """
        reader = self._opened(revision_sha, subset)
        if len(reader) == 0 and not subset.is_everything:
            raise RunError(nothing_in(self.root, reader.revision_sha, subset))
        if len(reader) == 0:
            raise StoreError(
                f"Revision {reader.number} ({revision_sha[:12]}) of '{self.root}' has no image to train"
                " on. At least one live sample is needed. Let `EvolutionCallback` buy teacher images before the first"
                " epoch (its budget must allow it), or import captioned pictures with `evolvedirector data import"
                " ROOT --images 'folder/**'`."
            )
        self._look_at_empty_buckets(reader, buys_images)
        return reader

    def batches(self, reader: RevisionReader, rank: int, world_size: int) -> RevisionBatches:
        """Cut a revision into batches; decoded samples of the opened one are kept.

        Args:
            reader: Of the revision.
            rank: Whose share of each batch.
            world_size: How many shares there are.
        """
        cache, latents = (self._cache, self.latents) if reader is self._reader else (None, None)
        shape = (self.seed, self.global_batch_size, self.image_size_px)
        return RevisionBatches(reader, *shape, rank, world_size, cache, latents, self.form)

    def images_without_latents(
        self, revision_sha: str, latents: LatentFiles, rank: int, world_size: int
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield key and uint8 [3, height, width] of one rank's part of the images that lack latents, for all stages.

        Args:
            revision_sha: Of the revision.
            latents: Where they would be.
            rank: Which part.
            world_size: How many parts there are.
        """
        reader = self.whole(revision_sha)
        if len(reader) == 0:
            return  # a rehearsal comes before the first purchase
        batches = self.batches(reader, 0, 1)
        rows = {batches.latent_key(row, latents): row for row in range(len(batches.reader))}
        own = list(rows)[rank::world_size]  # cut before asking: others may have written some of theirs by now
        for key in latents.missing(own):
            yield key, batches.image(rows[key])

    def placeholder(self, revision_sha: str, rank: int, world_size: int) -> dict[str, Any] | None:
        """Make one rank's part of a batch in the form of a real one.

        Where the revision has images, it is its first batch. Else prompts are those of the revision and pictures a
        shade; a role that is neither picture nor mask has no known shape then, and there is no batch. With buckets the
        pictures are a shade in any case, in the largest: memory that suffices for it suffices for all.

        Args:
            revision_sha: Of the revision.
            rank: Whose share.
            world_size: How many shares there are.
        """
        reader = self.whole(revision_sha)
        of_pictures = all(role == IMAGE_ROLE or is_mask(role) for role in self.roles)
        if len(reader) > 0 and not (self.buckets and of_pictures):
            return self.batches(reader, rank, world_size)[0]
        entries = list(RevisionFiles(self.root).load(revision_sha).state.entries.values())
        prompts = [entry.prompt for entry in entries if entry.state != "retired"]
        largest = max(self.buckets, key=lambda size: size[0] * size[1], default=None)
        return placeholder(prompts, self.global_batch_size // world_size, self.image_size_px, self.roles, largest)

    def texts(self, revision_sha: str) -> list[str]:
        """List the texts that a revision trains on, each once.

        Args:
            revision_sha: Of the revision.
        """
        entries = RevisionFiles(self.root).load(revision_sha).state.entries.values()
        trained = (entry for entry in entries if entry.sample and entry.state in ("live", "mastered"))
        return list(dict.fromkeys(entry.prompt.text for entry in trained))

    def check_subset(self, revision_sha: str, subset: Subset) -> None:
        """Refuse a subset of which a revision has no sample.

        Args:
            revision_sha: Of the revision.
            subset: What is to be trained on.

        Raises:
            RunError: It has none; with what there is.
        """
        if len(RevisionReader(self.root, revision_sha, (IMAGE_ROLE,), self.buckets, subset, self.split)) == 0:
            raise RunError(nothing_in(self.root, revision_sha, subset))

    def is_empty(self, revision_sha: str) -> bool:
        """Whether a revision has no image to train on.

        Args:
            revision_sha: Of the revision.
        """
        return len(RevisionReader(self.root, revision_sha, self.roles, split=self.split)) == 0

    def _opened(self, revision_sha: str, subset: Subset) -> RevisionReader:
        before = self._reader
        if before is not None and before.revision_sha == revision_sha and before.subset == subset:
            return before
        optional = self.form.optional_roles
        reader = RevisionReader(self.root, revision_sha, self.roles, self.buckets, subset, self.split, optional)
        # a newer companion may have other files for the same sample
        same_files = before is None or before.companions == reader.companions
        if len(self._cache):  # the keys of a large revision are many texts
            self._cache.keep_only(reader.keys.tolist() if same_files else [])
        if len(reader) > 0:
            _log.info(describe_epoch(reader, self.seed, self.global_batch_size, self.batches_per_epoch))
        self._reader = reader
        return reader

    def _look_at_empty_buckets(self, reader: RevisionReader, buys_images: bool) -> None:
        """Refuse buckets that stay without a sample; where new images are asked for in all of them, name them once.

        Raises:
            UserError: A bucket has no sample, and nobody buys images for it.
        """
        empty = reader.empty_buckets()
        if not empty or self._told_of_empty_buckets:
            return
        named = ", ".join(f"{width_px} x {height_px}" for width_px, height_px in empty)
        said = (
            f"No image of revision {reader.number} belongs to {len(empty)} of {len(self.buckets)} buckets: {named} px."
        )
        if not buys_images:
            raise UserError(
                f"{said} Every bucket needs one, else it is trained on nothing. Leave these out of "
                "`data.init_args.buckets`, or import images of such aspect ratios."
            )
        self._told_of_empty_buckets = True
        _log.info("%s Evolution asks for new ones in every bucket.", said)
