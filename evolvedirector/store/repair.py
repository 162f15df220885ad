"""Mend what a root itself still knows: shards from blobs, indexes from shards. Nothing else is touched."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evolvedirector.store.blobs import Blobs
from evolvedirector.store.dataset import lock_root
from evolvedirector.store.errors import StoreError
from evolvedirector.store.paths import user_path
from evolvedirector.store.revision import RevisionFiles
from evolvedirector.store.shards import index_tar, sample_members, write_index, write_shard
from evolvedirector.store.verify import Damage

_TAR, _INDEX = ".tar", ".index"


def repair_root(root: str | Path, damages: Sequence[Damage]) -> list[str]:
    """Pack damaged shards of samples anew from blobs, and make damaged indexes anew from their tars.

    A shard holds the same bytes whenever it is written, so what was packed anew is the old shard, or it is not kept.

    Args:
        root: The dataset root; nobody else may write to it.
        damages: What `verify_root` found.

    Returns:
        What was done or could not be done, a line for each damage that this is about.

    Raises:
        StoreError: Another process writes to the root.
    """
    root = user_path(root)
    lock = lock_root(root)
    try:
        said = []
        for damage in damages:
            path = root / damage.path
            if path.parent.name != "shards" or damage.is_harmless:
                continue
            try:
                if path.suffix == _TAR:
                    _pack(root, path.stem)
                elif path.suffix == _INDEX:
                    _index(root, path)
            except StoreError as error:
                said.append(f"{damage.path}: {error}")
            else:
                said.append(f"{damage.path}: mended")
        return said
    finally:
        os.close(lock)


def _pack(root: Path, name: str) -> None:
    files, blobs = RevisionFiles(root), Blobs(root)
    body = _adding(files, name)
    state = files.load(files.resolve(body["sha"])).state
    samples = {s.key: s for entry in state.entries.values() for s in entry.samples}
    packed = sorted((fields["ordinal"], fields["key"]) for fields in body["samples"] if fields["shard"] == name)
    members = []
    for _, key in packed:
        sample = samples[key]
        contents = {role: blobs.get(file.sha256) for role, file in sample.files.items()}
        members.append(sample_members(sample, blobs.get(sample.image_sha256), contents))
    there = set((root / "shards").iterdir())
    shard = write_shard(root / "shards", body["number"], members)
    if shard.name != name:
        written = {root / "shards" / f"{shard.name}{suffix}" for suffix in (_TAR, _INDEX)}
        for path in written - there:  # a fork may have the same samples in a shard of that name
            path.unlink()
        raise StoreError(
            "Its samples are in blobs/, but packed anew they are not the shard that the revision names: an earlier "
            "version wrote it. Only the same bytes are put in its place. Restore it from a copy of the root."
        )


def _adding(files: RevisionFiles, name: str) -> dict[str, Any]:
    """Return the delta of the revision that added a shard of samples, with its sha."""
    for sha in files.shas():
        body = files.body(sha)
        if any(shard["name"] == name for shard in body["shards"]):
            return {**body, "sha": sha}
    raise StoreError(
        "It holds files that were derived from samples. Only shards of samples lie in blobs/ as well. Restore it from "
        "a copy of the root, or derive them anew (`evolvedirector data show` lists them)."
    )


def _index(root: Path, path: Path) -> None:
    tar = path.with_suffix(_TAR)
    if not tar.exists():
        raise StoreError("Its tar is not there. An index is made from a whole tar. Mend the tar first.")
    with open(tar, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if not path.stem.endswith(f"-{sha256[:12]}"):  # an index of other bytes would make them pass as those of samples
        raise StoreError(
            "Of its tar the size fits, and its bytes are not those that its name says. An index is made from a whole "
            "tar. Verify without --quick, and mend the tar first."
        )
    write_index(path, index_tar(tar, companion=tar.name.startswith("c")), tar.stat().st_size)
