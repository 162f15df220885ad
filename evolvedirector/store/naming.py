"""What names what in a dataset root: revisions by checkpoints and by age, files by revisions and books.

Whoever deletes asks here first, so every doubt is on the side of keeping: a checkpoint names each revision whose sha
stands anywhere in its plain part or in the config of its run, and a book names each blob whose sha stands in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolvedirector.records import digest
from evolvedirector.store.delta import Revision
from evolvedirector.store.durable import make_folder, write_durably
from evolvedirector.store.errors import StoreError
from evolvedirector.store.revision import RevisionFiles

RUNS = "runs"
"""Folder of a root with one small file for each run folder whose checkpoints read it."""
COLLECTED = "collected.json"
_SHA = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_SHORT_SHA = re.compile(r"\b[0-9a-f]{6,64}\b")
_MAX_PLAIN_BYTES = 2**28
_SHARDED = "meta.pt"
"""What Lightning calls everything but weights and optimizer in a sharded checkpoint."""


# ---- run folders


def note_run(root: Path, run_folder: Path) -> None:
    """Note in a root that the checkpoints of a run folder read it; noting it again writes nothing.

    The path is kept relative to the root, so that both may be moved together.

    Args:
        root: The dataset root.
        run_folder: Of the run, beside or around the root or anywhere else.

    Raises:
        OSError: The root cannot be written.
    """
    where = os.path.relpath(run_folder.resolve(), root.resolve())
    path = root / RUNS / f"{digest('run folder', where, length=12)}.json"
    if not path.exists():
        make_folder(path.parent)
        write_durably(path, json.dumps({"run_folder": where}).encode() + b"\n")


def noted_runs(root: Path) -> list[Path]:
    """List the run folders that are noted in a root, whether they are still there or not, and the one around it."""
    noted = [json.loads(path.read_bytes())["run_folder"] for path in sorted((root / RUNS).glob("*.json"))]
    return list(dict.fromkeys(Path(os.path.normpath(root.resolve() / where)) for where in ("..", *noted)))


def checkpointed(run_folder: Path, known: Collection[str], deep: bool = True) -> set[str]:
    """Return the revisions that the checkpoints and the config of a run folder name, of those that are known.

    Nothing is unpickled: a checkpoint is a zip file whose plain part is searched for the shas as text.

    Args:
        run_folder: Of a run.
        known: Shas of revisions.
        deep: Look at any depth below, but not into dataset roots; else only where runs put their checkpoints.

    Raises:
        StoreError: A checkpoint cannot be read, so that nobody knows what it names.
    """
    found: set[str] = set()
    for path in _files_below(run_folder, deep):
        if path.name == "COMMIT.json":
            found |= _shas_in(path.read_bytes(), known)
        elif path.name == _SHARDED or path.suffix == ".ckpt":
            found |= _shas_in(_plain_part(path), known)
    for path in run_folder.glob("*.yaml"):
        for word in _SHORT_SHA.findall(path.read_text("utf-8", "replace")):
            found.update(sha for sha in known if sha.startswith(word))
    return found


def _files_below(folder: Path, deep: bool) -> Iterator[Path]:
    """Yield files, also behind links: checkpoints often lie on another disk than the folder of their run."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise _unreadable("folder", Path(error.filename), error) from error

    below = [folder] if deep else [folder / "checkpoints", *folder.glob("lightning_logs/*/checkpoints")]
    seen = set[str]()
    for start in below:
        for where, folders, names in os.walk(start, onerror=refuse, followlinks=True):
            real = os.path.realpath(where)
            if real in seen:  # a link to where one came from
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if not (Path(where) / name / "format.json").exists()]
            yield from (path for path in (Path(where) / name for name in sorted(names)) if path.is_file())


