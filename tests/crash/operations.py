"""What is done to a root while its disk goes wrong, and what must hold afterwards, whatever went wrong."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from evolvedirector.records import ImageReply, RevisionChange, Sample
from evolvedirector.store import DatasetStore, RevisionFiles, RevisionReader
from evolvedirector.store.collect import collect
from evolvedirector.store.compact import compact, plan_compaction
from evolvedirector.store.imports import CaptionedImage, import_images, new_root
from evolvedirector.store.latents import LatentFiles
from evolvedirector.store.ledger import Call
from evolvedirector.store.verify import verify_root
from tests.store.sample_files import embedding, kept, mask, picture, thing

BOUGHT = range(20, 24)
ROLES = ("mask", "image_embedding")


def buy_and_publish(root: Path) -> None:
    """Buy images of four prompts as a round does, what the ledger does not hold yet, and publish them."""
    with DatasetStore(root) as store:
        parent = RevisionFiles(root).resolve((root.parent / "started_from").read_text())
        calls = {f"request{n}": Call(f"request{n}", thing(n).id, thing(n).id, "toy") for n in BOUGHT}
        missing = [key for key in calls if key not in store.ledger.calls.replies(list(calls))]
        store.ledger.prompts.add([thing(n) for n in BOUGHT])
        for group in (missing[:2], missing[2:]):
            store.ledger.calls.reserve("round", [calls[key] for key in group], price_usd=0.5)
            images = [_asked(root, key) for key in group]
            names = store.blobs.put_many(images)
            replies = [ImageReply(key, "image", cost_usd=0.5) for key in group]
            store.ledger.calls.settle(list(zip(replies, names, strict=True)))
        found = store.ledger.calls.replies(list(calls))
        samples = [Sample.create(thing(n), found[f"request{n}"].image_sha256 or "", "toy") for n in BOUGHT]
        derived = [(sample.key, {"image_embedding": embedding(n)}) for n, sample in zip(BOUGHT, samples, strict=True)]
        with mock.patch("evolvedirector.store.revision.SNAPSHOT_EVERY", 2):  # so that one is written, too
            store.publish(parent, "round", RevisionChange(samples=tuple(samples)), derived, made_by="clip")


def _asked(root: Path, request_id: str) -> bytes:
    """Sell an image, and note it where a service would."""
    descriptor = os.open(root.parent / "asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{request_id}\n".encode())
    os.close(descriptor)
    return picture(int(request_id.removeprefix("request")))


def compact_newest(root: Path) -> None:
    """Compact the revision that the work began with."""
    with DatasetStore(root) as store:
        parent = store.revision(RevisionFiles(root).resolve((root.parent / "started_from").read_text()))
        compact(store, parent, plan_compaction(root, parent))


def collect_garbage(root: Path) -> None:
    """Collect what neither the newest revision nor the checkpoint names."""
    collect(root, last=1)


def import_pictures(root: Path) -> None:
    """Make a root of three captioned pictures; where a stopped import has published already, there is nothing to do."""
    if (root / "CURRENT").exists():
        return
    with new_root(root) as store:
        import_images(store, [CaptionedImage(f"{n}.png", thing(n).text, picture(n)) for n in range(3)])


def fill_cache(root: Path) -> None:
    """Write three groups of latents, as a rank does; a disk that takes none of it ends nothing."""
    import warnings

    files = LatentFiles(root / "caches" / "latents", 2**30, "codec")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for group in range(3):
            latents = {_latent_key(files, n): (_latent(n), None) for n in range(4 * group, 4 * group + 4)}
            files.write({key: latents[key] for key in files.missing(latents)})
    files.close()


def _latent_key(files: LatentFiles, number: int) -> str:
    return files.key(str(number), 8, 8)


def _latent(number: int) -> np.ndarray:
    return np.full((4, 8, 8), number, np.float32)


def grown(root: Path) -> None:
    """Make a root of five revisions in small shards, with masks, a companion twice, and a fork."""
    with DatasetStore(root, create=True) as store:
        samples = [kept(store.blobs, n, files={"mask": mask(n)}) for n in range(2)]
        sha = first = store.publish(None, "import", RevisionChange(samples=tuple(samples)))
        for n in (2, 3):
            change = RevisionChange(samples=(kept(store.blobs, n), kept(store.blobs, 0, 100 + n, "again")))
            sha = store.publish(sha, f"round{n}", change)
        store.publish(first, "fork", RevisionChange(samples=(kept(store.blobs, 9),), states={thing(1).id: "retired"}))
        for value in (1, 2):
            files = {"image_embedding": embedding(value)}
            sha = store.publish_companion(sha, f"clip{value}", [(samples[0].key, files)], made_by="clip")
    begin_at(root, sha)


def begin_at(root: Path, sha: str) -> None:
    """Name the revision that work begins with, and let a checkpoint name it, too."""
    (root.parent / "started_from").write_text(sha)
    folder = root.parent / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "COMMIT.json").write_text(json.dumps({"revision_sha": sha, "global_step": 1, "order": 1}))


def grown_and_compacted(root: Path) -> None:
    """Make a root whose old shards nobody reads: the checkpoint names its compacted revision; one blob is an orphan."""
    grown(root)
    compact_newest(root)
    with DatasetStore(root) as store:
        begin_at(root, store.current() or "")
        store.blobs.put(picture(200))


@dataclass(frozen=True)
class Operation:
    """Something that changes a root, and what it starts from."""

    base: Callable[[Path], None]
    work: Callable[[Path], None]
    moves_current: bool = True


OPERATIONS = {
    "publish": Operation(grown, buy_and_publish),
    "compact": Operation(grown, compact_newest),
    "collect": Operation(grown_and_compacted, collect_garbage, moves_current=False),
    "import": Operation(lambda root: None, import_pictures),
    "cache": Operation(grown, fill_cache, moves_current=False),
}


def folder_in_memory() -> tempfile.TemporaryDirectory[str]:
    """Make a folder that no disk lies under, where there is one: SQLite's own fsyncs cost nothing there."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Leave out real fsyncs: what is checked here is read from the page cache."""
    with mock.patch.object(os, "fsync", lambda descriptor: None):
        yield


