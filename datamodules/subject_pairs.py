"""The datamodule of subject pairs: an evolving dataset whose samples have references, masks and sources, or some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evolvedirector.datamodules.batches import BatchForm, collate
from evolvedirector.datamodules.evolving import EvolvingDataModule
from evolvedirector.datamodules.requests import requests_for
from evolvedirector.errors import UserError
from evolvedirector.records import IMAGE_ROLE, FileRef, ImageRequest, Prompt, RevisionChange, Sample, seed_of
from evolvedirector.records.prompt_source import BringsFiles, PromptSource
from evolvedirector.records.subject_roles import (
    DEPTH,
    MASK,
    REFERENCES,
    SOURCE,
    SUBJECT_BOX,
    SUBJECT_ROLES,
    check_box,
    check_edit,
    check_mask,
    check_references,
    mask_of,
)
from evolvedirector.store import DatasetStore, RevisionFiles, RevisionReader
from evolvedirector.store.delta import Place
from evolvedirector.store.images import fit_square
from evolvedirector.store.latents import LatentFiles
from evolvedirector.store.mirror import RootCache


class SubjectPairDataModule(EvolvingDataModule):
    """Train on subject pairs of an evolving dataset, pairs for new pictures and for edits mixed.

    A sample may have references of its subject (`reference` to `reference_4`, each with `<reference>_mask`), `source`
    and `mask` (an edit), `depth`, and `subject_box`, an npy array of left, top, right, bottom as shares of the image.
    A batch holds each role that one of its samples has. Where others lack it, `has_<role>` bool (batch) says so, and
    their rows are 0; those of a box are NaN.

    With the reconstruction probability a sample's references give way to its own image, cut to the subject's box: a
    task whose answer is known to the pixel (Toffee, arXiv:2406.09305, raised identity by it, and lowered the text).
    """

    def __init__(
        self,
        root: str | Path,
        seeds: PromptSource | str | Path | None = None,
        held_out: PromptSource | str | Path | None = None,
        global_batch_size: int = 64,
        batches_per_epoch: int = 100,
        image_size_px: int = 48,
        num_workers: int = 0,
        seed: int = 0,
        revision: str | None = None,
        generation_chunk_size: int = 16,
        predict_prompts: str | Path | None = None,
        reference_size_px: int | None = None,
        references: int = 4,
        reconstruction_probability: float = 0.1,
        cut_out: bool = False,
        remote: str | None = None,
        cache: RootCache | None = None,
    ) -> None:
        """Describe the data; nothing is read yet.

        Args:
            root: Folder of the dataset, as `evolvedirector pairs build` writes it.
            seeds: First prompts, used once; see `EvolvingDataModule`.
            held_out: Prompts for evaluation; they never enter the dataset. A source that brings files with them, such
                as `DrawnQuestions` or `FolderQuestions`, has them drawn with references. None: no evaluation.
            global_batch_size: Pairs per training batch over all ranks; divisible by their number.
            batches_per_epoch: Length of an epoch in global batches.
            image_size_px: Side of the square training images, sources, masks and depth maps.
            num_workers: Reader processes per rank; 0 reads in the training process.
            seed: Names the order of samples and the seeds of evaluation images.
            revision: Start from this revision instead of the newest. None: the newest.
            generation_chunk_size: Requests per evaluation or prediction batch.
            predict_prompts: Prompt file for `predict`. None: nothing to predict.
            reference_size_px: Side of the square references. None: that of the images.
            references: How many references of a sample are read, 1 to 4.
            reconstruction_probability: Share of the samples that are rebuilt from themselves. Above 0, images are not
                replaced by cached latents: the pixels are needed.
            cut_out: Refuse references without a mask of the subject.
            remote: URL that every published revision is pushed to; see `EvolvingDataModule`. None: nowhere.
            cache: Of what is read at a URL; likewise.

        Raises:
            UserError: A number is out of range.
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
            remote=remote,
            cache=cache,
        )
        if not 1 <= references <= len(REFERENCES) or not 0 <= reconstruction_probability < 1:
            raise UserError(
                f"references is {references} and reconstruction_probability {reconstruction_probability}. Allowed are "
                "1 to 4 references, and a share from 0, below 1. Write references: 4, reconstruction_probability: 0.1."
            )
        self.reconstruction_probability, self.cut_out = reconstruction_probability, cut_out
        side_px = image_size_px if reference_size_px is None else reference_size_px
        if side_px < 1:
            raise UserError(
                f"reference_size_px is {reference_size_px}. It must be at least 1. Write `data.init_args."
                "reference_size_px: 224`, or null for the size of the images."
            )
        read = [role for reference in REFERENCES[:references] for role in (reference, mask_of(reference))]
        form = BatchForm(
            (*read, SOURCE, MASK, DEPTH, SUBJECT_BOX),
            dict.fromkeys(read, side_px),
            partial(collate_pairs, reconstruction_probability=reconstruction_probability, reference_px=side_px),
        )
        self._rows = replace(self._rows, form=form)
        self._checked = ""

    def held_out_files(self) -> Mapping[str, Mapping[str, FileRef]]:
        """Return the references of held-out prompts, by the prompt's id; none where their source brings no files."""
        return self._held_out.files() if isinstance(self._held_out, BringsFiles) else {}

    def prepare_data(self) -> None:
        """Make a root where rounds before the first step are to fill it; else see `EvolvingDataModule`."""
        files = RevisionFiles(self.data_root)
        if self.seeds is None and self._waits_for_rounds() and files.current() is None:
            with DatasetStore(self.data_root, create=True) as store:
                store.publish(None, "empty", RevisionChange())
        super().prepare_data()

    def serve_latents(self, latents: LatentFiles | None) -> None:
        """Put latents into batches in place of images, where no sample is rebuilt from itself.

        Args:
            latents: Where they are; None: batches hold images.
        """
        super().serve_latents(None if self.reconstruction_probability else latents)

    def images_without_latents(self, latents: LatentFiles) -> Iterator[tuple[str, np.ndarray]]:
        """Yield key and uint8 [3, height, width] of what the next epoch reads latents of.

        Args:
            latents: Where they would be.
        """
        if not self.reconstruction_probability:
            yield from super().images_without_latents(latents)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move the files of a batch; requests and seeds stay where they are."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if isinstance(moved, list):
            return moved
        names = [name for role in SUBJECT_ROLES for name in (role, f"has_{role}") if name in moved]
        return {**moved, **{name: moved[name].to(device, non_blocking=True) for name in names}}

    def _requests(self, prompts: Sequence[Prompt]) -> list[ImageRequest]:
        """Ask for held-out prompts with their files."""
        files = self.held_out_files()
        return [
            replace(request, files=files.get(request.request_id, {}))
            for request in requests_for(prompts, self.image_size_px, self.seed)
        ]

    def _open(self) -> RevisionReader:
        reader = super()._open()
        if self._checked != reader.revision_sha:
            revision = RevisionFiles(self.data_root).load(reader.revision_sha)
            for entry in revision.state.entries.values():
                for sample in entry.samples if entry.state in ("live", "mastered") else ():
                    _check(sample, revision.places[sample.key], self.cut_out)
            self._checked = reader.revision_sha
        return reader


