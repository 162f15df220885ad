"""The datamodule of an evolving dataset: which revision is read, how far, and what follows."""

from __future__ import annotations

import contextlib
import itertools
import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from evolvedirector.datamodules.batches import EvolvingLoader
from evolvedirector.datamodules.position import StreamPosition
from evolvedirector.datamodules.requests import RequestChunk, RequestLoader, requests_for
from evolvedirector.datamodules.training_rows import TrainingRows
from evolvedirector.datamodules.training_shares import (
    batches_in_epoch,
    check_counts,
    equal_shares,
    processed_batches,
    rank_and_world_size,
)
from evolvedirector.errors import UserError
from evolvedirector.execution.ranks import on_rank_zero
from evolvedirector.planning.roles import Evolves
from evolvedirector.records import IMAGE_ROLE, ImageRequest, Prompt, check_role
from evolvedirector.records.buckets import BucketSize, checked_buckets
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.records.subset import EVERYTHING, Subset
from evolvedirector.store import DatasetStore, RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.edits import edits_since
from evolvedirector.store.imports import import_prompts
from evolvedirector.store.latents import LatentFiles
from evolvedirector.store.mirror import RootCache, local_root, mirror_of
from evolvedirector.store.naming import note_run
from evolvedirector.store.prompt_files import read_prompts
from evolvedirector.store.push import checked_remote, push_root

_log = logging.getLogger(__name__)


