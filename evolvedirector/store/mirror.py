"""Read a root that lies at a URL: a folder of this machine with what was asked for, laid out as any root is.

Revisions and indexes are fetched whole and stay; tars are fetched when a sample of them is read, and the least recently
used go where there is no room. Several processes share the folder: what is in it under its own name is whole, for it
was compared with its checksum before it got that name. A tar that goes stays readable where it is open.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from evolvedirector.errors import UserError
from evolvedirector.store.columns import is_whole
from evolvedirector.store.durable import disk_full_named, make_folder, sync_folder, write_durably
from evolvedirector.store.errors import StoreError
from evolvedirector.store.objects import ObjectFiles, checked_url, is_url
from evolvedirector.store.paths import user_path
from evolvedirector.store.shards import Shard
from evolvedirector.store.tar_cache import TRIES, TarCache, alone, damaged, gone

MARKER = "remote.json"
"""In the folder: where its files come from, and how large it may be."""
CHECKSUM_SUFFIX = ".sha256"
"""Of the object that holds the checksum of an index, as `sha256sum` writes it: no revision states it."""
DEFAULT_GIB = 50.0
_MOST_GIB = 2.0**30
Fetched = Literal["tars", "samples"]
_CACHE_VARIABLE = "EVOLVEDIRECTOR_CACHE"
_MOST_BYTES = {".json": 2**32, ".index": 2**26, CHECKSUM_SUFFIX: 256, "": 4096}
_LOCK = ".mirror.lock"
_TOGETHER = 32
_MOST_GAP_BYTES = 2**16
"""Read for nothing between files of a sample, rather than asking once more."""
_SHA = re.compile(r"[0-9a-f]{64}")
_START = re.compile(r"[0-9a-f]{6,64}")
_STEM = re.compile(r"([0-9]{6,})-([0-9a-f]{12})")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RootCache:
    """Where a root at a URL is kept on this machine, and how much of it.

    Args:
        folder: On a local disk; each root has its own folder in it. None: `roots` in the cache folder of this user, or
            in the environment's EVOLVEDIRECTOR_CACHE.
        max_gib: Size of the tars in GiB that are kept at a time; revisions and indexes come on top. A run reads all
            tars of its revision in turn, so a size below theirs fetches them again and again.
        fetch: `tars` are fetched whole and kept; `samples` alone each time, for a revision that is larger than any
            disk here, or of which little is read.
    """

    folder: str | None = None
    max_gib: float = DEFAULT_GIB
    fetch: Fetched = "tars"


def local_root(root: str | os.PathLike[str], cache: RootCache | None = None) -> Path:
    """Return the folder that a root is read from: itself, or the one that caches what lies at a URL.

    Nothing is fetched yet.

    Args:
        root: A folder or a URL of fsspec.
        cache: None: the default folder, with the size that was last said for it.

    Raises:
        UserError: The path or URL cannot be used.
    """
    if not (isinstance(root, str) and is_url(root)):
        return user_path(root)
    url, chosen = checked_url(root), cache or RootCache()
    if not 0 < chosen.max_gib <= _MOST_GIB:
        raise UserError(
            f"max_gib is {chosen.max_gib}. Allowed is any size above 0, up to {_MOST_GIB:g}. Write {DEFAULT_GIB:g}."
        )
    if chosen.fetch not in get_args(Fetched):
        raise UserError(f"fetch is {chosen.fetch!r}. Allowed are {', '.join(get_args(Fetched))}. Write `fetch: tars`.")
    slug = re.sub(r"[^a-z0-9]+", "-", url.partition("://")[2].lower()).strip("-")[-40:]
    name = f"{slug}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    folder = _caches(chosen.folder) / name
    marker = folder / MARKER
    about = json.dumps({"url": url, "max_bytes": int(chosen.max_gib * 2**30), "fetch": chosen.fetch}).encode()
    if not marker.exists() or (cache is not None and marker.read_bytes() != about):
        make_folder(folder)
        write_durably(marker, about)
    return folder


def mirror_of(root: Path) -> Mirror | None:
    """Return what fetches the files of a folder; None: it is a root of its own.

    Args:
        root: Of a dataset.
    """
    try:
        data = (root / MARKER).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        about = json.loads(data)
        max_bytes, fetch = about["max_bytes"], about["fetch"]
        if type(max_bytes) is not int or max_bytes < 0 or fetch not in get_args(Fetched):
            raise ValueError(f"max_bytes is {max_bytes!r} and fetch {fetch!r}")
        return Mirror(root, ObjectFiles(about["url"]), max_bytes, fetch == "samples")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UserError) as error:
        raise StoreError(
            f"'{root / MARKER}' does not say where a root lies ({error}). Delete the folder: it is a cache, and its"
            " files are fetched again."
        ) from error


def checksum_line(name: str, data: bytes) -> bytes:
    """Write the checksum of a file as `sha256sum` does.

    Args:
        name: Of the file.
        data: Its content.
    """
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode()


class Mirror:
    """Fetch files of a root at a URL into a folder."""

    def __init__(self, root: Path, objects: ObjectFiles, max_bytes: int, by_sample: bool = False) -> None:
        """Name both; nothing is asked yet.

        Args:
            root: The folder.
            objects: Where the files come from.
            max_bytes: Of the tars in the folder, those that are being fetched included.
            by_sample: Fetch no tars; read samples out of them where they are.
        """
        self.by_sample = by_sample
        self.root = root
        self.objects = objects
        self.max_bytes = max_bytes
        self._listing: dict[str, int] | None = None

    # ---- revisions

    def bring_format(self) -> None:
        """Fetch what says that this is a dataset root, and of which format.

        Raises:
            StoreError: There is none.
        """
        path = self.root / "format.json"
        if path.exists():
            return
        try:
            data = self.objects.read(path.name, _MOST_BYTES[""])
        except FileNotFoundError:
            raise StoreError(
                f"'{self.objects.url}' is no dataset root: it has no format.json. Allowed is a place that a root was"
                f" pushed to. Write `evolvedirector data push ROOT {self.objects.url}` where the root lies."
            ) from None
        write_durably(path, data)

    def names(self) -> list[str]:
        """Name all revisions as `<number>-<first 12 of sha>`, oldest first; forks share a number."""
        listed = self._listed(afresh=True)
        stems = (name[: -len(".json")] for name in listed if name.endswith(".json"))
        return sorted(stem for stem in stems if _STEM.fullmatch(stem))

    def newest(self) -> str | None:
        """Name the newest revision; None: there is none.

        `CURRENT` is written last, so what is published may be ahead of it: a revision that follows from the one it
        names counts. Where it is not there or names nothing, the highest number counts, of forks the last by name.
        """
        names = self.names()
        hint = self._hint()
        own = next((stem for stem in names if hint is not None and stem.endswith(f"-{hint[:12]}")), None)
        if hint is None or own is None:
            return self._sha_of(names[-1]) if names else None
        for stem in reversed(names[names.index(own) + 1 :]):
            if self._follows(stem, own):
                return self._sha_of(stem)
        return hint

    def bring(self, sha: str) -> None:
        """Fetch a revision, and its cache where there is one, unless it is here; of one that is not there, nothing.

        Args:
            sha: Of the revision. Where it is abbreviated, all that it may mean are fetched.

        Raises:
            StoreError: It is damaged there, or nobody answers.
        """
        folder = self.root / "revisions"
        if not _START.fullmatch(sha):
            return
        if len(sha) == 64 and any(folder.glob(f"*-{sha[:12]}.json")):
            return
        with self._alone():
            stems = self._stems(sha) or self._stems(sha, afresh=True)
            for stem in stems:
                if not (folder / f"{stem}.json").exists():
                    self._bring_snapshot(stem)
                    self._bring_body(stem)

    def _stems(self, sha: str, afresh: bool = False) -> list[str]:
        start = sha[:12]
        found = (name for name in self._listed(afresh or len(sha) < 64) if name.endswith(".json"))
        matches = (_STEM.fullmatch(name[: -len(".json")]) for name in found)
        return sorted(match[0] for match in matches if match and match[2].startswith(start))

    def _listed(self, afresh: bool = False) -> dict[str, int]:
        if self._listing is None or afresh:
            found = self.objects.sizes("revisions")
            self._listing = {name.removeprefix("revisions/"): size for name, size in found.items()}
        return self._listing

    def _bring_body(self, stem: str) -> None:
        name = f"revisions/{stem}.json"
        for _ in range(TRIES):
            try:
                data = self.objects.read(name, _MOST_BYTES[".json"])
            except FileNotFoundError:
                raise gone(self.objects, name) from None
            if hashlib.sha256(data).hexdigest()[:12] == stem[-12:]:
                make_folder(self.root / "revisions")
                write_durably(self.root / name, data)
                return
        raise damaged(self.objects, name)

    def _bring_snapshot(self, stem: str) -> None:
        """Fetch the cache of a revision; one that is damaged is left out, for the revision says the same."""
        name, size = f"revisions/{stem}.columns", self._listed().get(f"{stem}.columns")
        path = self.root / name
        if size is None or path.exists():
            return
        make_folder(path.parent)
        working = path.with_name(f".{path.name}.{os.getpid()}.writing")
        try:
            for _ in range(TRIES):
                with contextlib.suppress(FileNotFoundError), disk_full_named(path):
                    with open(working, "wb") as file:
                        for chunk in self.objects.chunks(name, size):
                            file.write(chunk)
                        file.flush()
                        os.fsync(file.fileno())
                    if is_whole(working):
                        os.replace(working, path)
                        sync_folder(path.parent)
                        return
        finally:
            working.unlink(missing_ok=True)

    def _hint(self) -> str | None:
        with contextlib.suppress(FileNotFoundError):
            text = self.objects.read("CURRENT", _MOST_BYTES[""]).decode("ascii", "replace").strip()
            return text if _SHA.fullmatch(text) else None
        return None

    def _follows(self, stem: str, ancestor: str) -> bool:
        """Say whether a revision comes from another one."""
        while int(stem.partition("-")[0]) > int(ancestor.partition("-")[0]):
            parent = _parent_of(stem, self._body(stem))
            found = self._stems(parent) if parent else []
            if not found:
                return False
            stem = found[0]
        return stem == ancestor

    def _sha_of(self, stem: str) -> str:
        return hashlib.sha256(self._body(stem)).hexdigest()

    def _body(self, stem: str) -> bytes:
        path = self.root / "revisions" / f"{stem}.json"
        if not path.exists():
            with self._alone():
                self._bring_snapshot(stem)
                self._bring_body(stem)
        return path.read_bytes()

    # ---- indexes

    def bring_indexes(self, shards: Iterable[Shard]) -> None:
        """Fetch the indexes of shards that are not here.

        Args:
            shards: Of a revision.

        Raises:
            StoreError: One is damaged there or gone, or nobody answers.
        """
        folder = self.root / "shards"
        shards = list(shards)
        if all((folder / f"{shard.name}.index").exists() for shard in shards):
            return
        make_folder(folder)
        with self._alone():
            missing = [shard.name for shard in shards if not (folder / f"{shard.name}.index").exists()]
            for start in range(0, len(missing), _TOGETHER):
                self._bring_group([f"{name}.index" for name in missing[start : start + _TOGETHER]])
            sync_folder(folder)
        if (size := sum(shard.tar_bytes for shard in shards)) > self.max_bytes and not self.by_sample:
            _log.warning(
                "The tars of a revision at '%s' have %.1f GiB, and the cache here may have %.1f: they will be fetched "
                "again and again. A larger `max_gib` keeps them, and `fetch: samples` reads no more than it takes.",
                self.objects.url,
                size / 2**30,
                self.max_bytes / 2**30,
            )

    def _bring_group(self, names: Sequence[str]) -> None:
        for last in (False, True):
            paths = [f"shards/{name}" for name in names]
            contents = self.objects.read_many(paths, _MOST_BYTES[".index"])
            sums = self.objects.read_many([path + CHECKSUM_SUFFIX for path in paths], _MOST_BYTES[CHECKSUM_SUFFIX])
            wrong = []
            for name, data, line in zip(names, contents, sums, strict=True):
                if data is not None and line == checksum_line(name, data):
                    write_durably(self.root / "shards" / name, data, name_later=True)
                else:
                    wrong.append(name)
                    if last:
                        path = f"shards/{name}"
                        raise (gone if data is None or line is None else damaged)(self.objects, path)
            if not wrong:
                return
            names = wrong

    def open_tar(self, shard: Shard) -> int:
        """Open a tar, fetched first where it is not here; returns a descriptor.

        Args:
            shard: As the revision states it.

        Raises:
            StoreError: It is damaged there or gone, has no room, or nobody answers.
            DiskFullError: The disk is full.
        """
        return TarCache(self.root / "shards", self.objects, self.max_bytes).open(shard)

    def read_members(self, shard: Shard, places: Sequence[tuple[int, int, bytes]]) -> list[bytes]:
        """Read files out of a tar that is not here, each compared with its checksum.

        Args:
            shard: As the revision states it.
            places: Offset, size and sha256 of each.

        Raises:
            StoreError: One is damaged there, the tar is gone, or nobody answers.
        """
        name = f"shards/{shard.name}.tar"
        start, end = min(place[0] for place in places), max(offset + size for offset, size, _ in places)
        apart = end - start > 2 * sum(size for _, size, _ in places) + _MOST_GAP_BYTES
        for _ in range(TRIES):
            try:
                if apart:  # what lies between was not asked for
                    parts = [self.objects.read_part(name, offset, size) for offset, size, _ in places]
                else:
                    whole = self.objects.read_part(name, start, end - start)
                    parts = [whole[offset - start : offset - start + size] for offset, size, _ in places]
            except FileNotFoundError:
                raise gone(self.objects, name) from None
            if all(hashlib.sha256(part).digest() == place[2] for part, place in zip(parts, places, strict=True)):
                return parts
        raise damaged(self.objects, name)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Fetch revisions and indexes alone of all processes; what a killed one left of these goes."""
        with alone(self.root / _LOCK):
            for folder in (self.root / "revisions", self.root / "shards"):
                for left in (*folder.glob(".*.tmp.*"), *folder.glob(".*.writing")):
                    left.unlink(missing_ok=True)
            yield


def _parent_of(stem: str, data: bytes) -> str | None:
    """Read which revision another one was made of; None: of none."""
    try:
        parent = json.loads(data)["parent"]
    except (ValueError, TypeError, KeyError, RecursionError):
        parent = ""
    if parent is not None and not (isinstance(parent, str) and _SHA.fullmatch(parent)):
        raise StoreError(f"The revision {stem} names no parent that there can be. Use no root of an unknown source.")
    return parent


def _caches(folder: str | None) -> Path:
    if folder is not None:
        return user_path(folder).absolute()
    from platformdirs import user_cache_dir

    chosen = os.environ.get(_CACHE_VARIABLE) or user_cache_dir("evolvedirector", appauthor=False)
    return user_path(chosen).absolute() / "roots"
