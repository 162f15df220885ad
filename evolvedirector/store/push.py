"""Publish a root at a URL, where there is no rename: every name is written once, and a revision's own name last.

First come the shards of a revision, each named by its content, with its index and the checksum of that; then the
revision, under its own name, created where it must not exist yet. Who finds that name finds all that it names.
`CURRENT` is written at the end and only a hint. Ended anywhere, the same call again does the rest and comes to the same
objects.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.store.dataset import check_format
from evolvedirector.store.delta import checked_shard
from evolvedirector.store.errors import StoreError
from evolvedirector.store.mirror import CHECKSUM_SUFFIX, checksum_line, mirror_of
from evolvedirector.store.naming import collected_revisions
from evolvedirector.store.objects import ObjectFiles, checked_url, is_url
from evolvedirector.store.paths import user_path
from evolvedirector.store.revision import RevisionFiles
from evolvedirector.store.shards import Shard, open_index

_FORMAT = "format.json"
_MOST_FORMAT_BYTES = 4096
_BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push wrote.

    Args:
        revisions: That were not there before.
        objects: Written in all.
        size_bytes: Of these.
        newest_sha: The revision that `CURRENT` names there now.
    """

    revisions: int
    objects: int
    size_bytes: int
    newest_sha: str


def push_root(
    root: str | Path, url: str, thorough: bool = False, progress: Callable[[str], None] = lambda line: None
) -> Pushed:
    """Bring every revision of a root to a URL that is not there yet.

    Ledger and blobs stay here. Needs no lock: only files are read that never change.

    Args:
        root: The dataset root, on a local disk.
        url: Of an empty place, or of one that this root was pushed to before.
        thorough: Look at the shards of revisions that are there already, too, and bring what is gone or cut.
        progress: Is told what is being done, a line at a time.

    Raises:
        StoreError: The place holds something else, cannot create a name exclusively, or cannot be written; or a file
            of the root is damaged.
        UserError: The URL cannot be used.
    """
    root = user_path(root)
    check_format(root)
    if mirror_of(root) is not None:
        raise StoreError(f"'{root}' is a cache of another root, and only that one is pushed. Name the root itself.")
    push = _Push(root, ObjectFiles(url), thorough, progress)
    return push.all()


def checked_remote(root: str | Path, remote: str | None) -> str | None:
    """Refuse a place to push a root to that is none.

    Args:
        root: As it was given.
        remote: Likewise. None: nowhere.

    Raises:
        UserError: It is no URL, or the root lies at one itself.
    """
    if remote is None:
        return None
    if not is_url(remote):
        raise UserError(f"remote is '{remote}'. Allowed is a URL. Write 's3://bucket/folder', say, or leave it out.")
    if is_url(root):
        raise UserError(
            f"root is '{root}' and remote '{checked_url(remote)}'. What lies at a URL is only read, and pushed nowhere."
            " Name a folder as root, or leave remote out."
        )
    return checked_url(remote)