def collate_pairs(
    samples: Sequence[dict[str, Any]], reconstruction_probability: float, reference_px: int
) -> dict[str, Any]:
    """Make a batch of subject pairs: a role that some samples lack is filled, and `has_<role>` says which have it.

    Args:
        samples: Decoded.
        reconstruction_probability: Share that is rebuilt from itself; which, follows from the seed of the sample.
        reference_px: Side of references.
    """
    made = [
        reconstructed(sample, reference_px) if _is_rebuilt(sample, reconstruction_probability) else sample
        for sample in samples
    ]
    for sample in made:
        _check_pixels(sample)
    filled: list[dict[str, Any]] = [dict(sample) for sample in made]
    for sample in filled:
        if SUBJECT_BOX in sample:
            sample[SUBJECT_BOX] = sample[SUBJECT_BOX].astype(np.float32)  # whoever wrote it chose a precision
    for role in SUBJECT_ROLES:
        like = next((sample[role] for sample in filled if role in sample), None)
        if like is None or all(role in sample for sample in filled):
            continue
        nothing = np.full_like(like, np.nan if like.dtype.kind == "f" else 0)
        for sample in filled:
            sample[f"has_{role}"] = np.array(role in sample)
            sample.setdefault(role, nothing)
    return collate(filled)


def reconstructed(sample: Mapping[str, Any], reference_px: int) -> dict[str, Any]:
    """Return a sample whose one reference is its own image, with the subject's box as the mask.

    Args:
        sample: Decoded, with its image.
        reference_px: Side of references.
    """
    references = {role for reference in REFERENCES for role in (reference, mask_of(reference))}
    kept = {name: value for name, value in sample.items() if name not in references}
    picture = fit_square(np.moveaxis(sample[IMAGE_ROLE], 0, 2), reference_px)
    box = sample.get(SUBJECT_BOX)
    known = box is not None and not np.isnan(box).any()
    left, top, right, bottom = box if known and box is not None else (0.0, 0.0, 1.0, 1.0)
    mask = np.zeros((1, reference_px, reference_px), np.uint8)
    columns, rows = (_pixels(low, high, reference_px) for low, high in ((left, right), (top, bottom)))
    mask[0, rows, columns] = 255
    whole = {} if known else {SUBJECT_BOX: np.array([0, 0, 1, 1], np.float32)}
    return {**kept, **whole, REFERENCES[0]: np.moveaxis(picture, 2, 0), mask_of(REFERENCES[0]): mask}


