"""Whether the record of pairs agrees with the files that it names."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

from evolvedirector.pairs.pair_book import FILE, PairBook
from evolvedirector.store import StoreError

_RESTORE = "Restore it from a copy of the root. Training needs none of it; a build without it makes everything anew."


def damages_of_pairs(root: Path, blobs: Collection[str], packed: Collection[str]) -> Iterator[tuple[Path, str, str]]:
    """Yield the path of the record, what is wrong, and what to do; nothing where a root has no pairs.

    Args:
        root: Of the dataset.
        blobs: Sha256 of every blob that is there with its own content.
        packed: Sha256 of every file that a revision names; it lies in a shard.
    """
    path = root / FILE
    if not path.exists():
        return
    try:
        with PairBook.for_reading(root) as book:
            for line in book.problems():
                yield path, f"SQLite says: {line}", _RESTORE
            waiting = book.unpublished()
            files = {row.pair_id: {str(file["sha256"]) for file in row.body["files"].values()} for row in waiting}
            if torn := [pair_id for pair_id, shas in files.items() if not shas <= set(blobs)]:
                what = f"{len(torn)} kept pairs that no revision has yet, such as {torn[0]}, lack files in blobs/"
                yield path, what, "Give the same `evolvedirector pairs build` again: it makes them anew."
            if gone := sorted({sha for sha in book.files() if sha not in blobs}):
                kept = sum(sha in packed for sha in gone)
                what = (
                    f"{len(gone)} files that stages made, such as {gone[0][:12]}, are not in blobs/ whole; {kept} of "
                    "them are still in shards"
                )
                yield path, what, "Restore blobs/ from a copy of the root; a build that needs one makes it anew."
    except (StoreError, sqlite3.DatabaseError) as error:
        yield path, str(error), _RESTORE
