"""The live set of a revision as a plain, frozen WebDataset, for those who train with something else."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evolvedirector.records import IMAGE_ROLE
from evolvedirector.records.subset import EVERYTHING, Subset
from evolvedirector.store.card import CARD, card
from evolvedirector.store.durable import make_folder, move_durably, write_durably, writing
from evolvedirector.store.errors import StoreError
from evolvedirector.store.files import split_member
from evolvedirector.store.reader import RevisionReader

SHARDS = "train-*.tar"

_TEXT = """
# A frozen dataset

The {count:,} samples that revision {number} ({sha}) of an evolving dataset trains on, written by evolvedirector.

- `{shards}` are WebDataset tars: one picture a sample (`png`, `jpg` or `webp`; the other two columns are empty), its
  prompt in `txt`, and where it came from in `json`: prompt id, origin, parent, skill, and who drew it.
- The images are those of their makers, whose terms hold: look at `json` for who that is.

```python
from datasets import load_dataset

dataset = load_dataset("this folder", split="train")
```
"""


def freeze(
    root: Path,
    revision_sha: str,
    out: Path,
    roles: Sequence[str] = (IMAGE_ROLE,),
    samples_per_shard: int = 1000,
    subset: Subset = EVERYTHING,
    about: str = "",
) -> int:
    """Write what a revision trains on into a new folder, as tars and a card; returns the number of samples.

    Every byte is compared with the sha256 it was kept under. The folder appears whole or not at all.

    Args:
        root: The dataset root.
        revision_sha: Which revision; at least 6 characters of it.
        out: A new folder.
        roles: Files to write of each sample.
        samples_per_shard: Of each tar but the last.
        subset: Samples to write.
        about: Markdown that the card says of them besides.

    Raises:
        StoreError: The folder is there, there is nothing to write, a sample lacks a role or is damaged.
        DiskFullError: The disk is full.
    """
    if samples_per_shard < 1:
        raise StoreError(f"samples_per_shard is {samples_per_shard}. Allowed: 1 or more. Write 1000, say.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"'{out}' is there and not empty. A frozen dataset goes into a new folder. Name another.")
    reader = RevisionReader(root, revision_sha, roles, subset=subset)
    if len(reader) == 0:
        raise StoreError(f"Revision {reader.number} of '{root}' trains on no sample, so there is nothing to write.")
    partial = out.parent / f"{out.name}.tmp.{uuid.uuid4().hex[:8]}"
    make_folder(partial)
    try:
        columns: set[str] = set()
        shards = -(-len(reader) // samples_per_shard)
        for shard in range(shards):
            rows = range(shard * samples_per_shard, min((shard + 1) * samples_per_shard, len(reader)))
            columns |= _write_tar(partial / f"train-{shard:06d}-of-{shards:06d}.tar", reader, rows)
        text = _TEXT.format(number=reader.number, sha=reader.revision_sha[:12], count=len(reader), shards=SHARDS)
        write_durably(partial / CARD, card(columns, SHARDS, f"{text}\n{about}" if about else text).encode())
        if out.exists():
            out.rmdir()
        move_durably(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        reader.close()
    return len(reader)


def _write_tar(path: Path, reader: RevisionReader, rows: Sequence[int]) -> set[str]:
    """Write one tar; returns the names of the further files in it, without keys."""
    import webdataset  # brings torch with it, so only where something is written

    found: set[str] = set()
    with writing(path) as file, webdataset.TarWriter(file, encoder=False, mtime=0) as writer:
        for row in rows:
            sample: dict[str, Any] = reader.raw(row, verify=True)
            writer.write(sample)
            found.update(name for name in sample if split_member(name)[0] not in ("", IMAGE_ROLE))
    return found