class EvolvingDataModule(LightningDataModule):
    """Train on an evolving dataset, one revision per epoch, with exact resume.

    Samples come in an endless keyed order: global batch b is a pure function of (revision, seed, b), so it depends on
    no rank, world size or worker. An epoch is a fixed number of global batches; between two of them the revision may
    change. The position is part of the checkpoint and counts batches as they are delivered to training.
    """

    def __init__(
        self,
        root: str | Path,
        seeds: PromptSource | str | Path | None = None,
        held_out: PromptSource | str | Path | None = None,
        global_batch_size: int = 64,
        batches_per_epoch: int = 100,
        image_size_px: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        revision: str | None = None,
        generation_chunk_size: int = 16,
        predict_prompts: str | Path | None = None,
        roles: Sequence[str] = (IMAGE_ROLE,),
        buckets: Sequence[BucketSize] = (),
        remote: str | None = None,
        cache: RootCache | None = None,
    ) -> None:
        """Describe the data; nothing is read yet.

        Args:
            root: Folder of the dataset; made with the seeds when it does not exist. Or the URL of one that was pushed
                (`s3://bucket/folder`, any of fsspec), which is only read: no rounds then.
            seeds: First prompts, used once, when the root has no revision: a prompt file (.txt with one per line, or
                .jsonl, .json, .csv, .tsv or .yaml with `prompt` and `skill`) or a source object. None: the root must
                exist.
            held_out: Prompts for evaluation, a file or a source; they never enter the dataset. None: no evaluation.
            global_batch_size: Images per training batch over all ranks; divisible by their number.
            batches_per_epoch: Length of an epoch in global batches; the revision can change only between epochs.
            image_size_px: Side of the square training images; others are scaled and cropped.
            num_workers: Reader processes per rank; 0 reads in the training process.
            seed: Names the order of samples and the seeds of evaluation images.
            revision: Start from this revision instead of the newest (at least 6 characters of its sha); the next round
                then forks. None: the newest. A resumed run goes on with the revision of its checkpoint.
            generation_chunk_size: Requests per evaluation or prediction batch.
            predict_prompts: Prompt file for `predict`. None: nothing to predict.
            roles: Files of each sample that training reads, and no others: `image`, and such as `mask`, `source` or
                `image_embedding`. A batch carries each under its name: images as UInt8[Tensor, "batch 3 height width"],
                masks with one channel, arrays as tensors. Every sample must have them.
            buckets: Sizes (width, height) in px that images are trained in. Each image is scaled until it covers the
                one of the nearest aspect ratio and cropped to it, a batch holds one of them, and evolution asks for
                new images in them. A batch then says how its images were cut: `original_size_px` and
                `crop_top_left_px`, Int64[Tensor, "batch 2"], rows first. Empty: squares.
            remote: URL that every published revision is pushed to. The machine of rank 0 has the root, the others read
                from there; without it they must see the root, too. None: nowhere.
            cache: Where each machine keeps what it reads at a URL, and how much of it. None: the defaults.

        Raises:
            UserError: If the root is missing, a size is below 1, or a role, the buckets or a URL cannot be used.
        """
        super().__init__()
        if not str(root or "").strip():
            raise UserError(
                "The datamodule has no root. It must be a folder. Write `data.init_args.root: runs/mine/data`."
            )
        sizes = {
            "global_batch_size": global_batch_size,
            "batches_per_epoch": batches_per_epoch,
            "image_size_px": image_size_px,
            "generation_chunk_size": generation_chunk_size,
        }
        check_counts(sizes)
        for role in roles:
            if role != IMAGE_ROLE:
                check_role(role)
        if not roles or len(set(roles)) < len(roles):
            raise UserError(
                f"roles is {list(roles)}. Each role is named once, at least one. Write `data.init_args.roles: [image]`."
            )
        self.prepare_data_per_node = False  # one writer: the root is on a file system that all nodes see
        self.data_root = local_root(root, cache)
        self.remote = checked_remote(root, remote)
        self._cache = cache
        self.global_batch_size = global_batch_size
        self.batches_per_epoch = batches_per_epoch
        self.image_size_px = image_size_px
        self.generation_chunk_size = generation_chunk_size
        self.seed = seed
        self.roles = tuple(roles)
        self.buckets = checked_buckets(buckets)
        self.seeds = seeds
        self._held_out = held_out
        self._predict_prompts = predict_prompts
        self._num_workers = num_workers
        self._start_revision = revision
        self._position = StreamPosition(global_batch_size, seed, self.buckets)
        self._rows = TrainingRows(
            self.data_root, seed, global_batch_size, batches_per_epoch, image_size_px, self.roles, self.buckets
        )

    # ---- the trainer

    @property
    def trainer(self) -> Trainer | None:  # type: ignore[override]
        """Return the trainer that reads this data; None outside of one."""
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        """Take the trainer.

        Raises:
            UserError: It is one of `pytorch_lightning`, whose classes are others and know this one not.
        """
        packages = {kind.__module__.partition(".")[0] for kind in type(self).__mro__}
        if type(trainer).__module__.startswith("pytorch_lightning.") and "pytorch_lightning" not in packages:
            name = type(self).__name__
            raise UserError(
                f"The trainer is one of the package pytorch_lightning, which does not take {name} for a datamodule. "
                f"It must be both. Write `class Data({name}, pytorch_lightning.LightningDataModule): pass` and use "
                "that, or `import lightning.pytorch as pl` in the whole project."
            )
        self._trainer = trainer

    # ---- the root

    def prepare_data(self) -> None:
        """Make the root from the seeds if it has no revision yet, and record the held-out prompts (rank 0 only)."""
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return  # evaluation writes nothing, so it can run beside a training that holds the root's lock
        if (mirror := mirror_of(self.data_root)) is not None:
            mirror.bring_format()  # says what is wrong with the URL, if anything
        else:
            self._make_root()
            self.push()

    def _make_root(self) -> None:
        if self.seeds is None and not (self.data_root / "format.json").exists():
            raise StoreError(
                f"The dataset root '{self.data_root}' does not exist and there are no seeds to make it from. Allowed "
                "is a root that was imported, or any folder beside seeds. Write `data.init_args.seeds: prompts.txt`, "
                f"or run `evolvedirector data import {shlex.quote(str(self.data_root))} --prompts prompts.txt` first."
            )
        held_out = [prompt.id for prompt in self.held_out_prompts()]
        published = RevisionFiles(self.data_root).current() is not None
        if published and not held_out:
            return
        with DatasetStore(self.data_root, create=self.seeds is not None) as store:
            store.ledger.prompts.hold_out(held_out)
            if not published and self.seeds is not None:
                report = import_prompts(store, read_prompts(self.seeds), held_out)
                _log.info(
                    "Imported %d prompts; skipped %d duplicates and %d held-out ones.",
                    report.prompts,
                    report.duplicates,
                    report.held_out,
                )

    def push(self) -> None:
        """Bring what was published to `remote`; nothing without one, or before the first revision.

        Raises:
            StoreError: It cannot be written. What was published here stays, and the same command goes on.
        """
        if self.remote is not None and RevisionFiles(self.data_root).current() is not None:
            push_root(self.data_root, self.remote)

    def setup(self, stage: str) -> None:
        """Read at the URL where this machine has not the root, and begin with the same revision on all of them."""
        trainer: Any = self.trainer
        if trainer is None or (self.remote is None and mirror_of(self.data_root) is None):
            return
        if self.remote is not None and trainer.node_rank > 0:
            self.data_root = local_root(self.remote, self._cache)
            self._rows = replace(self._rows, root=self.data_root)
        if stage == "fit" and self._position.revision_sha is None and self._start_revision is None:
            self._position.revision_sha = on_rank_zero(lambda: RevisionFiles(self.data_root).current())

    def held_out_prompts(self) -> list[Prompt]:
        """List the evaluation prompts, each once."""
        return [] if self._held_out is None else list({p.id: p for p in read_prompts(self._held_out)}.values())

    # ---- what EvolutionCallback uses

    @property
    def revision_sha(self) -> str:
        """Name the revision that training reads now.

        Raises:
            StoreError: If the root has none.
        """
        if self._position.revision_sha is None:
            files = RevisionFiles(self.data_root)
            if self._start_revision is not None:
                self._position.revision_sha = files.resolve(self._start_revision)
            elif (current := files.current()) is not None:
                self._position.revision_sha = current
            else:
                raise StoreError(
                    f"The dataset root '{self.data_root}' has no revision. Allowed is a root that was imported, or one "
                    "that seeds can fill. Write `data.init_args.seeds: prompts.txt`, or run `evolvedirector data "
                    f"import {shlex.quote(str(self.data_root))} --prompts prompts.txt` first."
                )
        return self._position.revision_sha

    @property
    def next_revision_sha(self) -> str | None:
        """Name the revision that the next epoch will read; None: the same as now."""
        return self._position.next_revision_sha

    def open_revision(self, revision_sha: str) -> None:
        """Make the next epoch read this revision; the current one is read to its end.

        Args:
            revision_sha: At least 6 characters of it.

        Raises:
            StoreError: If it does not exist; the message names those that do.
        """
        full = RevisionFiles(self.data_root).resolve(revision_sha)
        _ = self.revision_sha  # bound, so that the same one is known for it
        self._position.name_next(revision_sha=full)

    def train_on(self, subset: Subset | None) -> None:
        """Make the next epoch train on some of the samples, from the first batch of their own order on.

        An epoch of which nothing was read yet is the next one. The subset stays until another is named, over revisions
        and in checkpoints, and says nothing of evaluation.

        Args:
            subset: None: all samples.
        """
        self._position.name_next(subset=subset or EVERYTHING)

    def check_subset(self, subset: Subset) -> None:
        """Refuse a subset of which the revision that training reads now has no sample.

        Args:
            subset: What is to be trained on.

        Raises:
            RunError: It has none; with what there is.
        """
        self._rows.check_subset(self.revision_sha, subset)

    # ---- training

    def train_dataloader(self) -> EvolvingLoader:
        """Begin an epoch, or, right after a resume, go on with the one of the checkpoint.

        Raises:
            StoreError: If the revision has no image to train on, a sample lacks one of the roles, or the resumed
                stream is another one.
            UserError: If the batch cannot be shared equally by the ranks.
        """
        rank, world_size = self._shares()
        self._position.check_same_stream(self.global_batch_size, self.seed, self.buckets)
        _ = self.revision_sha  # bound before the position may move on to the next
        reads = self._position.enter_epoch(self._batches_in_epoch())
        if reads and not (self._tries_placeholders() or self._waits_for_rounds()):
            self._open()
        return EvolvingLoader(self.batches_per_epoch, lambda: self._deliver(rank, world_size))

    def serve_latents(self, latents: LatentFiles | None) -> None:
        """Put latents into a batch in place of its images, where all of them have some.

        Such a batch has `latent_mean` and, from a random codec, `latent_deviation`, Float[Tensor, "batch channel row
        column"], raw as the codec gave them, and `size_px`, int64 (batch, 2), height and width of the images.

        Args:
            latents: Where they are; None: batches hold images.
        """
        self._rows.latents = latents

    def images_without_latents(self, latents: LatentFiles) -> Iterator[tuple[str, np.ndarray]]:
        """Yield key and uint8 [3, height, width] of what the next epoch trains on and has no latents.

        Each rank gets another part: image n of the revision goes to rank n modulo their number, whenever it asks.

        Args:
            latents: Where they would be.
        """
        yield from self._rows.images_without_latents(self.revision_sha, latents, *self._rank_and_world_size())

    def training_texts(self) -> list[str]:
        """List the texts that the next epoch trains on, each once."""
        return self._rows.texts(self.revision_sha)

    def placeholder_batch(self) -> dict[str, Any] | None:
        """Make this rank's part of a batch in the form of a real one, to try a training step on.

        It is the revision's first batch where there is one, and a shade with the revision's prompts where not; None
        where a role has no known shape. With buckets it is of the largest.

        Raises:
            UserError: If the batch cannot be shared equally by the ranks.
            StoreError: If a sample lacks one of the roles, or cannot be read.
        """
        return self._rows.placeholder(self.revision_sha, *self._shares())

    def _tries_placeholders(self) -> bool:
        """Whether a smoke test (`trainer.fast_dev_run`), which buys nothing, finds no image to train on."""
        trainer = self.trainer
        if trainer is None or not trainer.fast_dev_run:  # type: ignore[attr-defined]
            return False
        return self._rows.is_empty(self.revision_sha)

    def _waits_for_rounds(self) -> bool:
        """Whether rounds that come before the first training step are still to bring what is trained on."""
        trainer: Any = self.trainer
        if trainer is None or trainer.global_step > 0:
            return False
        plans = [callback.evolution() for callback in trainer.callbacks if isinstance(callback, Evolves)]
        return any(plan.schedule.first_rounds for plan in plans)

    def _shares(self) -> tuple[int, int]:
        """Return this process's share and how many there are.

        Raises:
            UserError: If the batch cannot be shared equally.
        """
        return equal_shares(self._rank_and_world_size(), self.global_batch_size)

    def _open(self) -> RevisionReader:
        """Open the revision and subset of the position to train on them.

        Raises:
            StoreError: The revision has no image.
            RunError: The subset has none.
            UserError: A bucket has none.
        """
        callbacks = [] if self.trainer is None else self.trainer.callbacks  # type: ignore[attr-defined]
        buys_images = any(isinstance(callback, Evolves) for callback in callbacks)
        return self._rows.open(self.revision_sha, self._position.subset, buys_images)

    def _deliver(self, rank: int, world_size: int) -> Iterator[dict[str, Any]]:
        """Yield what is left of the epoch, counting each batch before it is handed over."""
        left = self._position.left_in_epoch(self._batches_in_epoch())
        if len(left) == 0:
            return
        if self._tries_placeholders():
            if (batch := self.placeholder_batch()) is None:
                self._open()  # says that there is nothing to train on
            else:
                yield from itertools.repeat(batch, len(left))
            return
        batches = self._rows.batches(self._open(), rank, world_size)
        position = self._position
        for batch in batches.loader(left, self._num_workers):
            position.deliver(self._processed())
            yield batch

    def _batches_in_epoch(self) -> int:
        """Count the batches of an epoch under the trainer's `limit_train_batches`."""
        return batches_in_epoch(self.trainer, self.batches_per_epoch)

    def _processed(self) -> int | None:
        """Count the batches that the trainer has finished so far; None without a trainer."""
        return processed_batches(self.trainer)

    def _rank_and_world_size(self) -> tuple[int, int]:
        """Return which share of each global batch this process reads, and how many shares there are."""
        return rank_and_world_size(self.trainer)

    # ---- checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream; it names no rank, so the world size may change at resume."""
        if self._position.revision_sha is None and RevisionFiles(self.data_root).current() is None:
            return {}
        _ = self.revision_sha
        self._note_run()
        return {**self._position.state_dict(self._processed()), "started_from": self._start_revision}

    def _note_run(self) -> None:
        """Note in the root where the checkpoint goes, for `data collect` keeps what checkpoints name."""
        if self.trainer is None or not self.trainer.is_global_zero or "://" in self.trainer.default_root_dir:
            return
        if mirror_of(self.data_root) is not None:  # nothing is collected there
            return
        with contextlib.suppress(OSError):  # a root that may not be written is not collected either
            note_run(self.data_root, Path(self.trainer.default_root_dir))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the position of a checkpoint; the revision it names is opened, whatever the newest one is.

        Raises:
            StoreError: If that revision is gone from the root.
            UserError: If `revision` is another one than in the run that saved the checkpoint.
        """
        place = dict(state)
        started_from = place.pop("started_from", self._start_revision)  # earlier versions did not say
        position = StreamPosition.from_state_dict(place)
        trains = self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if trains and self._start_revision not in (None, started_from):
            place_sha = str(position.revision_sha)[:12]
            raise UserError(
                f"revision is {self._start_revision}, but the checkpoint goes on with {place_sha}. "
                "It says where a new run begins; one that goes on has its own place. Leave data.init_args.revision as "
                "it was, or start a new run (without --ckpt_path)."
            )
        files = RevisionFiles(self.data_root)
        for sha in (position.revision_sha, position.next_revision_sha):
            if sha is not None:
                files.resolve(sha)
        self._position = position
        goes_on_with = position.next_revision_sha or position.revision_sha
        if goes_on_with is not None and (edits := edits_since(self.data_root, goes_on_with)):
            named = ", ".join(f"{number} ({kind})" for number, kind, _ in edits)
            rank_zero_warn(
                f"'{self.data_root}' was edited after this checkpoint, in revision {named}. A resumed run goes on with"
                f" the revision of its checkpoint, {goes_on_with[:12]}, and so does its next round: the edits are no"
                " part of it. To train on them, start a new run (without --ckpt_path) with"
                f" `data.init_args.revision: {edits[-1][2][:12]}`."
            )

    # ---- evaluation and prediction

    def val_dataloader(self) -> RequestLoader:
        """Ask for one image per held-out prompt; batches are `list[ImageRequest]`."""
        return self._chunks(self.held_out_prompts())

    def test_dataloader(self) -> RequestLoader:
        """Ask for one image per held-out prompt; batches are `list[ImageRequest]`."""
        return self._chunks(self.held_out_prompts())

    def predict_dataloader(self) -> RequestLoader:
        """Ask for one image per prompt of `predict_prompts`; batches are `list[ImageRequest]`."""
        return self._chunks([] if self._predict_prompts is None else read_prompts(self._predict_prompts))

    def _chunks(self, prompts: Sequence[Prompt]) -> RequestLoader:
        return RequestLoader(self._requests(prompts), self.generation_chunk_size, *self._rank_and_world_size())

    def _requests(self, prompts: Sequence[Prompt]) -> list[ImageRequest]:
        return requests_for(prompts, self.image_size_px, self.seed)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Unpack requests, so that the module gets a plain list."""
        return batch.requests if isinstance(batch, RequestChunk) else batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move the files of a batch; requests stay where they are, and so do the seeds of generators on the CPU."""
        if isinstance(batch, list):
            return batch
        moved = (*self.roles, "latent_mean", "latent_deviation", "original_size_px", "crop_top_left_px")
        files = {name: batch[name] for name in moved if name in batch}
        return {**batch, **super().transfer_batch_to_device(files, device, dataloader_idx)}