class _Push:
    """One push: what is there, and what was written."""

    def __init__(self, root: Path, objects: ObjectFiles, thorough: bool, progress: Callable[[str], None]) -> None:
        self.root = root
        self.files = RevisionFiles(root)
        self.objects = objects
        self.thorough = thorough
        self.progress = progress
        self.there: dict[str, int] = {}
        self.written = self.size_bytes = 0

    def all(self) -> Pushed:
        current = self.files.current()
        if current is None:
            raise StoreError(f"The dataset root '{self.root}' has no revision yet. Import something into it first.")
        if not self.objects.creates_exclusively:
            raise _not_exclusive(self.objects.url)
        self.there = self.objects.sizes()
        self._claim()
        paths = sorted(self.files.folder.glob("*.json"))
        self._refuse_another_dataset(paths)
        collected, new = collected_revisions(self.root), 0
        for number, path in enumerate(paths, 1):
            is_there = self._has(f"revisions/{path.name}", path)
            if is_there and not self.thorough:
                continue
            self.progress(f"revision {number} of {len(paths)}")
            data = path.read_bytes()
            self._shards(_body(path, data), hashlib.sha256(data).hexdigest() in collected)
            self._snapshot(path)
            if not is_there:
                self._revision(path, data)
                new += 1
        hint = current.encode() + b"\n"
        if self.there.get("CURRENT") != len(hint) or self._read("CURRENT") != hint:
            self._write("CURRENT", hint)
        return Pushed(new, self.written, self.size_bytes, current)

    def _claim(self) -> None:
        """Make the place a dataset root, and see whether it refuses what must not be overwritten.

        Nothing but trying tells it: some servers that speak S3 pass over the condition.
        """
        url, data = self.objects.url, (self.root / _FORMAT).read_bytes()
        if self.there and _FORMAT not in self.there:
            raise StoreError(
                f"'{url}' is not empty and no dataset root: it holds '{min(self.there)}'. Allowed is an empty place, or"
                " one that this root was pushed to. Name another."
            )
        if self.objects.create(_FORMAT, data):
            self.written, self.size_bytes = 1, len(data)
        if self._read(_FORMAT) != data:
            raise StoreError(
                f"'{url}' holds a {_FORMAT} of something else. Allowed is an empty place, or one that this root was"
                " pushed to. Name another."
            )
        if self.objects.create(_FORMAT, data):
            raise _not_exclusive(url)

    def _refuse_another_dataset(self, paths: list[Path]) -> None:
        """Refuse a place whose first revisions are others: two datasets in one would be read as forks of one."""
        first = [name for name in self.there if name.startswith("revisions/000001-") and name.endswith(".json")]
        if first and not {f"revisions/{path.name}" for path in paths} & set(first):
            raise StoreError(
                f"'{self.objects.url}' holds another dataset than '{self.root}': their first revisions differ. Allowed"
                " is an empty place, or one that this root was pushed to. Name another."
            )

    # ---- one revision

    def _shards(self, body: Mapping[str, Any], is_collected: bool) -> None:
        for shard in _shards_of(body):
            tar = self.root / "shards" / f"{shard.name}.tar"
            index, name = tar.with_suffix(".index"), f"shards/{shard.name}"
            sealed, line_bytes = f"{name}.index{CHECKSUM_SUFFIX}", len(checksum_line(index.name, b""))
            if is_collected and not tar.exists():
                continue  # its revision is a part of the history and read by nobody
            if not index.exists():
                raise StoreError(f"'{index}' is not there. Run `evolvedirector data verify {self.root} --repair`.")
            has_tar = self.there.get(f"{name}.tar") == shard.tar_bytes
            if has_tar and self._has(f"{name}.index", index) and self.there.get(sealed) == line_bytes:
                continue
            if not has_tar:
                self._tar(shard, tar)
            data = index.read_bytes()
            open_index(index)  # refuses one that is cut
            self._write(f"{name}.index", data)
            self._write(sealed, checksum_line(index.name, data))

    def _tar(self, shard: Shard, path: Path) -> None:
        """Upload a tar that is whole: a damaged one would stay there, for its name is never written again."""
        sha256 = hashlib.sha256()
        try:
            with open(path, "rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    sha256.update(block)
        except OSError as error:
            raise StoreError(f"The shard '{path}' cannot be read: {error}. Restore it from a copy.") from error
        if sha256.hexdigest() != shard.sha256:
            raise StoreError(
                f"The shard '{path}' is damaged, and nothing damaged is pushed. Run `evolvedirector data verify"
                f" {self.root} --repair`, or restore it from a copy."
            )
        self.objects.upload(f"shards/{path.name}", path)
        self._count(f"shards/{path.name}", shard.tar_bytes)

    def _snapshot(self, path: Path) -> None:
        """Upload the cache of a revision, where there is one: readers then need none of its ancestors."""
        columns = path.with_suffix(".columns")
        if columns.exists() and not self._has(f"revisions/{columns.name}", columns):
            self.objects.upload(f"revisions/{columns.name}", columns)
            self._count(f"revisions/{columns.name}", columns.stat().st_size)

    def _revision(self, path: Path, data: bytes) -> None:
        name = f"revisions/{path.name}"
        if self.objects.create(name, data):
            self._count(name, len(data))
        elif self.objects.read(name, len(data)) != data:
            raise StoreError(
                f"'{self.objects.url}/{name}' has other bytes than the revision of that name, and a revision is never"
                " overwritten. Delete that object, or push to an empty place."
            )

    # ---- objects

    def _has(self, name: str, path: Path) -> bool:
        return self.there.get(name) == path.stat().st_size

    def _read(self, name: str) -> bytes:
        return self.objects.read(name, _MOST_FORMAT_BYTES)

    def _write(self, name: str, data: bytes) -> None:
        self.objects.write(name, data)
        self._count(name, len(data))

    def _count(self, name: str, size_bytes: int) -> None:
        self.there[name] = size_bytes
        self.written += 1
        self.size_bytes += size_bytes


def _not_exclusive(url: str) -> StoreError:
    return StoreError(
        f"'{url}' cannot create a name only where there is none, and so two writers could overwrite each other there."
        " Allowed are AWS S3 and servers that know If-None-Match, gs://, az:// and file://. Push to one of these."
    )


def _body(path: Path, data: bytes) -> dict[str, Any]:
    if not path.stem.endswith(f"-{hashlib.sha256(data).hexdigest()[:12]}"):
        raise StoreError(f"'{path}' no longer has the content its name says. Restore it from a copy.")
    body: dict[str, Any] = json.loads(data)
    return body


def _shards_of(body: Mapping[str, Any]) -> Iterator[Shard]:
    """Yield the shards that a revision brings."""
    for fields in (*body["shards"], *body.get("companions", ())):
        yield checked_shard(Shard(**fields))
