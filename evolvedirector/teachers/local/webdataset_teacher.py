"""A teacher that answers with pictures from WebDataset tars."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from evolvedirector.errors import UserError
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.store.errors import StoreError
from evolvedirector.teachers.local.prompt_index import (
    CAPTION_WORDS,
    MAX_CAPTION_BYTES,
    Fit,
    Given,
    PromptIndex,
    check_fit,
    index_of,
    refuse_large,
)

_PICTURES = ("png", "jpg", "jpeg", "webp")


class Span(NamedTuple):
    """Bytes of one member within a tar."""

    path: str
    offset: int
    size_bytes: int


class WebDatasetTeacher:
    """Answer with images from WebDataset tars, looked up by prompt; nothing is unpacked or unpickled.

    The tars are listed once: captions go into memory, of a picture only its place. The caption of a sample is its
    `txt` member, or `prompt`, `text` or `caption` of its `json` member. Otherwise it behaves like `FolderTeacher`.

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
            shards: Local plain tars, with `{000..009}` expanded.
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
                f"The tars '{self.shards}' have no picture with a caption. Allowed are samples with a png, jpg or webp "
                "member and a txt or json member. Write them so."
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
    def _index(self) -> PromptIndex[Span]:
        import braceexpand

        try:
            paths = list(braceexpand.braceexpand(self.shards))
        except ValueError as error:
            raise UserError(
                f"shards is '{self.shards}': {error}. Allowed are names with ranges in braces. Write "
                "'x-{000..009}.tar', say."
            ) from error
        problems: list[str] = []
        listed = (given for path in paths for given in _samples(path, problems))
        return index_of(listed, problems, self.shards, "samples")


def _samples(path: str, problems: list[str]) -> Iterator[Given[Span]]:
    """List the captioned pictures of one tar; neighbours with the same key are one sample."""
    from webdataset.tariterators import base_plus_ext

    split = ((base_plus_ext(name), span) for name, span in _members(path))
    named = ((parts, span) for parts, span in split if parts[0] is not None)
    for key, members in groupby(named, lambda item: item[0][0]):
        parts = {extension.lower(): span for (_, extension), span in members}
        where = f"{Path(path).name}:{key}"
        try:
            picture = next((parts[kind] for kind in _PICTURES if kind in parts), None)
            if picture is None:
                raise StoreError("it has no png, jpg or webp member")
            refuse_large(where, picture.size_bytes)
            yield Given(where, picture.size_bytes, _caption(parts), picture)
        except StoreError as error:
            problems.append(f"{where}: {error}")


def _members(path: str) -> Iterator[tuple[str, Span]]:
    """List the plain files of a tar without reading their content."""
    if not Path(path).is_file():
        raise StoreError(
            f"The tar '{path}' does not exist. Only local files are read, such as 'x-{{000..009}}.tar'. Correct shards."
        )
    end = os.path.getsize(path)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.size < 0 or member.offset_data + member.size > end:  # the former leads back, for ever
                    raise tarfile.ReadError(f"'{member.name}' is cut short or damaged")
                if member.isreg() and not member.issparse():
                    yield member.name, Span(path, member.offset_data, member.size)
                tar.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise
    except (tarfile.TarError, ValueError) as error:
        raise StoreError(
            f"The tar '{path}' cannot be read: {error}. Allowed are whole plain tars. Restore it from a copy."
        ) from error


def _caption(parts: dict[str, Span]) -> str:
    for kind in ("txt", "json"):
        if kind not in parts:
            continue
        if parts[kind].size_bytes > MAX_CAPTION_BYTES:
            raise StoreError(f"its {kind} has {parts[kind].size_bytes} bytes. At most {MAX_CAPTION_BYTES} are allowed.")
        text = _read(parts[kind]).decode("utf-8-sig", "replace")
        caption = text if kind == "txt" else _caption_of(text)
        if caption.strip():
            return " ".join(caption.split())
    raise StoreError("it has no caption")


def _caption_of(text: str) -> str:
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    about = about if isinstance(about, dict) else {}
    return next((about[word] for word in CAPTION_WORDS if isinstance(about.get(word), str)), "")


def _read(span: Span) -> bytes:
    with open(span.path, "rb") as file:
        content = os.pread(file.fileno(), span.size_bytes, span.offset)
    if len(content) != span.size_bytes:
        raise StoreError(
            f"'{span.path}' has become shorter since it was listed. Allowed are tars that stay as they are. Restore it "
            "from a copy."
        )
    return content
