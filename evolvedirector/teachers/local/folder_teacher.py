"""A teacher that answers with pictures from a folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.store.captions import CaptionFiles, caption_beside
from evolvedirector.store.errors import StoreError
from evolvedirector.store.left_out import first_lines
from evolvedirector.store.paths import matching_files, user_path
from evolvedirector.store.pictures import kept_picture, picture_extensions, refuse_large
from evolvedirector.store.prompt_fields import checked_prompt, record_text
from evolvedirector.teachers.local.prompt_index import Fit, Given, PromptIndex, check_fit, index_of

_FILE_WORDS = ("file_name", "image", "path")


class FolderTeacher:
    """Answer with images you already have, looked up by prompt: a bought collection, an older run, another team's.

    A prompt is found whatever its case, articles and white space; several pictures of one prompt are chosen by the
    request's seed. A prompt without a picture is a refusal, so that the next teacher is asked. Links that lead out of
    the folder are not followed.

    Example:
        ```yaml
        teachers:
          archive:
            class_path: evolvedirector.teachers.FolderTeacher
            init_args: {path: pictures, captions: metadata.jsonl}
        ```
    """

    def __init__(self, path: str, captions: str | None = None, fit: Fit = "crop") -> None:
        """Name the folder; it is read at the first use.

        Args:
            path: The folder; folders below it count.
            captions: File in the folder, `.jsonl` or `.csv`, that names pictures (`file_name`, `image` or `path`,
                relative to the folder) and their captions (`prompt`, `text` or `caption`). None: each picture has a
                `.txt` or `.json` of the same name beside it, read as an import reads it.
            fit: `crop` scales and crops a picture to the size asked for; `keep` hands its bytes on as they are.

        Raises:
            ValueError: `fit` is no such word.
        """
        check_fit(fit)
        self.path, self.captions, self.fit = user_path(path), captions, fit

    @property
    def fingerprint(self) -> str:
        """Name the pictures by names, sizes and captions, and what is done with them."""
        return f"folder {self.path.name} {self._index.content} {self.fit}"

    def verify(self) -> None:
        """Check that the folder has pictures with captions.

        Raises:
            UserError: With what is missing.
        """
        if not self._index.images:
            how = f"a line in '{self.captions}'" if self.captions else "a .txt or .json with its caption beside it"
            raise UserError(
                f"The folder '{self.path}' has no picture that can be found. Allowed are pictures in a form that "
                f"Pillow reads, each with {how}. Add captions.\n"
                f"{first_lines(self._index.left_out)}".rstrip()
            )

    def price_usd(self) -> float | None:
        """Return the price of one image in US dollars: none, it is there."""
        return 0.0

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one reply per request, in order.

        Args:
            requests: any prompts; those without a picture are refused.
        """
        yield from self._index.replies(requests, self._read, self.fit)

    def close(self) -> Any:
        """Do nothing: only captions are kept in memory."""

    @cached_property
    def _index(self) -> PromptIndex[str]:
        if not self.path.is_dir():
            raise UserError(f"'{self.path}' is no folder. Allowed is a folder with pictures. Correct `path`.")
        problems: list[str] = []
        listed = self._beside(problems) if self.captions is None else self._listed(self.captions, problems)
        return index_of(listed, problems, str(self.path), "pictures")

    def _beside(self, problems: list[str]) -> Iterator[Given[str]]:
        """List the pictures with a caption file beside them; what a link leads to outside is named, not read."""
        captions = CaptionFiles()
        for path in matching_files(self.path, problems):
            if path.suffix[1:].lower() not in picture_extensions():
                continue
            relative = path.relative_to(self.path)
            try:
                files = [None if file is None else self._inside(file) for file in captions.beside(path)]
                yield self._given(relative.as_posix(), caption_beside(files).text)
            except (OSError, ValueError, StoreError) as error:
                problems.append(f"{relative}: {error}")

    def _listed(self, captions: str, problems: list[str]) -> Iterator[Given[str]]:
        for number, row in enumerate(_rows(self._inside(captions)), 1):
            try:
                name, caption = _first(row, _FILE_WORDS), record_text(row)
                yield self._given(name, caption)
            except (OSError, ValueError, StoreError) as error:
                problems.append(f"entry {number} of {captions}: {error}")

    def _given(self, name: str, caption: str) -> Given[str]:
        size_bytes = self._inside(name).stat().st_size
        refuse_large(name, size_bytes)
        return Given(name, size_bytes, checked_prompt(caption).text, name)

    def _inside(self, name: str | Path) -> Path:
        """Return the file of a name that lies in the folder, links resolved.

        Args:
            name: Relative to the folder, or the path of a file that was found below it.

        Raises:
            StoreError: It leads out of the folder, or is no file.
        """
        if isinstance(name, Path):
            name = name.relative_to(self.path).as_posix()
        else:
            name = name.replace("\\", "/")
        relative, root = PurePosixPath(name), self.path.resolve()
        found = (root / relative).resolve()
        if relative.is_absolute() or ".." in relative.parts or "\0" in name or not found.is_relative_to(root):
            raise StoreError(
                f"'{name}' leads out of the folder '{self.path}'. Allowed are paths inside. Name a file below it."
            )
        if not found.is_file():
            raise StoreError(f"'{name}' is no file in '{self.path}'. Allowed are files below it. Correct its name.")
        return found

    def _read(self, name: str) -> bytes:
        file = self._inside(name)  # again: the folder may have changed since it was listed
        refuse_large(name, file.stat().st_size)
        return kept_picture(file.read_bytes(), file.suffix[1:], read_whole=False)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Read a list of captions line by line."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix.lower() == ".csv":
                yield from csv.DictReader(lines)
            elif file.suffix.lower() == ".jsonl":
                for line in lines:
                    if line.strip():
                        row = json.loads(line)
                        yield row if isinstance(row, dict) else {}
            else:
                raise StoreError(f"captions is '{file.name}'. Allowed are .jsonl and .csv. Convert it to one of them.")
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, csv.Error) as error:
        raise StoreError(f"The captions '{file}' cannot be read: {error}. Allowed is UTF-8. Correct it.") from error


def _first(row: dict[str, Any], words: Sequence[str]) -> str:
    value = next((row[word] for word in words if isinstance(row.get(word), str)), None)
    if value is None:
        raise StoreError(f"it has none of {', '.join(words)}")
    return value
