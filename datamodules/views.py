"""The datamodule of a view generator: two views of one object make a sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from evolvedirector.datamodules.batches import EvolvingLoader, collate, numbered_loader
from evolvedirector.datamodules.position import StreamPosition
from evolvedirector.datamodules.training_shares import (
    batches_in_epoch,
    check_counts,
    equal_shares,
    processed_batches,
    rank_and_world_size,
)
from evolvedirector.errors import UserError
from evolvedirector.pairs.key_ground import key_ground, on_ground
from evolvedirector.pairs.view_source import ViewedObject, ViewSource
from evolvedirector.records import IMAGE_ROLE, seed_of
from evolvedirector.records.poses import POSE, turn_between
from evolvedirector.records.split import Split
from evolvedirector.records.subject_roles import REFERENCES


class ViewBatches(Dataset):
    """Map the number of a global batch to this rank's part of it; the same number gives the same batch anywhere.

    Slot n of the endless stream shows object n of a keyed permutation, a new one in each pass. Which two of its views
    follow each other is drawn from the seed of the sample.

    Args:
        views: The source.
        listed: Objects of it, at least one.
        seed: Names the order.
        global_batch_size: Samples over all ranks.
        sides_px: Of views that are drawn, and of references.
        shares: Rank and world size.
    """

    def __init__(
        self,
        views: ViewSource,
        listed: Sequence[ViewedObject],
        seed: int,
        global_batch_size: int,
        sides_px: tuple[int, int],
        shares: tuple[int, int] = (0, 1),
    ) -> None:
        self.views, self.listed, self.seed = views, listed, seed
        self.size, self.sides_px, self.shares = global_batch_size, sides_px, shares
        self._order = lru_cache(4)(self._permutation)

    def __getitem__(self, batch: int) -> dict[str, Any]:
        rank, world_size = self.shares
        share = self.size // world_size
        first = batch * self.size + rank * share
        return collate([self.sample(slot) for slot in range(first, first + share)])

    def sample(self, slot: int) -> dict[str, Any]:
        """Make one sample: the reference, how it is to be turned, and the view that this gives.

        Args:
            slot: In the endless stream.
        """
        turn, place = divmod(slot, len(self.listed))
        viewed = self.listed[self._order(turn)[place]]
        seed = seed_of("view sample", self.seed, slot)
        lot = np.random.default_rng(seed_of("views", seed))
        first, second = (int(number) for number in lot.choice(len(viewed.poses), 2, replace=False))
        pictures = view_pair(self.views, viewed, (first, second), self.sides_px)
        return {
            **pictures,
            POSE: turn_between(viewed.poses[first], viewed.poses[second]),
            "prompt": viewed.category,
            "key": viewed.name,
            "skill": "view",
            "sample_seed": seed,
        }

    def _permutation(self, turn: int) -> np.ndarray:
        return np.random.default_rng(seed_of("view order", self.seed, turn)).permutation(len(self.listed))


def view_pair(
    views: ViewSource, viewed: ViewedObject, numbers: tuple[int, int], sides_px: tuple[int, int]
) -> Mapping[str, np.ndarray]:
    """Return a view as the reference and another as the image, both on the ground that the first one lacks.

    Args:
        views: The source.
        viewed: The object.
        numbers: Of the two views.
        sides_px: Of the image and of the reference.

    Returns:
        uint8 [3, side, side] for each of the two roles.
    """
    image_px, reference_px = sides_px
    first, second = views.view(viewed, numbers[0], reference_px), views.view(viewed, numbers[1], image_px)
    ground = key_ground(first)
    return {
        REFERENCES[0]: on_ground(first, ground).transpose(2, 0, 1),
        IMAGE_ROLE: on_ground(second, ground).transpose(2, 0, 1),
    }


class ViewDataModule(LightningDataModule):
    """Train on pairs of views of one object: a reference, how it is to be turned, and what is then seen.

    A batch has `reference` and `image` uint8 (batch, 3, height, width), `pose` float (batch, 4) (see `turn_between`;
    NaN: not known), `prompt` (what the object is called), `key`, `skill` and `sample_seed`. Batches come in an endless
    keyed order: batch b is a pure function of (objects, seed, b), whatever the ranks and workers, and a resumed run
    goes on with the next one. Objects that are held out are held out whole, with all others of their group.
    """

    def __init__(
        self,
        views: ViewSource,
        global_batch_size: int = 64,
        batches_per_epoch: int = 100,
        image_size_px: int = 48,
        reference_size_px: int | None = None,
        held_out_share: float = 0.2,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        """Describe the data; nothing is read yet.

        Args:
            views: Objects with several views each.
            global_batch_size: Samples per training batch over all ranks; divisible by their number.
            batches_per_epoch: Length of an epoch in global batches.
            image_size_px: Side of the square views that are drawn.
            reference_size_px: Side of the square references. None: that of the images.
            held_out_share: Of the groups of objects: about so many are never trained on, but validated on.
            num_workers: Reader processes per rank; 0 reads in the training process.
            seed: Names the order of objects, their views, and what is held out.

        Raises:
            UserError: A number is out of range.
        """
        super().__init__()
        sizes = {"global_batch_size": global_batch_size, "batches_per_epoch": batches_per_epoch}
        reference_px = image_size_px if reference_size_px is None else reference_size_px
        check_counts({**sizes, "image_size_px": image_size_px, "reference_size_px": reference_px})
        self.views, self.seed = views, seed
        self.global_batch_size, self.batches_per_epoch = global_batch_size, batches_per_epoch
        self.image_size_px, self._reference_px = image_size_px, reference_px
        self._num_workers = num_workers
        self._split = Split(held_out_share, seed, validates=True)
        self._position = StreamPosition(global_batch_size, seed)

    def parts(self) -> Mapping[str, ViewSource]:
        """Name the source, for those who verify it."""
        return {"views": self.views}

    def prepare_data(self) -> None:
        """See that there are objects to train on and to hold out.

        Raises:
            UserError: There are none, or they cannot be used.
        """
        self.views.verify()
        for held_out in (False, True):
            self._listed(held_out)

    def held_out_objects(self) -> list[ViewedObject]:
        """List the objects that are never trained on.

        Raises:
            UserError: There is none.
        """
        return self._listed(True)

    def train_dataloader(self) -> EvolvingLoader:
        """Begin an epoch, or, right after a resume, go on with the one of the checkpoint.

        Raises:
            UserError: The batch cannot be shared equally, or the checkpoint was trained on other objects.
            StoreError: It was trained with another batch size or seed.
        """
        batches = self._batches(self._listed(False))
        self._position.check_same_stream(self.global_batch_size, self.seed)
        self._check_same_objects()
        self._position.enter_epoch(batches_in_epoch(self.trainer, self.batches_per_epoch))
        return EvolvingLoader(self.batches_per_epoch, lambda: self._deliver(batches))

    def val_dataloader(self) -> EvolvingLoader:
        """Show each object that is held out once, the same two views each time; the last batch is filled."""
        listed = self._listed(True)
        count = -(-len(listed) // self.global_batch_size)
        batches = self._batches(listed)
        return EvolvingLoader(count, lambda: iter(numbered_loader(batches, range(count), self._num_workers)))

    def test_dataloader(self) -> EvolvingLoader:
        """Show what is validated on."""
        return self.val_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream; it names no rank, so the world size may change at resume."""
        self._position.revision_sha = self._objects_name
        return self._position.state_dict(processed_batches(self.trainer))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the position of a checkpoint."""
        self._position = StreamPosition.from_state_dict(state)

    @property
    def _objects_name(self) -> str:
        """Name the objects and which of them are held out."""
        return f"{self.views.fingerprint}, held_out_share {self._split.share}"

    def _check_same_objects(self) -> None:
        trained_on = self._position.revision_sha
        if trained_on not in (None, self._objects_name):
            raise UserError(
                f"The checkpoint was trained on the views '{trained_on}', but the configuration says "
                f"'{self._objects_name}'. A resumed run must keep its objects, else held-out ones would be trained on. "
                "Write data.init_args.views and held_out_share as they were, or start a new run (without --ckpt_path)."
            )

    def _listed(self, held_out: bool) -> list[ViewedObject]:
        every = self.views.objects()
        found = [viewed for viewed in every if self._split.takes(viewed.group) == held_out]
        if not found:
            groups = len({viewed.group for viewed in every})
            what = "hold out" if held_out else "train on"
            raise UserError(
                f"held_out_share is {self._split.share}, which leaves none of the {len(every)} objects in {groups} "
                f"groups to {what}. Allowed is a share that leaves some of both. Write `held_out_share: 0.3`, say, or "
                "give more objects."
            )
        return found

    def _batches(self, listed: Sequence[ViewedObject]) -> ViewBatches:
        sides_px = (self.image_size_px, self._reference_px)
        shares = equal_shares(rank_and_world_size(self.trainer), self.global_batch_size)
        return ViewBatches(self.views, listed, self.seed, self.global_batch_size, sides_px, shares)

    def _deliver(self, batches: ViewBatches) -> Iterator[dict[str, Any]]:
        """Yield what is left of the epoch, counting each batch before it is handed over."""
        left = self._position.left_in_epoch(batches_in_epoch(self.trainer, self.batches_per_epoch))
        for batch in numbered_loader(batches, left, self._num_workers):
            self._position.deliver(processed_batches(self.trainer))
            yield batch
