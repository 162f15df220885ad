"""Revisions as deltas: one small JSON file each, named and chained by content; a full snapshot now and then.

A snapshot is a cache of what all deltas up to it say, in columns that readers map into memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolvedirector.records.layered import Layered
from evolvedirector.store.codec import canonical_json
from evolvedirector.store.columnar import MAX_OBJECTS, columns_of, revision_of
from evolvedirector.store.columns import read_columns, write_columns
from evolvedirector.store.delta import FORMATS, Folding, Revision, apply, format_of
from evolvedirector.store.durable import make_folder, write_durably
from evolvedirector.store.errors import StoreError
from evolvedirector.store.mirror import mirror_of
from evolvedirector.store.paths import user_path

SNAPSHOT_EVERY = 32
_CHANGED_PART = 32
"""A large revision is written in full where more than a 32nd of it has changed since that was done last: reading it
takes the changes, and writing it takes all of it, so each costs little for a change."""


def wants_snapshot(revision: Revision) -> bool:
    """Say whether a revision is far enough from the last one that was written in full.

    Args:
        revision: Just published.
    """
    entries = revision.state.entries
    if isinstance(entries, Layered):
        return entries.changes * _CHANGED_PART > len(entries)
    return revision.number % SNAPSHOT_EVERY == 0 or (isinstance(entries, dict) and len(entries) > MAX_OBJECTS)


def encoded(body: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the sha and the bytes of a delta; the sha covers the parent's.

    Args:
        body: Its fields, but for the format.
    """
    data = canonical_json({"format": format_of(body), **body})
    return hashlib.sha256(data).hexdigest(), data


