"""A teacher that answers with pictures from WebDataset tars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from evolvedirector.errors import UserError
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import MAX_IMAGE_BYTES
from evolvedirector.store.left_out import first_lines
from evolvedirector.store.paths import matching_files
from evolvedirector.store.pictures import kept_picture, refuse_large
from evolvedirector.store.prompt_fields import checked_prompt
from evolvedirector.store.tar_stream import Span, TarSample, read_span, tar_caption, tar_samples
from evolvedirector.teachers.local.prompt_index import Fit, Given, PromptIndex, check_fit, index_of


class Picture(NamedTuple):
    """Place of a picture, and the extension of its name."""

    span: Span
    extension: str


class WebDatasetTeacher:
    """Answer with images from WebDataset tars, looked up by prompt; nothing is unpacked or unpickled.

    The tars are listed once: captions go into memory, of a picture only its place. They are read as an import reads
    them: the caption of a sample is its `txt` member, or `prompt`, `text` or `caption` of its `json` member, and what
    cannot be used is named in a warning. Otherwise it behaves like `FolderTeacher`.

    Example:
        ```yaml
        teachers:
          archive:
            class_path: evolvedirector.teachers.WebDatasetTeacher
            init_args: {shards: 'archive/x-{000..009}.tar'}
        ```
    """

    def __init__(self, shards: str, fit: Fit = "crop") -> None:
        """Name the tars; they are listed at the first use.

        Args:
            shards: Local plain tars: a path, a folder, or a pattern such as `x-{000..009}.tar`.
            fit: `crop` scales and crops a picture to the size asked for; `keep` hands its bytes on as they are.

        Raises:
            ValueError: `fit` is no such word.
        """
        check_fit(fit)
        self.shards, self.fit = shards, fit

    @property
    def fingerprint(self) -> str:
        """Name the pictures by names, sizes and captions, and what is done with them."""
        return f"webdataset {Path(self.shards).name} {self._index.content} {self.fit}"

    def verify(self) -> None:
        """Check that the tars are whole and have pictures with captions.

        Raises:
            UserError: With what is missing.
        """
        if not self._index.images:
            raise UserError(
                f"The tars '{self.shards}' have no picture with a caption. Allowed are samples with a picture "
                f"and a txt or json member. Write them so.\n{first_lines(self._index.left_out)}".rstrip()
            )

    def price_usd(self) -> float | None:
        """Return the price of one image in US dollars: none, it is there."""
        return 0.0

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one reply per request, in order.

        Args:
            requests: any prompts; those without a picture are refused.
        """
        yield from self._index.replies(requests, _read, self.fit)

    def close(self) -> Any:
        """Do nothing: only captions are kept in memory."""

    @cached_property
    def _index(self) -> PromptIndex[Picture]:
        problems: list[str] = []
        try:
            paths = matching_files(self.shards, problems)
        except StoreError as error:
            raise UserError(str(error)) from error
        listed = (given for path in paths for given in _samples(str(path), problems))
        return index_of(listed, problems, self.shards, "samples")


def _samples(path: str, problems: list[str]) -> Iterator[Given[Picture]]:
    """List the captioned pictures of one tar."""
    for sample in tar_samples(path, problems):
        try:
            yield _given(sample)
        except (OSError, StoreError) as error:
            problems.append(f"{sample.where}: {error}")


def _given(sample: TarSample) -> Given[Picture]:
    if sample.picture is None:
        raise StoreError("it has no picture in a form that is read, such as png, jpg or webp")
    extension, span = sample.picture
    name = f"{Path(sample.path).name}:{sample.key}"
    refuse_large(name, span.size_bytes)
    caption = tar_caption(sample)
    return Given(name, span.size_bytes, checked_prompt(*caption).text, Picture(span, extension))


def _read(picture: Picture) -> bytes:
    return kept_picture(read_span(picture.span, MAX_IMAGE_BYTES), picture.extension, read_whole=False)
