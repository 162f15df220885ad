"""The card of a dataset root: a README.md by which Hugging Face `datasets` reads the shards, and nothing else.

Without one, `load_dataset(root)` takes every picture below the root for the dataset, drawings of the student in `blobs`
included. The front matter names the tars of samples alone (companions hold files of samples that lie in others) and
states the columns: those that a loader would infer from the first samples of the first tar are wrong as soon as another
teacher sends another format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from evolvedirector.records import FileRef
from evolvedirector.store.durable import write_durably
from evolvedirector.store.files import extension_of
from evolvedirector.store.images import EXTENSIONS
from evolvedirector.store.shards import DESCRIPTION

CARD = "README.md"
_TYPES = {**dict.fromkeys(EXTENSIONS, "image"), "txt": "string", "safetensors": "binary"}
"""Type of a column by extension. Arrays and JSON are left out: their shapes are the user's own."""
_MAX_CARD_BYTES = 2**20
_ROLE_COLUMN = re.compile(r"^  - name: (\w+\.\w+)$", re.MULTILINE)

_TEXT = """
# A dataset that evolves

Written by evolvedirector, and written again when a new kind of file enters, unless you have changed it.

- `shards/r*.tar` are WebDataset tars: one picture a sample (`png`, `jpg` or `webp`; the other two columns are empty),
  its prompt in `txt`, and where it came from in `json`.
- A tar never changes, so it keeps what later revisions replaced or retired. `evolvedirector data keys ROOT` lists the
  samples of the newest revision: compare them with `__key__`.
- `shards/c*.tar` are files derived later, joined to samples by key. `blobs/` are the images by content, those that were
  only looked at included. Neither is the dataset.
"""


def card(columns: Iterable[str] = (), shards: str = "shards/r*.tar", text: str = _TEXT) -> str:
    """Write the card.

    Args:
        columns: Further files that samples have, as their members are named (`mask.png`). Empty: pictures alone.
        shards: Which tars hold samples.
        text: What follows the front matter.
    """
    named = [(n, _TYPES[n.rpartition(".")[2]]) for n in sorted(columns) if n.rpartition(".")[2] in _TYPES]
    pictures = [(extension, "image") for extension in EXTENSIONS]
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        f"    path: {shards}",
        "dataset_info:",
        "  features:",
        *(line for name, kind in [*pictures, ("txt", "string"), *named] for line in _column(name, kind)),
        "  - name: json",
        "    struct:",
        *(f"  {line}" for name in DESCRIPTION for line in _column(name, "string")),
        *(line for name in ("__key__", "__url__") for line in _column(name, "string")),
        "---",
    ]
    return "\n".join(lines) + "\n" + text


def _column(name: str, kind: str) -> list[str]:
    return [f"  - name: {name}", f"    dtype: {kind}"]


def keep_card(root: Path, files: Iterable[Mapping[str, FileRef]]) -> None:
    """Write the card of a root if there is none, or if samples have files that the one which we wrote does not name.

    A card that anybody has changed stays as it is.

    Args:
        root: The dataset root.
        files: Further files of the samples of a revision, by role.

    Raises:
        DiskFullError: If the disk is full.
    """
    names = {f"{role}.{extension_of(ref.media_type)}" for roles in files for role, ref in roles.items()}
    columns = {name for name in names if name.rpartition(".")[2] in _TYPES}
    path = root / CARD
    if path.exists() or path.is_symlink():
        text = path.read_bytes()[:_MAX_CARD_BYTES].decode("utf-8", "replace") if path.is_file() else ""
        before = set(_ROLE_COLUMN.findall(text))  # a fork may not have them, but the tars do
        if columns <= before or text != card(before):
            return
        columns |= before
    write_durably(path, card(columns).encode())