def contents(root: Path, sha: str) -> list[dict[str, str | bytes]]:
    """Read everything that a revision trains on, each byte compared with its sha256."""
    reader = RevisionReader(root, sha, optional_roles=ROLES)
    try:
        return [reader.raw(row, verify=True) for row in range(len(reader))]
    finally:
        reader.close()


@dataclass
class Reference:
    """What an uninterrupted run started from and ended with."""

    folder: Path
    """Of the untouched base, and of `work`."""
    operation: Operation
    before: str | None
    before_contents: list[dict[str, str | bytes]]
    after: str | None = None
    after_contents: list[dict[str, str | bytes]] | None = None
    files: frozenset[str] = frozenset()


def prepared(operation: Operation, folder: Path) -> Reference:
    """Make the base of an operation, and carry it out once undisturbed."""
    base = folder / "base" / "data"
    base.parent.mkdir(parents=True)
    with no_waiting():
        operation.base(base)
        before = RevisionFiles(base).current() if base.exists() else None
        reference = Reference(folder, operation, before, contents(base, before) if before else [])
        root = copy_of(reference, "whole")
        operation.work(root)
    reference.after = RevisionFiles(root).current()
    reference.after_contents = contents(root, reference.after or "")
    reference.files = _files(root)
    return reference


def copy_of(reference: Reference, name: str) -> Path:
    """Copy the base; returns the root in the copy."""
    target = reference.folder / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(reference.folder / "base", target)
    return target / "data"


def _files(root: Path) -> frozenset[str]:
    """Name what a root holds, but for locks, books of SQLite that come and go, and files of random names."""
    names = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return frozenset(n for n in names if ".sqlite-" not in n and not n.endswith((".lock", ".latents")))


def wrong_after(reference: Reference, root: Path) -> list[str]:
    """List what does not hold in a root after its disk went wrong, and after the same work was begun again."""
    wrong: list[str] = []
    settled: set[str] = set()
    if (root / "format.json").exists():
        wrong += [f"{d.path}: {d.what}" for d in verify_root(root).damages if not d.is_harmless and not _is_unborn(d)]
        current = RevisionFiles(root).current()
        if current not in (reference.before, reference.after):
            wrong.append(f"CURRENT is {current}")
        if reference.before is not None and contents(root, reference.before) != reference.before_contents:
            wrong.append("the revision of before reads otherwise")
        if current is not None and current == reference.after:
            wrong += [] if contents(root, current) == reference.after_contents else ["the new revision reads otherwise"]
        settled = _settled(root)
    elif reference.before is not None:
        wrong.append("there is no root any more")
    _check_latents(root, wrong)
    asked = _asked_so_far(root)
    with no_waiting():
        reference.operation.work(root)
    again = _asked_so_far(root)[len(asked) :]
    if set(again) & settled or max(map(again.count, again), default=0) > 1:
        wrong.append(f"bought twice: {again} though {sorted(settled)} were in the books")
    if RevisionFiles(root).current() != reference.after:
        wrong.append("the same work ends elsewhere")
    elif contents(root, reference.after or "") != reference.after_contents:
        wrong.append("the same work ends with other contents")
    missing = reference.files - _files(root)
    more = {n for n in _files(root) - reference.files if ".tmp." not in n}
    if missing or more:
        wrong.append(f"files that are missing {sorted(missing)}, that are too many {sorted(more)}")
    wrong += [f"{d.path}: {d.what} (at the end)" for d in verify_root(root).damages if not d.is_harmless]
    _check_latents(root, wrong, all_there=reference.operation.work is fill_cache)
    return wrong


def _is_unborn(damage: object) -> bool:
    return "ledger.sqlite" in str(damage) and "recorded nowhere else" in str(damage)


def _settled(root: Path) -> set[str]:
    if not (root / "ledger.sqlite").exists():
        return set()
    from evolvedirector.store import Ledger

    with Ledger.for_reading(root / "ledger.sqlite") as ledger:
        return set(ledger.calls.replies([f"request{n}" for n in BOUGHT]))


def _asked_so_far(root: Path) -> list[str]:
    path = root.parent / "asked"
    return path.read_text().split() if path.exists() else []


def _check_latents(root: Path, wrong: list[str], all_there: bool = False) -> None:
    files = LatentFiles(root / "caches" / "latents", 2**30, "codec", writes=False)
    for number in range(12):
        found = files.read(_latent_key(files, number))
        if found is None:
            wrong += [f"latent {number} is missing"] if all_there else []
        elif not np.array_equal(found[0], _latent(number)):
            wrong.append(f"latent {number} is torn")
    files.close()
