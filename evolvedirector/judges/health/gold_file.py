"""A gold set that people labelled, as a list beside its images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evolvedirector.judges.health.gold import check_gold
from evolvedirector.records import MAX_PROMPT_CHARACTERS, GoldItem, digest
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import MAX_IMAGE_BYTES, check_image
from evolvedirector.store.paths import user_path

MAX_ITEMS = 2000
"""Each is asked once per run; 200 tell 5 % of error from 10 %."""
MAX_LIST_BYTES = 16 * 2**20
MAX_TOTAL_BYTES = 2**30
"""Of all images together: they stay in memory."""
_MAX_LISTED = 20


class GoldFile:
    """Read a gold set from a list: one JSON object per line with `image`, `prompt` and `shows`.

    For example `{"image": "images/0001.png", "prompt": "a red circle", "shows": false}`; other fields are ignored.

    Args:
        path: A `.jsonl` file, at most 2000 lines; image paths in it are relative to its folder and stay inside.
            It is read when the items are first asked for.
    """

    def __init__(self, path: str) -> None:
        self.path = str(user_path(path))
        self._items: tuple[GoldItem, ...] | None = None

    def items(self) -> Sequence[GoldItem]:
        """List the items in the order of the file, read and checked once.

        Raises:
            StoreError: The list cannot be read, or some lines cannot be used; all such lines are named.
            ValueError: The set is empty or has one answer only.
        """
        if self._items is None:
            items = self._read()
            check_gold(items)
            self._items = items
        return self._items

    def _read(self) -> tuple[GoldItem, ...]:
        folder = Path(self.path).resolve().parent
        items: dict[str, GoldItem] = {}
        problems: list[str] = []
        total_bytes = 0
        lines = self._lines()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                item = _item(line, folder)
                total_bytes += len(item.image)
                _refuse_contradiction(items.get(item.item_id), item)
                items[item.item_id] = item
            except StoreError as error:
                problems.append(f"line {number}: {error}")
            if total_bytes > MAX_TOTAL_BYTES:
                raise StoreError(
                    f"The images of the gold set '{self.path}' have over {MAX_TOTAL_BYTES} bytes by line {number}. "
                    "Allowed is that much in all. Make them smaller, or list fewer."
                )
        if problems:
            raise StoreError(
                f"{len(problems)} of {len(lines)} lines of the gold set '{self.path}' cannot be used. Allowed are "
                "lines with image, prompt and shows. Correct or remove them.\n" + "\n".join(problems[:_MAX_LISTED])
            )
        return tuple(items.values())

    def _lines(self) -> list[str]:
        wanted = 'Name a UTF-8 file with one {"image": ..., "prompt": ..., "shows": true} per line.'
        try:
            size = Path(self.path).stat().st_size
            if size > MAX_LIST_BYTES:
                raise StoreError(f"The gold set '{self.path}' has {size} bytes. Allowed are {MAX_LIST_BYTES}. {wanted}")
            lines = Path(self.path).read_text("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"The gold set '{self.path}' cannot be read: {error}. {wanted}") from error
        if len(lines) > MAX_ITEMS + 1:  # the last line end opens an empty line
            raise StoreError(f"The gold set '{self.path}' has {len(lines)} lines. Allowed are {MAX_ITEMS}. List fewer.")
        return lines


def _item(line: str, folder: Path) -> GoldItem:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"this is no JSON object: {error}.") from error
    if not isinstance(fields, dict):
        raise StoreError("this is no JSON object with `image`, `prompt` and `shows`.")
    name = _field(fields, "image", str, "the path of an image beside the list")
    prompt = " ".join(_field(fields, "prompt", str, "the text asked about").split())
    shows = _field(fields, "shows", bool, "true or false")
    if not 0 < len(prompt) <= MAX_PROMPT_CHARACTERS:
        raise StoreError(f"the prompt has {len(prompt)} characters. Allowed are 1 to {MAX_PROMPT_CHARACTERS}.")
    image = _image(name, folder)
    return GoldItem(digest("gold", prompt, hashlib.sha256(image).hexdigest()), image, prompt, shows)


def _field(fields: dict[str, Any], name: str, kind: type, meaning: str) -> Any:
    value = fields.get(name)
    if not isinstance(value, kind):
        raise StoreError(f"`{name}` is {json.dumps(value)[:80]}. Allowed is {meaning}.")
    return value


def _image(name: str, folder: Path) -> bytes:
    try:
        path = (folder / name).resolve()  # follows links, so that none leads outside either
        if not path.is_relative_to(folder):
            raise StoreError(f"the image {name[:200]!r} lies outside of the folder of the list. Move it inside.")
        size = path.stat().st_size
        if not path.is_file() or size > MAX_IMAGE_BYTES:
            raise StoreError(f"the image {name[:200]!r} is no file of at most {MAX_IMAGE_BYTES} bytes.")
        image = path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"the image {name[:200]!r} cannot be read: {error}.") from error
    check_image(image)
    return image


def _refuse_contradiction(known: GoldItem | None, item: GoldItem) -> None:
    if known is not None and known.shows != item.shows:
        raise StoreError(f"an earlier line has the same image with {item.prompt[:80]!r} and the other answer.")