def _plain_part(path: Path) -> bytes:
    """Return what a checkpoint says beside its tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith("data.pkl")]
            if any(info.file_size > _MAX_PLAIN_BYTES for info in members):
                raise StoreError(f"its plain part has over {_MAX_PLAIN_BYTES} bytes")
            return b"\n".join(archive.read(info) for info in members)
    except (OSError, zipfile.BadZipFile, StoreError) as error:
        raise _unreadable("checkpoint", path, error) from error


def _unreadable(what: str, path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"The {what} '{path}' cannot be read ({error}), so nobody knows which revision it names. Nothing is deleted. "
        "If it is being written, wait for that; if it is of no use, delete it; or restore it from a copy."
    )


def _shas_in(data: bytes, known: Collection[str]) -> set[str]:
    return {sha for sha in (match.decode() for match in _SHA.findall(data)) if sha in known}


# ---- revisions


@dataclass(frozen=True, slots=True)
class KeptRevisions:
    """Which revisions of a root keep all their files.

    Args:
        kept: By sha, with why: `newest`, `checkpoint`, `after a checkpoint`.
        collected: Whose files may be gone already, by an earlier collection; none of them is kept.
    """

    kept: Mapping[str, str]
    collected: frozenset[str]


def kept_revisions(files: RevisionFiles, named: Collection[str], last: int) -> KeptRevisions:
    """Decide which revisions keep their files: the last ones, those that checkpoints name, and all that follow these.

    What follows a checkpoint's revision is what the run comes to again when it goes on from there: its rounds are
    published under the same names and must be found whole.

    Args:
        files: Of the root.
        named: By checkpoints.
        last: How many of the newest line (`CURRENT` and its ancestors).
    """
    parents: dict[str, str | None] = {sha: files.body(sha)["parent"] for sha in files.shas()}
    collected = collected_revisions(files.folder.parent)
    children: dict[str, list[str]] = {}
    for sha, parent in parents.items():
        children.setdefault(parent or "", []).append(sha)
    kept: dict[str, str] = {}
    current = files.current()
    if current is None:  # the first one was written, and its writer stopped before it was named
        kept = dict.fromkeys(parents, "newest")
    while current is not None and len(kept) < last:
        kept[current] = "newest"
        current = parents.get(current)
    kept.update({sha: "checkpoint" for sha in named if sha in parents})
    queue = list(kept)
    while queue:
        for child in children.get(queue.pop(), ()):
            if child not in kept:
                kept[child] = "after a kept one"
                queue.append(child)
    return KeptRevisions({sha: why for sha, why in kept.items() if sha not in collected}, collected)


def collected_revisions(root: Path) -> frozenset[str]:
    """Return the revisions whose files may be gone, as `collect` noted before it deleted any."""
    path = root / COLLECTED
    return frozenset(json.loads(path.read_bytes())["revisions"]) if path.exists() else frozenset()


def note_collected(root: Path, revisions: Iterable[str]) -> None:
    """Note revisions whose files are about to go, beside those that were noted before."""
    noted = sorted({*collected_revisions(root), *revisions})
    write_durably(root / COLLECTED, json.dumps({"revisions": noted}, indent=1).encode() + b"\n")


# ---- files


def shards_of(revision: Revision) -> set[str]:
    """Name every shard that a revision reads."""
    return {*revision.shards, *revision.companions}


def blobs_of(revision: Revision) -> set[str]:
    """Name every image and further file of the samples of a revision."""
    samples = [sample for entry in revision.state.entries.values() for sample in entry.samples]
    return {s.image_sha256 for s in samples} | {file.sha256 for s in samples for file in s.files.values()}


def blobs_of_books(root: Path) -> set[str]:
    """Return every sha256 that stands in a book of the root: the ledger, that of pairs, any SQLite file there.

    What was bought, drawn, looked at or derived is kept however the book is laid out. Revisions stand there, too.

    Raises:
        StoreError: A book cannot be read, so that nobody knows what it names.
    """
    found: set[str] = set()
    for path in sorted(root.glob("*.sqlite")):
        try:
            with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as book:
                tables = [name for (name,) in book.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
                for table in tables:
                    quoted = table.replace('"', '""')
                    for row in book.execute(f'SELECT * FROM "{quoted}"'):
                        found.update(match.decode() for value in row for match in _SHA.findall(_bytes_of(value)))
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"'{path}' cannot be read ({error}), so nobody knows which files it names. Nothing is deleted. Run "
                f"`evolvedirector data verify`, and restore it from a copy."
            ) from error
    return found


def _bytes_of(value: Any) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else value if isinstance(value, bytes) else b""
