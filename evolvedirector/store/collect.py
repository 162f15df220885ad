"""Garbage collection: what no kept revision and no book of a root names is deleted, and nothing else.

First it is noted which revisions lose files (their own small files stay: they are the history), then shards go, then
blobs, then what stopped writers left. Ended anywhere, the next collection goes on from there; nothing that is kept is
touched on the way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evolvedirector.store.dataset import check_format, lock_root
from evolvedirector.store.durable import delete_files
from evolvedirector.store.embeddings import FOLDER as EMBEDDINGS
from evolvedirector.store.errors import StoreError
from evolvedirector.store.keyed_files import SUFFIXES
from evolvedirector.store.naming import (
    KeptRevisions,
    blobs_of,
    blobs_of_books,
    checkpointed,
    kept_revisions,
    note_collected,
    noted_runs,
    shards_of,
)
from evolvedirector.store.paths import user_path
from evolvedirector.store.revision import RevisionFiles

LAST_REVISIONS = 8
GarbageKind = Literal["shard", "derived", "blob", "cache", "leftover"]
"""A shard of samples / of files derived from samples / a file by content / a cache / of a stopped writer."""
_CACHES = ("caches", EMBEDDINGS)
_SHA256_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Garbage:
    """A file that goes."""

    kind: GarbageKind
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection deletes, and whom it spares.

    Args:
        garbage: In the order in which it goes.
        kept: Revisions that keep all their files, with why.
        losing: Revisions that lose files by it, by sha.
        runs: Run folders whose checkpoints were asked.
        named_but_gone: Revisions that a checkpoint names and that an earlier collection took the files of.
    """

    garbage: tuple[Garbage, ...]
    kept: dict[str, str]
    losing: tuple[str, ...]
    runs: tuple[Path, ...]
    named_but_gone: tuple[str, ...]

    def size_bytes(self, kind: GarbageKind | None = None) -> int:
        """Sum the bytes of a kind, or of all."""
        return sum(item.size_bytes for item in self.garbage if kind in (None, item.kind))


def collect(
    root: str | Path,
    last: int = LAST_REVISIONS,
    runs: Sequence[str | Path] = (),
    forget_missing_runs: bool = False,
    caches: bool = False,
    dry_run: bool = False,
) -> Collection:
    """Delete what nothing names; returns what went, or would go.

    Args:
        root: The dataset root; nobody else may write to it.
        last: How many of the newest revisions keep their files, whatever names them.
        runs: Further run folders whose checkpoints are to be asked, beside those that the root knows of.
        forget_missing_runs: Go on where a run folder that the root knows of is no longer there.
        caches: Delete caches, too, and embeddings that no revision holds yet: all of it can be computed again.
        dry_run: Delete nothing.

    Raises:
        StoreError: Another process writes to the root, or it cannot be said for sure what is named.
    """
    root = user_path(root)
    check_format(root)
    if last < 1:
        raise StoreError(f"{last} revisions would be kept. At least the newest one is. Write 1 or more.")
    lock = lock_root(root)
    try:
        asked = _run_folders(root, runs, forget_missing_runs)
        files = RevisionFiles(root)
        known = files.shas()
        named = set[str]()
        for folder, deep in asked.items():
            named |= checkpointed(folder, known, deep)
        kept = kept_revisions(files, named, last)
        found = list(_planned(root, files, kept, caches))
        gone = tuple(sorted(named & kept.collected))
        plan = Collection(tuple(found), dict(kept.kept), _losing(files, kept, known, found), tuple(asked), gone)
        if not dry_run and plan.garbage:
            note_collected(root, plan.losing)
            delete_files(item.path for item in plan.garbage)
        return plan
    finally:
        os.close(lock)


def _run_folders(root: Path, runs: Sequence[str | Path], forget_missing: bool) -> dict[Path, bool]:
    """List the run folders to ask, each with whether it is searched at any depth."""
    around, *noted = noted_runs(root)
    given = [user_path(folder).resolve() for folder in runs]
    missing = [folder for folder in noted if not folder.is_dir()]
    for folder in given:
        if not folder.is_dir():
            raise StoreError(f"The run folder '{folder}' is not there. Name one that is, with its checkpoints in it.")
    if missing and not forget_missing:
        raise StoreError(
            f"The run folder '{missing[0]}' trained on '{root}' and is not there now. What its checkpoints name must be"
            " known before anything is deleted. Name its new place with `--runs FOLDER --forget-missing-runs`, or give"
            " `--forget-missing-runs` alone if it was deleted."
        )
    return {around: False} | {folder: True for folder in (*noted, *given) if folder.is_dir()}


def _losing(
    files: RevisionFiles, kept: KeptRevisions, known: Sequence[str], garbage: Sequence[Garbage]
) -> tuple[str, ...]:
    """Name the revisions that are not whole once the garbage is gone."""
    shards = {item.path.stem for item in garbage if item.kind in ("shard", "derived")}
    rest = [sha for sha in known if sha not in kept.kept and sha not in kept.collected]
    return tuple(sha for sha in rest if shards_of(files.load(sha)) & shards)


def _planned(root: Path, files: RevisionFiles, kept: KeptRevisions, caches: bool) -> Iterator[Garbage]:
    revisions = [files.load(sha) for sha in kept.kept]
    shards = {name for revision in revisions for name in shards_of(revision)}
    books, current = blobs_of_books(root), files.current()
    if current is not None and current not in books:  # it is written there before it is named
        raise StoreError(
            f"'{root / 'ledger.sqlite'}' knows nothing of revision {current[:12]}, so nobody knows which files were "
            "paid for. Nothing is deleted. Restore the ledger of the same day as the revisions."
        )
    blobs = books | {name for revision in revisions for name in blobs_of(revision)}
    for path in sorted((root / "shards").glob("*")):
        if path.suffix in (".tar", ".index") and not path.name.startswith(".") and path.stem not in shards:
            yield _garbage("derived" if path.name.startswith("c") else "shard", path)
    for path in sorted((root / "blobs").glob("??/*")):
        if not path.name.startswith(".") and len(path.stem) == _SHA256_CHARACTERS and path.stem not in blobs:
            yield _garbage("blob", path)
    for folder in ("", "shards", "revisions", "blobs/*"):  # notes of runs are written beside others, without a lock
        for pattern in (".*.tmp.*", ".*.writing"):
            yield from (_garbage("leftover", path) for path in sorted(root.glob(f"{folder}/{pattern}".lstrip("/"))))
    for name in _CACHES if caches else ():
        below = sorted((root / name).rglob("*"))
        yield from (_garbage("cache", path) for path in below if path.suffix in SUFFIXES and path.is_file())


def _garbage(kind: GarbageKind, path: Path) -> Garbage:
    return Garbage(kind, path, path.stat().st_size)
