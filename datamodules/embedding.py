"""The datamodule of priors: an evolving dataset read as embeddings of its prompts and images."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn

from evolvedirector.datamodules.batches import BatchForm, RevisionBatches, SampleCache
from evolvedirector.datamodules.embedding_batches import EmbeddingCollation, PairsBehindRequests
from evolvedirector.datamodules.evolving import EvolvingDataModule
from evolvedirector.datamodules.requests import RequestLoader
from evolvedirector.errors import UserError
from evolvedirector.evolution.embedding import EMBEDDING_ROLES
from evolvedirector.models.embedder import (
    EDGE_EMBEDDING,
    HAS_EDGE,
    IMAGE_EMBEDDING,
    SUBJECT_EMBEDDINGS,
    SUBJECT_TOKENS,
    TEXT_MASK,
    TEXT_STATES,
    Embedder,
    HasEmbedder,
    NamedOnCommandLine,
)
from evolvedirector.planning.roles import EmbeddingFigures
from evolvedirector.records.part import Part
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.records.prompt_subjects import EDGE, SUBJECTS
from evolvedirector.records.split import Split
from evolvedirector.store import RevisionFiles, RevisionReader
from evolvedirector.store.errors import MissingRoleError, StoreError
from evolvedirector.store.files import decode_file
from evolvedirector.store.mirror import RootCache

_MOST_NORMS = 4096


class EmbeddingDataModule(EvolvingDataModule):
    """Train on embeddings of prompts and images, as `evolvedirector embed` or a round of evolution put them there.

    It is `EvolvingDataModule` with other files: the same revisions, order, exact resume and independence of ranks, and
    `EvolutionCallback` drives it. A batch has `text_states` Float[Tensor, "batch token width"] padded with zeros,
    `text_mask` Bool[Tensor, "batch token"], true for real tokens, `text_embedding` and `image_embedding`
    Float[Tensor, "batch embedding"], all raw, not normalised; `sample_seed` int64 [batch], `prompt`, `key` and `skill`.
    """

    def __init__(
        self,
        root: str | Path,
        seeds: PromptSource | str | Path | None = None,
        held_out: PromptSource | str | Path | None = None,
        global_batch_size: int = 1024,
        batches_per_epoch: int = 100,
        embedder: Embedder | None = None,
        validation_share: float = 0.0,
        text_tokens: int | None = None,
        further_roles: Sequence[str] = (),
        image_size_px: int = 512,
        num_workers: int = 0,
        seed: int = 0,
        revision: str | None = None,
        generation_chunk_size: int = 16,
        predict_prompts: str | Path | None = None,
        subjects: bool = False,
        edges: bool = False,
        remote: str | None = None,
        cache: RootCache | None = None,
    ) -> None:
        """Describe the data; nothing is read yet.

        Args:
            root: Folder of the dataset; made with the seeds when it does not exist.
            seeds: First prompts, used once, when the root has no revision: a prompt file or a source object. Rounds
                then buy their images, and an `EvolutionCallback` with an embedder embeds them. None: the root exists.
            held_out: Prompts for evaluation, a file or a source; they never enter the dataset. None: none.
            global_batch_size: Pairs per training batch over all ranks; divisible by their number.
            batches_per_epoch: Length of an epoch in global batches; the revision can change only between epochs.
            embedder: Whose embeddings these must be; its weights are not loaded here. None: one for all samples,
                whichever it is.
            validation_share: Share of the prompts that is never trained on; validation measures on all of their pairs,
                with the same seeds each time. 0: none.
            text_tokens: Length of the padded token states. None: that of the longest text in a batch.
            further_roles: Arrays of each sample that a batch carries as well, such as `edge_embedding`.
            image_size_px: Side of the images asked for to evaluate.
            num_workers: Reader processes per rank; 0 reads in the training process.
            seed: Names the order of samples, the validation part and the seeds of evaluation images.
            revision: Start from this revision instead of the newest (at least 6 characters of its sha). None: the
                newest. A resumed run goes on with the revision of its checkpoint.
            generation_chunk_size: Requests per evaluation or prediction batch.
            predict_prompts: Prompt file for `predict`. None: nothing to predict.
            subjects: Read the subjects of the samples that have some, as lambda-ECLIPSE does: `subject_tokens`
                Bool[Tensor, "batch subject token"] and `subject_embeddings` Float[Tensor, "batch subject embedding"].
            edges: Read the edge pictures of the samples that have one: `edge_embedding` Float[Tensor, "batch
                embedding"] and `has_edge_embedding` Bool[Tensor, "batch"].
            remote: URL that every published revision is pushed to; see `EvolvingDataModule`. None: nowhere.
            cache: Of what is read at a URL; likewise.

        Raises:
            UserError: The root is missing, or a number or role cannot be used.
        """
        super().__init__(
            root,
            seeds,
            held_out,
            global_batch_size,
            batches_per_epoch,
            image_size_px,
            num_workers,
            seed,
            revision,
            generation_chunk_size,
            predict_prompts,
            roles=(*EMBEDDING_ROLES, *further_roles),
            remote=remote,
            cache=cache,
        )
        if text_tokens is not None and text_tokens < 1:
            raise UserError(f"text_tokens is {text_tokens}. It must be 1 or more. Write `text_tokens: 77`, say.")
        self.embedder = embedder
        self.validation_share = validation_share
        split = Split(validation_share, seed) if validation_share else None
        self.optional_roles = (
            *((SUBJECT_TOKENS, SUBJECT_EMBEDDINGS) if subjects else ()),
            *((EDGE_EMBEDDING,) if edges else ()),
        )
        self._form = BatchForm(self.optional_roles, collate=EmbeddingCollation(text_tokens, subjects, edges))
        self._rows = replace(self._rows, form=self._form, split=split)
        self._checked_sha: str | None = None
        self._validation: RevisionBatches | None = None

    def parts(self) -> Mapping[str, Part]:
        """Name the embedder that is expected, for those who verify it."""
        return {} if self.embedder is None else {"embedder": self.embedder}

    # ---- training

    def placeholder_batch(self) -> dict[str, Any] | None:
        """Make this rank's part of a batch in the form of a real one: the revision's first; None while it has none.

        Raises:
            UserError: Samples lack embeddings, or have those of another embedder.
        """
        with self._said_what_to_run():
            return super().placeholder_batch()

    def _tries_placeholders(self) -> bool:
        with self._said_what_to_run():
            return super()._tries_placeholders()

    def _open(self) -> RevisionReader:
        """Open the revision to train on, once its embeddings are known to be of one embedder, and of the right one."""
        with self._said_what_to_run():
            try:
                reader = super()._open()
            except StoreError as error:
                self._refuse_all_kept(error)
                raise
        if reader.revision_sha != self._checked_sha:
            self._check_makers(reader)
            self._checked_sha = reader.revision_sha
        return reader

    def _refuse_all_kept(self, error: Exception | None = None) -> None:
        """Refuse a validation_share that leaves nothing of the samples that there are to train on."""
        if not self.validation_share:
            return
        with self._said_what_to_run():
            count = len(RevisionReader(self.data_root, self.revision_sha, self.roles))
        if count and not len(self._rows.whole(self.revision_sha)):
            raise UserError(
                f"validation_share is {self.validation_share}, which keeps all {count} samples to validate. Allowed is "
                "a share that leaves some to train on. Write `validation_share: 0.05`, say, or leave it out."
            ) from error

    def _check_makers(self, reader: RevisionReader) -> None:
        makers = {role: reader.makers(role) for role in EMBEDDING_ROLES}
        names = sorted({name for counts in makers.values() for name in counts})
        names += sorted({name for role in self.optional_roles for name in reader.makers(role)} - {*names, ""})
        if len(names) > 1:
            self_made = makers[IMAGE_EMBEDDING]
            said = ", ".join(f"{self_made.get(name, 0)} of {name or 'nobody knows whom'}" for name in names)
            raise UserError(
                f"The {len(reader)} samples of revision {reader.number} have embeddings of {len(names)} embedders: "
                f"{said}. Allowed is one, since each has a space of its own. {self._command(replace=True)}"
            )
        self._check_further(reader)
        if self.embedder is None:
            return
        if names[0] and names[0] != self.embedder.fingerprint:
            raise UserError(
                f"The samples of revision {reader.number} have embeddings of {names[0]}, but the embedder is "
                f"{self.embedder.fingerprint}. Allowed are those of the embedder that is named. Name theirs, or "
                f"replace them. {self._command(replace=True)}"
            )
        found = self._shapes(reader)
        wanted = (self.embedder.text_width, self.embedder.embedding_dim)
        if found != wanted:
            raise UserError(
                f"The embeddings of revision {reader.number} have {found[0]} values per token and {found[1]} per "
                f"image, the embedder gives {wanted[0]} and {wanted[1]}. Allowed are its own. "
                f"{self._command(replace=True)}"
            )

    def _check_further(self, reader: RevisionReader) -> None:
        """Refuse subjects or edges that are wanted and not embedded."""
        source_of = {SUBJECT_TOKENS: SUBJECTS, EDGE_EMBEDDING: EDGE}
        wanted = {role: source for role, source in source_of.items() if role in self.optional_roles}
        if not wanted:
            return
        shape = (reader.revision_sha, self.roles, (), reader.subset, reader.split)
        given = RevisionReader(self.data_root, *shape, optional_roles=tuple(wanted.values()))
        for role, source in wanted.items():
            left = given.having(source) & ~reader.having(role)
            if left.any() or not reader.having(role).any():
                name = "subjects" if role == SUBJECT_TOKENS else "edges"
                raise UserError(
                    f"{name} is true, and {int(left.sum())} samples of revision {reader.number} have a '{source}' that "
                    f"is not embedded, {int(reader.having(role).sum())} one that is. Allowed is a dataset where some "
                    f"have one, all embedded. {self._command()} (docs/priors.md), or write `{name}: false`."
                )

    @staticmethod
    def _shapes(reader: RevisionReader) -> tuple[int, int]:
        first = _arrays(reader, 0)
        return first[TEXT_STATES].shape[-1], first[IMAGE_EMBEDDING].shape[-1]

    @contextmanager
    def _said_what_to_run(self) -> Iterator[None]:
        """Say in place of a missing role which command makes it."""
        try:
            yield
        except MissingRoleError as error:
            what = "embeddings" if error.missing == error.samples else f"'{error.role}'"
            if error.role not in EMBEDDING_ROLES:
                raise
            raise UserError(
                f"'{self.data_root}' has no {what} for {error.missing} of the {error.samples} samples that are trained "
                f"on. Allowed are samples that all have {', '.join(EMBEDDING_ROLES)}. {self._command()}"
            ) from error

    def _command(self, replace: bool = False) -> str:
        """Say which command makes embeddings: those of the embedder that is named here, or that the module learns."""
        root, embedder = shlex.quote(str(self.data_root)), self.embedder
        module = None if self.trainer is None else self.trainer.lightning_module
        if embedder is None and isinstance(module, HasEmbedder):
            embedder = module.embedder
        behind = ""
        if isinstance(embedder, NamedOnCommandLine):
            options = shlex.join(embedder.embed_options())
        elif embedder is not None:
            options, behind = "--embedder FILE", f", a YAML with class_path and init_args of {type(embedder).__name__}"
        else:
            options = "--model NAME"
            behind = (
                ", with the CLIP of your decoder: openai/clip-vit-large-patch14 for Karlo (768 values), "
                "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k with --projection-dim 1280 for Kandinsky 2.2"
            )
        return f"Run `evolvedirector embed {root} {options}{' --replace' if replace else ''}`{behind}."

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move the embeddings and their mask; requests stay where they are, and so do seeds."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        names = (TEXT_MASK, *self.optional_roles, HAS_EDGE)
        return moved if isinstance(batch, list) else {**moved, **{n: batch[n].to(device) for n in names if n in batch}}

    # ---- validation

    def val_dataloader(self) -> RequestLoader | PairsBehindRequests:  # type: ignore[override]
        """Ask for one image per held-out prompt, `list[ImageRequest]`; then deliver the pairs kept to validate."""
        requests = super().val_dataloader()
        if not self.validation_share:
            return requests
        rank, world_size = self._shares()
        batches = self._validating(rank, world_size)
        if not batches:
            return requests
        count = -(-len(batches.reader) // self.global_batch_size)  # the last batch repeats the first pairs
        return PairsBehindRequests(requests, count, partial(self._read_validation, batches, count))

    def _read_validation(self, batches: RevisionBatches, count: int) -> Iterator[dict[str, Any]]:
        yield from batches.loader(range(count), self._num_workers)

    def _validating(self, rank: int, world_size: int) -> RevisionBatches | None:
        """Open the part of the present revision that validates; None while it has no sample."""
        sha = self.revision_sha
        if self._validation is None or self._validation.reader.revision_sha != sha:
            split = Split(self.validation_share, self.seed, validates=True)
            with self._said_what_to_run():
                reader = RevisionReader(
                    self.data_root, sha, self.roles, split=split, optional_roles=self.optional_roles
                )
            if len(reader) == 0:
                return None
            shape = (self.seed, self.global_batch_size, self.image_size_px, rank, world_size)
            self._validation = RevisionBatches(reader, *shape, SampleCache(), form=self._form)
        return self._validation

    # ---- checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream, and which part of the prompts it leaves out."""
        state = super().state_dict()
        return {**state, "validation_share": self.validation_share} if state and self.validation_share else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the position of a checkpoint.

        Raises:
            UserError: Another part of the prompts is kept to validate, so that the order would be another one.
        """
        place = dict(state)
        share = place.pop("validation_share", 0.0)
        trains = self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if trains and share != self.validation_share:
            raise UserError(
                f"validation_share is {self.validation_share}, but the checkpoint was trained with {share}. A resumed "
                "run must keep it, else it would train on what was kept to validate. Write "
                f"`data.init_args.validation_share: {share}`, or start a new run (without --ckpt_path)."
            )
        super().load_state_dict(place)

    # ---- what others are told

    def embedding_figures(self) -> EmbeddingFigures | None:
        """Count the pairs that are trained on, and measure their embeddings; None while there are none.

        The mean norm is that of up to 4096 image embeddings, spread evenly over the samples.

        Raises:
            UserError: Samples lack embeddings, have those of several embedders, or are all kept to validate.
        """
        if RevisionFiles(self.data_root).current() is None:
            return None
        with self._said_what_to_run():
            reader = self._rows.whole(self.revision_sha)
        if len(reader) == 0:
            self._refuse_all_kept()
            return None
        self._check_makers(reader)
        rows = np.unique(np.linspace(0, len(reader) - 1, min(len(reader), _MOST_NORMS)).astype(int)).tolist()
        norms = [float(np.linalg.norm(_arrays(reader, row)[IMAGE_EMBEDDING])) for row in rows]
        text_width, embedding_dim = self._shapes(reader)
        maker = next(iter(reader.makers(IMAGE_EMBEDDING)))
        return EmbeddingFigures(len(reader), float(np.mean(norms)), embedding_dim, text_width, maker or None)

    def plan_summary(self) -> dict[str, str]:
        """Say whose embeddings are read, for `evolvedirector check`."""
        if (figures := self.embedding_figures()) is None:
            return {"embeddings": "none yet: a round of evolution with an embedder makes them"}
        maker = figures.embedder_fingerprint or "nobody knows whom"
        widths = f"{figures.embedding_dim} values, {figures.text_width} per token"
        return {"embeddings": f"{figures.pairs:,} pairs to train on, {widths}, by {maker}"}


def _arrays(reader: RevisionReader, row: int) -> dict[str, np.ndarray]:
    """Read the embeddings of a row."""
    raw = reader.raw(row)
    named = {role: raw.get(f"{role}.npy") for role in EMBEDDING_ROLES}
    if missing := [role for role, content in named.items() if not isinstance(content, bytes)]:
        raise UserError(
            f"The {missing[0]} of the sample {raw['__key__']!r} is no npy file. Embeddings are arrays of numbers. Run "
            "`evolvedirector embed ROOT --replace`, or import them as npy."
        )
    return {role: decode_file(content, "npy", role) for role, content in named.items() if isinstance(content, bytes)}
