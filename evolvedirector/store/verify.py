"""Look whether a dataset root is whole: each kind of damage is found by reading, and comes with what to do.

Nothing is changed and no lock is needed: files of a root are whole or not there, and never change. A run that writes
meanwhile may leave its newest, still unpublished files among the harmless findings.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from evolvedirector.store.columns import is_whole
from evolvedirector.store.dataset import check_format
from evolvedirector.store.delta import Revision, apply
from evolvedirector.store.errors import StoreError
from evolvedirector.store.ledger.file import LedgerFile
from evolvedirector.store.naming import collected_revisions
from evolvedirector.store.paths import user_path
from evolvedirector.store.revision import RevisionFiles
from evolvedirector.store.shards import Shard, open_index, regular_members

DamageKind = Literal["missing", "short", "changed", "index", "revision", "ledger", "foreign", "leftover"]
"""A file that is not there / has another size / has other bytes; an index that does not fit its tar; a revision that
cannot be rebuilt; a ledger that says something else; a file of nobody's; what a stopped writer left behind."""
_HARMLESS = ("foreign", "leftover")
_BLOCK_BYTES = 2**20
_STOPPED = "Leave it, or run `evolvedirector data collect ROOT` while nobody writes."
_RESTORE = "Restore it from a copy of the root."


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in a root that is not as it should be.

    Args:
        kind: Of the damage.
        path: Below the root.
        what: What is wrong, and whom it concerns.
        advice: What to do.
    """

    kind: DamageKind
    path: str
    what: str
    advice: str

    @property
    def is_harmless(self) -> bool:
        """Whether everything can be read without it."""
        return self.kind in _HARMLESS


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and what was found.

    Args:
        revisions: Looked at.
        shards: Likewise.
        blobs: Likewise.
        bytes_read: Of tars and blobs; 0 where only sizes were compared.
        damages: In the order in which they were found.
    """

    revisions: int
    shards: int
    blobs: int
    bytes_read: int
    damages: tuple[Damage, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing was found that is not harmless."""
        return all(damage.is_harmless for damage in self.damages)


class _Look:
    """What a verification has gathered so far."""

    def __init__(self, root: Path, quick: bool, progress: Callable[[str], None]) -> None:
        self.root = root
        self.quick = quick
        self.progress = progress
        self.damages: list[Damage] = []
        self.bytes_read = 0

    def found(self, kind: DamageKind, path: Path, what: str, advice: str) -> None:
        self.damages.append(Damage(kind, path.relative_to(self.root).as_posix(), what, advice))

    def sha256(self, path: Path) -> str:
        whole = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                whole.update(block)
                self.bytes_read += len(block)
        return whole.hexdigest()


RecordCheck = Callable[[Path, Collection[str], Collection[str]], Iterable[tuple[Path, str, str]]]
"""Compares a further record of a root with its files: gets the root, the sha256 of every blob that is whole and of
every file in shards, and yields the record's path, what is wrong, and what to do."""


def verify_root(
    root: str | Path,
    quick: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    records: Iterable[RecordCheck] = (),
) -> Verification:
    """Read a root and say what is missing, short, changed or foreign in it.

    Every revision, also of forks, is rebuilt from its files; every shard that one of them names is read whole and
    compared with its name, its size and its index; every blob is compared with its name; and the ledger is compared
    with both.

    Args:
        root: The dataset root.
        quick: Compare names and sizes only; a flipped bit is not found then.
        progress: Is told what is being read, a line at a time.
        records: Checks of what others keep beside the ledger.

    Raises:
        StoreError: It is no dataset root at all.
    """
    root = user_path(root)
    check_format(root)
    look = _Look(root, quick, progress)
    contents = _verify_revisions(look)
    _verify_shards(look, contents.shards)
    blobs = _verify_blobs(look)
    _verify_ledger(look, contents, blobs)
    for check in records:
        for damage in check(root, blobs, contents.files):
            look.found("ledger", *damage)
    _name_strangers(look, set(contents.shards))
    counts = len(contents.numbers), len(contents.shards), len(blobs)
    return Verification(*counts, look.bytes_read, tuple(look.damages))


# ---- revisions


class _Contents:
    """What the revisions of a root that can be rebuilt name."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        """Of each revision, by sha."""
        self.shards: dict[str, tuple[Shard, int]] = {}
        """By name, with the number of the newest revision that names it."""
        self.files: set[str] = set()
        """Sha256 of every image and further file of a sample."""
        self.unnamed: set[str] = set()
        """Revisions that neither `CURRENT` nor another revision names; a fork among them, too."""

    def add(self, revision: Revision, is_collected: bool) -> None:
        self.numbers[revision.state.revision_sha] = revision.number
        if is_collected:  # its own small file stays, as a part of the history
            return
        for shard in (*revision.shards.values(), *revision.companions.values()):
            self.shards[shard.name] = (shard, max(revision.number, self.shards.get(shard.name, (shard, 0))[1]))
        for entry in revision.state.entries.values():
            for sample in entry.samples:
                self.files.add(sample.image_sha256)
                self.files.update(file.sha256 for file in sample.files.values())


def _verify_revisions(look: _Look) -> _Contents:
    """Rebuild every revision; what is damaged is named once, not again by all that follow it."""
    files = RevisionFiles(look.root)
    paths = sorted(files.folder.glob("*.json"))
    look.progress(f"{len(paths)} revisions")
    parents: dict[str, str | None] = {}
    for path in paths:
        data = path.read_bytes()
        sha = hashlib.sha256(data).hexdigest()
        if not path.stem.endswith(f"-{sha[:12]}"):
            look.found("changed", path, "its content is not what its name says", _RESTORE)
            continue
        try:
            parents[sha] = files.body(sha).get("parent")
        except StoreError as error:
            look.found("revision", path, str(error), _RESTORE)
    for sha, parent in parents.items():
        if parent is not None and parent not in parents:
            what = f"its parent {parent[:12]} is not there or was changed"
            look.found("revision", _path_of(files, sha), what, "Restore the parent from a copy of the root.")
    contents, collected = _Contents(), collected_revisions(look.root)
    last: Revision | None = None
    for sha in sorted(parents, key=lambda sha: _path_of(files, sha).name):
        if not _has_all_parents(sha, parents):
            continue
        try:
            # one delta after the other: a root has many revisions, and each in full is large
            follows = last is not None and last.state.revision_sha == parents[sha]
            last = apply(last, sha, files.body(sha)) if follows else files.load(sha)
        except (StoreError, KeyError, TypeError, ValueError) as error:
            last = None
            look.found("revision", _path_of(files, sha), f"it cannot be rebuilt ({error})", _RESTORE)
        else:
            contents.add(last, sha in collected)
    _verify_snapshots(look, files)
    current = files.current()
    contents.unnamed = contents.numbers.keys() - set(parents.values()) - {current}
    newest = max(contents.numbers, key=lambda sha: contents.numbers[sha], default=None)
    instead = _RESTORE if newest is None else f"Write {newest} into it: that is the newest whole revision."
    if current is not None and current not in contents.numbers:
        look.found("missing", look.root / "CURRENT", f"it names {current[:12]}, which is not there whole", instead)
    elif current is None and len(contents.numbers) > 1:
        look.found("missing", look.root / "CURRENT", f"it is not there, and {len(paths)} revisions are", instead)
    elif current is None and newest is not None:
        what = "it is not there: the writer of the first revision was stopped before it was named"
        look.found("leftover", look.root / "CURRENT", what, f"Give the same import again. Or: {instead}")
    return contents


def _verify_snapshots(look: _Look, files: RevisionFiles) -> None:
    for path in sorted((*files.folder.glob("*.columns"), *files.folder.glob("*.snapshot"))):
        if not (is_whole(path) if path.suffix == ".columns" else _is_whole_json(path)):
            what = "this cache of a revision is damaged; the deltas are read in its place"
            look.found("leftover", path, what, "Delete it, or leave it.")


def _is_whole_json(path: Path) -> bool:
    """Say whether a snapshot of before there were columns is whole."""
    line, _, data = path.read_bytes().partition(b"\n")
    return hashlib.sha256(data).hexdigest().encode() == line


def _has_all_parents(sha: str | None, parents: Mapping[str, str | None]) -> bool:
    while sha is not None:
        if sha not in parents:
            return False
        sha = parents[sha]
    return True


def _path_of(files: RevisionFiles, sha: str) -> Path:
    return next(files.folder.glob(f"*-{sha[:12]}.json"))


# ---- shards


def _verify_shards(look: _Look, shards: Mapping[str, tuple[Shard, int]]) -> None:
    for place, (shard, number) in enumerate(shards.values(), 1):
        look.progress(f"shard {place} of {len(shards)}")
        tar = look.root / "shards" / f"{shard.name}.tar"
        concerns = f"{shard.samples} samples up to revision {number} lie in it"
        if not tar.exists():
            look.found("missing", tar, concerns, _repair(shard))
        elif tar.stat().st_size != shard.tar_bytes:
            what = f"it has {tar.stat().st_size} bytes, not {shard.tar_bytes}; {concerns}"
            look.found("short", tar, what, _repair(shard))
        elif not look.quick and look.sha256(tar) != shard.sha256:
            look.found("changed", tar, f"its bytes are not those that were written; {concerns}", _repair(shard))
        else:
            _verify_index(look, shard, tar)


def _repair(shard: Shard) -> str:
    if shard.roles:
        return f"{_RESTORE} Without one, derive {', '.join(shard.roles)} anew."
    return "Run `evolvedirector data verify ROOT --repair`, which packs it anew from blobs/, or restore it from a copy."


def _verify_index(look: _Look, shard: Shard, tar: Path) -> None:
    """Compare an index with a tar that is whole itself."""
    path, advice = tar.with_suffix(".index"), "Run `evolvedirector data verify ROOT --repair`: the tar is whole."
    try:
        records, tar_bytes = open_index(path)
    except StoreError as error:
        look.found("index" if path.exists() else "missing", path, str(error), advice)
        return
    if tar_bytes != shard.tar_bytes:
        look.found("index", path, f"it is of a tar of {tar_bytes} bytes, not {shard.tar_bytes}", advice)
        return
    if look.quick:
        return
    try:
        problem = _misfit(records, tar)
    except StoreError as error:  # a tar with the bytes of its name that no program of this project wrote
        look.found("changed", tar, f"it is no shard: {error}", "Use no root of an unknown source.")
    else:
        if problem:
            look.found("index", path, problem, advice)


def _misfit(records: np.ndarray, tar: Path) -> str:
    """Say where an index and the members of its tar differ; empty where they do not."""
    indexed = {(bytes(r["key"]), bytes(r["extension"])): r for r in records}
    count = 0
    with open(tar, "rb") as file:
        for member, data in regular_members(file):
            key, _, extension = member.name.partition(".")
            record = indexed.get((key.encode(), extension.encode()))
            place = (member.offset_data, member.size, hashlib.sha256(data).digest())
            if record is None or place != (record["offset"], record["size"], record["sha256"].tobytes()):
                return f"its record of {member.name} is missing or another"
            count += 1
    return "" if count == len(records) else f"it has {len(records)} records for {count} files"


# ---- blobs and ledger


def _verify_blobs(look: _Look) -> set[str]:
    """Return the sha256 of every blob that is as its name says."""
    whole: set[str] = set()
    paths = sorted(path for path in (look.root / "blobs").glob("??/*") if not path.name.startswith("."))
    look.progress(f"{len(paths)} blobs")
    for path in paths:
        if look.quick or look.sha256(path) == path.stem:
            whole.add(path.stem)
        else:
            advice = "Delete it: what was bought is bought again when it is needed, unless a copy of the root has it."
            look.found("changed", path, "its bytes are not those that its name says", advice)
    return whole


def _verify_ledger(look: _Look, contents: _Contents, blobs: set[str]) -> None:
    path = look.root / "ledger.sqlite"
    look.progress("the ledger")
    if not path.exists():
        advice = f"{_RESTORE} Training needs none of it; a run that buys starts a new one and knows nothing of the old."
        look.found("missing", path, "what was asked, paid and decided is recorded nowhere else", advice)
        return
    try:
        ledger = LedgerFile.for_reading(path)
    except StoreError as error:
        look.found("ledger", path, str(error), _RESTORE)
        return
    try:
        for (line,) in ledger.rows("PRAGMA integrity_check(5)"):
            if line != "ok":
                look.found("ledger", path, f"SQLite says: {line}", _RESTORE)
        for damage in _contradictions(ledger, contents, blobs):
            look.found("ledger", path, *damage)
        for sha in sorted(contents.unnamed - _known_to(ledger)):
            what = "its writer was stopped before the ledger knew it; nothing else names it"
            own = _path_of(RevisionFiles(look.root), sha)
            look.found("leftover", own, what, "Leave it: the same work publishes the same revision.")
    except sqlite3.DatabaseError as error:
        look.found("ledger", path, f"SQLite says: {error}", _RESTORE)
    finally:
        ledger.close()


def _contradictions(ledger: LedgerFile, contents: _Contents, blobs: set[str]) -> Iterator[tuple[str, str]]:
    """Yield what the ledger says and the files do not, and the other way round."""
    known = _known_to(ledger)
    if lost := sorted(known - contents.numbers.keys()):
        what = f"{len(lost)} revisions that it knows are not there whole, such as {lost[0][:12]}"
        yield what, "Restore their files in revisions/ from a copy of the root."
    if unknown := sorted(contents.numbers.keys() - known - contents.unnamed):
        what = f"it knows nothing of {len(unknown)} revisions, such as {unknown[0][:12]}: it is older than they are"
        yield what, "Restore the ledger of the same day as the revisions; else what they cost is counted too low."
    query = "SELECT image_sha256 FROM calls WHERE image_sha256 IS NOT NULL UNION SELECT sha256 FROM call_files"
    gone = [sha for (sha,) in ledger.stream(query) if sha not in blobs]
    if gone:
        kept = sum(sha in contents.files for sha in gone)
        what = f"{len(gone)} files that were paid for are not in blobs/ whole; {kept} of them are still in shards"
        yield what, "Restore blobs/ from a copy of the root; a round that needs one of the others buys it again."


def _known_to(ledger: LedgerFile) -> set[str]:
    return {sha for (sha,) in ledger.stream("SELECT sha FROM revisions")}


# ---- what belongs to nobody


def _name_strangers(look: _Look, shards: set[str]) -> None:
    for path in sorted((look.root / "blobs").glob("*/.*")):
        look.found("leftover", path, "a writer was stopped while it wrote this, or is writing it now", _STOPPED)
    kinds = {"shards": (".tar", ".index"), "revisions": (".json", ".columns", ".snapshot")}
    for folder, suffixes in kinds.items():
        for path in sorted((look.root / folder).glob("*")):
            if path.name.startswith("."):
                what = "a writer was stopped while it wrote this, or is writing it now"
                look.found("leftover", path, what, "Leave it: the next writer of this root deletes it.")
            elif path.suffix not in suffixes:
                look.found("foreign", path, "no file of a dataset root", "Move it elsewhere.")
            elif folder == "shards" and path.stem not in shards:
                what = (
                    "no revision names it: it was written for one that was not published, or whose files were collected"
                )
                look.found("leftover", path, what, "Leave it, or run `evolvedirector data collect ROOT`.")