def _pixels(low: float, high: float, side_px: int) -> slice:
    first = min(side_px - 1, round(low * side_px))
    return slice(first, max(first + 1, round(high * side_px)))


def _is_rebuilt(sample: Mapping[str, Any], probability: float) -> bool:
    if not probability or IMAGE_ROLE not in sample:
        return False
    return bool(seed_of("reconstruction", int(sample["sample_seed"])) % 2**32 < probability * 2**32)


def _check_pixels(sample: Mapping[str, Any]) -> None:
    """Refuse a mask that shows nothing, and a box off the image; the error names the sample."""
    try:
        for role in (MASK, *map(mask_of, REFERENCES)):
            if role in sample:
                check_mask(sample[role][0], role, sample[role].shape[1:], "picture")
        if SUBJECT_BOX in sample:
            check_box(sample[SUBJECT_BOX].tolist())
    except UserError as error:
        raise UserError(f"The sample {sample['key']!r} cannot be trained on. {error}") from error


def _check(sample: Sample, place: Place, cut_out: bool) -> None:
    """Refuse what the sizes and names of a sample's files already tell."""
    files: Mapping[str, FileRef] = sample.files
    image_px = place.height_px, place.width_px
    try:
        check_references(files)
        check_edit(files)
        for role in REFERENCES:
            if mask_of(role) in files and role in files:
                _check_size(files[mask_of(role)], mask_of(role), (files[role].height_px, files[role].width_px), role)
            elif cut_out and role in files:
                raise UserError(
                    f"Its {role} has no {mask_of(role)}, and cut_out is true: each reference needs a mask of its "
                    f"subject. Give the role {mask_of(role)}, or write cut_out: false."
                )
        for role in (MASK, SOURCE, DEPTH):
            if role in files:
                _check_size(files[role], role, image_px, IMAGE_ROLE)
        if SUBJECT_BOX in files and place.height_px != place.width_px:
            raise UserError(
                f"Its image has {place.width_px} x {place.height_px} px, and cropping it to a square would move the "
                "subject_box. Allowed with a box are square images. Crop the image first."
            )
    except UserError as error:
        raise UserError(f"The sample {sample.key!r} cannot be trained on. {error}") from error


def _check_size(file: FileRef, role: str, picture_px: tuple[int, int], of: str) -> None:
    if (file.height_px, file.width_px) != picture_px:
        raise UserError(
            f"Its {role} has {file.width_px} x {file.height_px} px, its {of} {picture_px[1]} x {picture_px[0]} px "
            f"(width x height). Both must have one size. Scale the {role}."
        )
