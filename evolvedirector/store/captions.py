"""One rule for captions, wherever they lie: beside a picture or in a tar, for an import or for a teacher.

| what is there | what becomes of it |
|---|---|
| a byte order mark of UTF-8 | is no part of the caption |
| CRLF, tabs, U+2028, U+0085, several lines | white space: one space each, so a caption is one line |
| Latin-1, or any bytes that are not UTF-8 | refused, with the first such byte; never guessed |
| UTF-16 or UTF-32 with its mark | refused, and named as what it is |
| half a character (a lone surrogate), NUL and other control characters | refused by `checked_prompt` |
| a text that is empty or white space alone | counts as not there: the caption comes from the JSON |
| JSON: a text under `prompt`, `text` or `caption` | the first that is not empty is the caption |
| JSON: a list, number, `true`, `null`, `NaN` or object there | is no caption; the reason quotes it |
| JSON: a value that is no object (a list of boxes) | has no fields; a text beside it still counts |
| JSON that cannot be parsed, or is nested too deeply | refused, also beside a good text: it may name a skill |
| `skill`: missing, `null` or empty | `unlabelled` |
| `skill`: anything else that is no text | refused |

*Refused* means that the sample is left out and named with the reason, not that an import ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evolvedirector.records import UNLABELLED
from evolvedirector.store.errors import StoreError
from evolvedirector.store.prompt_fields import decoded_text, record_skill, record_text

MAX_CAPTION_BYTES = 2**20
CAPTION_SUFFIXES = (".txt", ".json")


class Caption(NamedTuple):
    """What a picture shows, in words, and the skill it is counted under."""

    text: str
    skill: str = UNLABELLED


def caption_of(txt: bytes | None, about: bytes | None) -> Caption:
    """Read the caption of one picture from its text file, else from its JSON; the skill is the JSON's.

    Args:
        txt: Content of the `txt`; None: there is none.
        about: Content of the `json`; None: there is none.

    Raises:
        StoreError: With the reason for which the picture has no caption, by the table above.
    """
    record = {} if about is None else _record(about)
    text = "" if txt is None else one_line(caption_text(txt, "its txt"))
    try:
        skill = one_line(record_skill(record)) or UNLABELLED
        if not text and about is not None:
            text = one_line(record_text(record))
    except ValueError as error:
        raise StoreError(f"its json: {error}") from error
    if not text:
        raise StoreError("it has no caption" if txt is None else "it has no caption: its txt is empty")
    return Caption(text, skill)


class CaptionFiles:
    """Find the files with the caption of a picture in its folder, each folder listed once.

    They have the picture's name with `.txt` or `.json`, in any case, as its last suffix.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, dict[str, Path]]] = {}

    def beside(self, picture: Path) -> tuple[Path | None, Path | None]:
        """Return the `.txt` and the `.json` of a picture, each None where there is none.

        Raises:
            StoreError: If there is neither.
            OSError: If the folder cannot be listed.
        """
        if picture.parent not in self._folders:
            self._folders[picture.parent] = _by_stem(picture.parent)
        found = self._folders[picture.parent].get(picture.stem, {})
        if not found.keys() & set(CAPTION_SUFFIXES):
            others = [path.name for path in found.values() if path.suffix.lower() != picture.suffix.lower()]
            hint = f" ('{others[0]}' is not read)" if others else ""
            raise StoreError(f"it has no caption; write one into '{picture.stem}.txt' beside it{hint}")
        return found.get(".txt"), found.get(".json")


def caption_beside(files: Sequence[Path | None]) -> Caption:
    """Read the caption of a picture from what `CaptionFiles.beside` found.

    Raises:
        StoreError: If there is none that can be read.
        OSError: If a file cannot be opened.
    """
    for path in files:
        if path is not None and (size_bytes := path.stat().st_size) > MAX_CAPTION_BYTES:
            raise StoreError(f"'{path.name}' has {size_bytes} bytes; at most {MAX_CAPTION_BYTES} are allowed")
    return caption_of(*(None if path is None else path.read_bytes() for path in files))


def _by_stem(folder: Path) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        found.setdefault(path.stem, {})[path.suffix.lower()] = path
    return found


def caption_text(data: bytes, what: str) -> str:
    """Decode what holds a caption.

    Args:
        data: At most `MAX_CAPTION_BYTES`.
        what: Names it in the error: `its txt`.

    Raises:
        StoreError: If it is too large or not UTF-8.
    """
    if len(data) > MAX_CAPTION_BYTES:
        raise StoreError(f"{what} has {len(data)} bytes; at most {MAX_CAPTION_BYTES} are allowed")
    try:
        return decoded_text(data).lstrip("\ufeff")
    except StoreError as error:
        raise StoreError(f"{what} cannot be read: {error}") from error


def one_line(text: str) -> str:
    """Make every run of white space, line ends among them, one space."""
    return " ".join(text.split())


def _record(about: bytes) -> Mapping[str, Any]:
    text = caption_text(about, "its json")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise StoreError(f"its json cannot be read: {error}") from error
    except RecursionError as error:
        raise StoreError("its json cannot be read: it is nested too deeply") from error
    return value if isinstance(value, dict) else {}