class RevisionFiles:
    """The `revisions` folder of a root. Reading needs no lock: a file there is whole and never changes.

    Of a root at a URL it is the folder that caches it, and what is asked for is fetched first.
    """

    def __init__(self, root: Path) -> None:
        """Open the revisions of a dataset root; the folder is made at the first write."""
        self.folder = user_path(root) / "revisions"
        self._current = user_path(root) / "CURRENT"
        self._mirror = mirror_of(user_path(root))

    def write(self, body: Mapping[str, Any]) -> str:
        """Write one delta durably; returns the sha of the revision."""
        sha, data = encoded(body)
        make_folder(self.folder)
        write_durably(self.folder / f"{body['number']:06d}-{sha[:12]}.json", data)
        return sha

    def keep_snapshot(self, sha: str, revision: Revision) -> None:
        """Write a revision in full, unless that is there, so that reading it needs none of its ancestors."""
        if self._snapshot(sha) is None:
            self.write_snapshot(sha, revision)

    def write_snapshot(self, sha: str, revision: Revision) -> None:
        """Write a revision in full."""
        write_columns(self.folder / f"{revision.number:06d}-{sha[:12]}.columns", columns_of(sha, revision))

    def current(self) -> str | None:
        """Read the sha of the newest published revision; None before the first."""
        if self._mirror is not None:
            return self._mirror.newest()
        return self._current.read_text("ascii", "replace").strip() if self._current.exists() else None

    def set_current(self, sha: str) -> None:
        """Point `CURRENT` to a revision, in one step."""
        write_durably(self._current, sha.encode() + b"\n")

    def listed(self) -> list[str]:
        """Name all revisions as `<number>-<first 12 of sha>`, oldest first."""
        if self._mirror is not None:
            return self._mirror.names()
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def shas(self) -> list[str]:
        """Name all revisions by the whole sha of what their files hold, oldest first."""
        return [_sha_of(path) for path in sorted(self.folder.glob("*.json"))]

    def resolve(self, sha: str) -> str:
        """Turn an abbreviated sha (at least 6 characters) into the full one.

        Raises:
            StoreError: If none or several revisions match; the message names those that exist.
        """
        if self._mirror is not None:
            self._mirror.bring(sha)
        matches = [path for path in self.folder.glob(f"*-{sha[:12]}*.json")] if _is_hex(sha) and len(sha) >= 6 else []
        found = [full for full in map(_sha_of, matches) if full.startswith(sha)]
        if len(found) == 1:
            return found[0]
        known = ", ".join(self.listed()[-20:]) or "none"
        where = self.folder.parent if self._mirror is None else self._mirror.objects.url
        raise StoreError(
            f"The revision '{sha}' {'is ambiguous' if found else 'does not exist'} in '{where}'."
            f" The revisions there are: {known}. Name one of them by its sha."
        )

    def body(self, sha: str) -> dict[str, Any]:
        """Read one delta and check its content against the sha."""
        if self._mirror is not None:
            self._mirror.bring(sha)
        paths = list(self.folder.glob(f"*-{sha[:12]}.json"))
        if not paths:
            self.resolve(sha)
        for path in paths:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha:
                body = _json_of(path, data)
                if body.get("format") not in FORMATS:
                    raise StoreError(
                        f"'{path}' has format {body.get('format')}. This program reads {FORMATS[0]} to {FORMATS[-1]}."
                        " Use the version of evolvedirector that wrote it."
                    )
                return body
        raise StoreError(f"'{paths[0]}' no longer has the content its name says. Restore it from a copy.")

    def child(self, parent_sha: str | None, number: int, round_id: str) -> str | None:
        """Find the revision that a round already published on this parent."""
        for path in sorted(self.folder.glob(f"{number:06d}-*.json")):
            data = path.read_bytes()
            body = json.loads(data)
            if body["parent"] == parent_sha and body["round_id"] == round_id:
                return hashlib.sha256(data).hexdigest()
        return None

    def load(self, sha: str) -> Revision:
        """Rebuild a revision from the nearest snapshot and the deltas after it."""
        chain: list[tuple[str, dict[str, Any]]] = []
        next_sha: str | None = sha
        base: Revision | None = None
        while next_sha is not None and (base := self._snapshot(next_sha)) is None:
            chain.append((next_sha, self.body(next_sha)))
            next_sha = chain[-1][1]["parent"]
        folding = Folding(base)
        for own_sha, body in reversed(chain):
            try:
                folding.fold(body)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise StoreError(
                    f"The revision {own_sha[:12]} in '{self.folder}' cannot be rebuilt ({type(error).__name__}:"
                    f" {error}). It has the bytes that its name says, and no program of this project wrote"
                    " them. Restore the root from a copy."
                ) from error
        return base if base is not None and not chain else folding.finish(sha)

    def _snapshot(self, sha: str) -> Revision | None:
        """Read a revision in full; None: there is no such file that is whole, and the deltas are read instead."""
        if self._mirror is not None:
            self._mirror.bring(sha)
        for path in self.folder.glob(f"*-{sha[:12]}.columns"):
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):  # whole, but nothing of ours
                columns = read_columns(path)
                if columns and columns.about["sha"] == sha and columns.about["format"] in FORMATS:
                    return revision_of(columns)
        for path in self.folder.glob(f"*-{sha[:12]}.snapshot"):  # JSON, as it was written before there were columns
            line, _, data = path.read_bytes().partition(b"\n")
            if hashlib.sha256(data).hexdigest().encode() == line:
                fields = json.loads(data)
                if fields["sha"] == sha and fields["format"] in FORMATS:
                    return apply(None, sha, fields)  # one large delta on nothing
        return None


def _json_of(path: Path, data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"'{path}' is no revision: {error}. Restore it from a copy.") from error
    if not isinstance(body, dict):
        raise StoreError(f"'{path}' is no revision: it holds no JSON object. Restore it from a copy.")
    return body


def _is_hex(text: str) -> bool:
    return bool(text) and set(text) <= set("0123456789abcdef")


def _sha_of(path: Path) -> str:
    with open(path, "rb") as file:  # the delta of a large import is large
        return hashlib.file_digest(file, "sha256").hexdigest()
