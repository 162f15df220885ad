"""Reading a root at a URL: the same rows, bytes and order, through a cache that several processes share."""

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from evolvedirector.errors import UserError
from evolvedirector.records import RevisionChange
from evolvedirector.store import DatasetStore, EvolvingDataset, RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.mirror import RootCache, local_root, mirror_of
from evolvedirector.store.objects import ObjectFiles
from evolvedirector.store.push import push_root
from tests.store.remote_roots import Fault, clear_memory, failing, objects_of, publish, publish_companion

URL = "memory://bucket/data"
ROLES = ("image", "note")


@pytest.fixture(autouse=True)
def empty_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Begin with nothing at any URL; no disk is waited for, since what is checked is read from the page cache."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("EVOLVEDIRECTOR_CACHE", str(tmp_path / "cache of the user"))
    clear_memory()
    yield
    clear_memory()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four revisions with samples and one with a companion."""
    root = tmp_path_factory.mktemp("built") / "data"
    for number in range(4):
        publish(root, range(3 * number, 3 * number + 3), f"round{number}")
    publish_companion(root)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "data"))


@pytest.fixture
def cache(tmp_path: Path) -> RootCache:
    return RootCache(str(tmp_path / "cache"))


def newest(root: Path) -> str:
    sha = RevisionFiles(root).current()
    assert sha is not None
    return sha


def rows(reader: RevisionReader) -> list[dict[str, str | bytes]]:
    return [reader.raw(row, verify=True) for row in range(len(reader))]


def largest(root: Path) -> int:
    """Return the bytes of the largest tar of samples."""
    return max(path.stat().st_size for path in tars(root) if path.name.startswith("r"))


def tars(folder: Path) -> list[Path]:
    return sorted((folder / "shards").glob("*.tar"))


def test_rows_bytes_and_order_are_those_of_the_root(root: Path, cache: RootCache) -> None:
    push_root(root, URL)
    for sha in RevisionFiles(root).shas():
        roles = ROLES if sha == newest(root) else ("image",)
        here, there = RevisionReader(root, sha, roles), RevisionReader(URL, sha, roles, cache=cache)
        assert rows(there) == rows(here)
        assert there.keys.tolist() == here.keys.tolist()
        orders = [reader.order(7, 4) for reader in (here, there)]
        assert [orders[0].rank_batch(b, 1, 2).tolist() for b in range(20)] == [
            orders[1].rank_batch(b, 1, 2).tolist() for b in range(20)
        ]
    copied = pickle.loads(pickle.dumps(there))
    assert rows(copied) == rows(here)


def test_the_dataset_for_other_loaders_takes_a_url(root: Path, cache: RootCache) -> None:
    push_root(root, URL)
    local_root(URL, cache)
    here = EvolvingDataset(root, newest(root), 8)
    there = EvolvingDataset(URL, newest(root), 8, cache=cache)
    assert len(there) == len(here) == 12
    assert (there[5]["image"] == here[5]["image"]).all()
    assert list(there.batch_sampler(4, batches=5)) == list(here.batch_sampler(4, batches=5))


def test_tars_are_fetched_when_a_sample_is_read_and_indexes_before(root: Path, cache: RootCache) -> None:
    push_root(root, URL)
    reader = RevisionReader(URL, newest(root), ROLES, cache=cache)
    assert len(list((reader.root / "shards").glob("*.index"))) == 5
    assert len(reader.image_digest(0)) == 64
    assert tars(reader.root) == []
    reader.raw(0)
    assert len(tars(reader.root)) == 2  # of the sample, and of its companion
    before = dict(MemoryFileSystem.store)
    MemoryFileSystem.store.clear()  # what is here needs nobody
    assert RevisionReader(reader.root, newest(root), ROLES).raw(0) == reader.raw(0)
    MemoryFileSystem.store.update(before)


def test_a_cache_brings_no_ancestors(root: Path, cache: RootCache) -> None:
    files = RevisionFiles(root)
    files.keep_snapshot(newest(root), files.load(newest(root)))
    push_root(root, URL)
    reader = RevisionReader(URL, newest(root), cache=cache)
    assert [path.suffix for path in sorted((reader.root / "revisions").iterdir())] == [".columns", ".json"]
    assert rows(reader) == rows(RevisionReader(root, newest(root)))


def test_the_least_recently_used_tars_go_and_open_ones_stay_readable(
    root: Path, cache: RootCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_root(root, URL)
    wanted = rows(RevisionReader(root, newest(root)))
    size = largest(root)
    small = RootCache(cache.folder, 2.5 * size / 2**30)
    reader = RevisionReader(URL, newest(root), cache=small)
    for row, sample in enumerate(wanted):
        assert reader.raw(row) == sample
        assert sum(path.stat().st_size for path in tars(reader.root)) <= 2.5 * size
    assert len(tars(reader.root)) == 2
    assert rows(reader) == wanted  # from the tars that are open
    assert sum(shard.descriptor >= 0 for shard in reader._open.values()) == 4
    monkeypatch.setattr("evolvedirector.store.reader._TOUCH_EVERY_S", 0.0)
    reader.raw(0)  # lets go of those that are no longer there, and fetches its own anew
    assert sum(shard.descriptor >= 0 for shard in reader._open.values()) <= 3
    assert rows(reader) == wanted


def test_a_used_tar_outlives_one_that_is_not(root: Path, cache: RootCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolvedirector.store.reader._TOUCH_EVERY_S", 0.0)
    push_root(root, URL)
    size = largest(root)
    reader = RevisionReader(URL, newest(root), cache=RootCache(cache.folder, 2.5 * size / 2**30))
    used, idle, third = 0, 3, 6  # three samples lie in each shard
    reader.raw(used)
    reader.raw(idle)
    held = tars(reader.root)
    for path in held:
        os.utime(path, (1, 1))
    reader._open.popitem()  # the second one is closed
    reader.raw(used)
    reader.raw(third)
    assert len(tars(reader.root)) == 2
    assert {path.name[:5] for path in tars(reader.root)} == {"r0001", "r0003"}


def test_a_cache_below_one_tar_and_one_below_the_revision_are_told(
    root: Path, cache: RootCache, caplog: pytest.LogCaptureFixture
) -> None:
    push_root(root, URL)
    with caplog.at_level(logging.WARNING):
        reader = RevisionReader(URL, newest(root), cache=RootCache(cache.folder, 1e-9))
    assert "fetched again and again" in caplog.text
    with pytest.raises(StoreError, match="must have room for one at least"):
        reader.raw(0)
    for size in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="max_gib is"):
            local_root(URL, RootCache(cache.folder, size))
    with pytest.raises(UserError, match=r"fetch is 'sample'\. Allowed are tars, samples"):
        local_root(URL, RootCache(cache.folder, fetch="sample"))  # type: ignore[arg-type]


def _read_all(url: str, sha: str, cache: RootCache, turn: int) -> list[dict[str, str | bytes]]:
    reader = RevisionReader(url, sha, cache=cache)
    found = [(row, reader.raw(row, verify=True)) for row in sorted(range(len(reader)), key=lambda r: (r * turn) % 13)]
    return [sample for _, sample in sorted(found, key=lambda pair: pair[0])]


def test_processes_share_a_small_cache(root: Path, cache: RootCache, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    push_root(root, url)
    wanted = rows(RevisionReader(root, newest(root)))
    size = largest(root)
    small = RootCache(cache.folder, 1.5 * size / 2**30)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        asked = [pool.apply_async(_read_all, (url, newest(root), small, turn)) for turn in (1, 5, 7, 11)]
        assert all(result.get(60) == wanted for result in asked)
    folder = local_root(url, small)
    assert len(tars(folder)) == 1
    assert not list((folder / "shards").glob(".*fetching"))


# ---- samples alone


def test_samples_can_be_read_without_their_tars(
    root: Path, cache: RootCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    push_root(root, URL)
    asked: list[tuple[str, int]] = []
    real = MemoryFileSystem.cat_file

    def noting(self: MemoryFileSystem, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        asked.append((path, (end or 0) - (start or 0)))
        return bytes(real(self, path, start, end))

    monkeypatch.setattr(MemoryFileSystem, "cat_file", noting)
    here = RevisionReader(root, newest(root), ROLES)
    there = RevisionReader(URL, newest(root), ROLES, cache=RootCache(cache.folder, 1e-9, "samples"))
    asked.clear()
    assert rows(there) == rows(pickle.loads(pickle.dumps(there))) == rows(here)
    assert there.raw(4, with_image=False) == here.raw(4, with_image=False)
    assert tars(there.root) == []
    assert len(asked) == 2 * (2 * len(here) + 1)  # a sample at once, and its file in the companion
    assert max(size for _, size in asked) < largest(root) / 2
    assert caplog.text == ""


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_sample_is_read_anew_once_and_then_an_error(
    root: Path, cache: RootCache, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    push_root(root, URL)
    reader = RevisionReader(URL, newest(root), cache=RootCache(cache.folder, fetch="samples"))
    name = next(name for name in objects_of(URL) if name.startswith("shards/r0001") and name.endswith(".tar"))
    whole = objects_of(URL)[name]
    if how == "gone":
        MemoryFileSystem().rm_file(f"/bucket/data/{name}")
    else:
        ObjectFiles(URL).write(name, whole[:700] if how == "cut" else bytes(b ^ 1 for b in whole))
    with pytest.raises(StoreError, match="is not there" if how == "gone" else "is damaged: it was fetched 2 times"):
        reader.raw(0)
    if how == "gone":
        return
    real = MemoryFileSystem.cat_file

    def mending(self: MemoryFileSystem, *args: Any, **options: Any) -> bytes:
        data = bytes(real(self, *args, **options))
        ObjectFiles(URL).write(name, whole)
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", mending)
    assert reader.raw(0) == RevisionReader(root, newest(root)).raw(0)


# ---- what is not as it should be


def test_any_call_may_fail_and_reading_again_does_the_rest(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_root(root, URL)
    wanted = rows(RevisionReader(root, newest(root), ROLES))
    for at in range(1, 200):
        own = RootCache(str(tmp_path / "caches" / str(at)))
        with failing(at, "before", monkeypatch) as calls:
            try:
                found = rows(RevisionReader(URL, RevisionFiles(local_root(URL, own)).current() or "", ROLES, cache=own))
                failed = False
            except StoreError as error:
                assert isinstance(error.__cause__, Fault)
                failed = True
        assert failed == (calls() >= at)
        folder = local_root(URL, own)
        only_whole_files(folder, root)
        assert not list((folder / "shards").glob(".*fetching"))
        if not failed:
            assert found == wanted
            break
        assert rows(RevisionReader(URL, newest(root), ROLES, cache=own)) == wanted
    assert not failed
    assert at > 15


DISK = ("fsync", "replace", "pwrite", "ftruncate", "mkdir")


def at_the_disk(at: int, what: Callable[[], None], patched: pytest.MonkeyPatch) -> Callable[[], int]:
    """Do something before the N-th operation of the disk; returns what counts them."""
    count = 0

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                what()
            return real(*args, **options)

        return call

    for name in DISK:
        patched.setattr(os, name, wrapped(getattr(os, name)))
    return lambda: count


def only_whole_files(folder: Path, root: Path) -> None:
    for path in (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        if path.name != "remote.json":
            assert path.read_bytes() == next(root.rglob(path.name)).read_bytes(), path


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_may_fail_at_any_operation_while_the_cache_is_filled(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    push_root(root, URL)
    wanted = rows(RevisionReader(root, newest(root), ROLES))

    def fails() -> None:
        raise OSError(number, os.strerror(number))

    for at in range(1, 500):
        own = RootCache(str(tmp_path / "caches" / str(at)))
        failed = False
        with monkeypatch.context() as patched:
            calls = at_the_disk(at, fails, patched)
            try:
                found = rows(RevisionReader(URL, newest(root), ROLES, cache=own))
            except (OSError, StoreError):
                failed = True
        assert failed == (calls() >= at)
        only_whole_files(tmp_path / "caches" / str(at), root)
        left = [path for path in (tmp_path / "caches" / str(at)).rglob(".*") if not path.name.endswith(".lock")]
        assert left == []
        if not failed:
            break
        assert rows(RevisionReader(URL, newest(root), ROLES, cache=own)) == wanted
    assert found == wanted
    assert at > 40


@pytest.mark.slow
def test_a_reader_may_be_killed_at_any_operation_of_the_disk(root: Path, tmp_path: Path) -> None:
    push_root(root, URL)
    wanted = rows(RevisionReader(root, newest(root), ROLES))

    def read(at: int, own: RootCache) -> None:
        at_the_disk(at, lambda: os.kill(os.getpid(), signal.SIGKILL), pytest.MonkeyPatch())
        assert rows(RevisionReader(URL, newest(root), ROLES, cache=own)) == wanted

    for at in range(1, 500):
        folder = tmp_path / "caches" / str(at)
        process = multiprocessing.get_context("fork").Process(target=read, args=(at, RootCache(str(folder))))
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        only_whole_files(folder, root)
        if process.exitcode == 0:
            break
        assert rows(RevisionReader(URL, newest(root), ROLES, cache=RootCache(str(folder)))) == wanted
        left = [path.name for path in folder.rglob(".*") if not path.name.endswith(".lock")]
        assert all(name.startswith((".format.json", ".remote.json")) for name in left)
    assert at > 40


@pytest.mark.parametrize("name", ["revisions/000002-*.json", "*.index", "*.index.sha256", "shards/r0001*.tar"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_what_is_damaged_is_fetched_anew_once_and_then_an_error(
    root: Path, cache: RootCache, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    push_root(root, URL)
    path = next(Path(n) for n in sorted(objects_of(URL)) if Path(n).match(name))
    key = f"/bucket/data/{path}"
    whole = objects_of(URL)[str(path)]
    if how == "gone":
        MemoryFileSystem().rm_file(key)
    else:
        damaged = whole[: len(whole) // 2] if how == "cut" else bytes([whole[0] ^ 1]) + whole[1:]
        MemoryFileSystem().pipe_file(key, damaged)
    with pytest.raises(StoreError) as told:
        rows(RevisionReader(URL, newest(root), cache=cache))
    assert path.name.partition(".")[0][-12:] in str(told.value)
    gone = "does not exist" if path.suffix == ".json" else "is not there"
    assert (gone if how == "gone" else "is damaged") in str(told.value)
    assert URL in str(told.value)
    folder = local_root(URL, cache)
    assert not (folder / path).exists()
    if how == "gone":
        return
    real = MemoryFileSystem.cat_file

    def mending(self: MemoryFileSystem, asked: str, *args: object, **options: object) -> bytes:
        data: bytes = real(self, asked, *args, **options)
        if asked.endswith(str(path)):
            MemoryFileSystem().pipe_file(key, whole)  # it was damaged on the way
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", mending)
    assert rows(RevisionReader(URL, newest(root), cache=cache)) == rows(RevisionReader(root, newest(root)))


def test_a_damaged_cache_of_a_revision_is_left_out(root: Path, cache: RootCache) -> None:
    files = RevisionFiles(root)
    files.keep_snapshot(newest(root), files.load(newest(root)))
    push_root(root, URL)
    name = next(name for name in objects_of(URL) if name.endswith(".columns"))
    ObjectFiles(URL).write(name, objects_of(URL)[name][:-1])
    reader = RevisionReader(URL, newest(root), cache=cache)
    assert rows(reader) == rows(RevisionReader(root, newest(root)))
    assert not list((reader.root / "revisions").glob("*.columns"))
    assert not list((reader.root / "revisions").glob(".*"))


def test_a_tar_that_was_cut_in_the_cache_is_fetched_anew(root: Path, cache: RootCache) -> None:
    push_root(root, URL)
    reader = RevisionReader(URL, newest(root), cache=cache)
    wanted = rows(reader)
    reader.close()
    os.truncate(tars(reader.root)[0], 700)
    assert rows(reader) == wanted


def test_what_a_killed_process_left_gives_its_room_back(root: Path, cache: RootCache) -> None:
    push_root(root, URL)
    size = largest(root)
    reader = RevisionReader(URL, newest(root), cache=RootCache(cache.folder, 1.5 * size / 2**30))
    left = reader.root / "shards" / ".r0009-0123456789ab.tar.fetching"
    left.write_bytes(bytes(size))
    reader.raw(0)
    assert not left.exists()


@pytest.mark.parametrize("hint", ["stale", "absent", "foreign", "ahead"])
def test_the_newest_is_found_whatever_current_says(root: Path, cache: RootCache, hint: str) -> None:
    push_root(root, URL)
    shas = RevisionFiles(root).shas()
    texts = {"stale": shas[1], "foreign": "x\xff\n", "ahead": "0" * 64}
    if hint == "absent":
        MemoryFileSystem().rm_file("/bucket/data/CURRENT")
    else:
        ObjectFiles(URL).write("CURRENT", texts[hint].encode())
    assert RevisionFiles(local_root(URL, cache)).current() == shas[-1] == newest(root)


def test_the_newest_follows_from_the_one_that_current_names(root: Path, cache: RootCache) -> None:
    shas = RevisionFiles(root).shas()
    with DatasetStore(root) as store:  # a fork of the second revision, which is then the newest by name of the root
        fork = store.publish(shas[1], "fork", RevisionChange())
    push_root(root, URL)
    assert RevisionFiles(local_root(URL, cache)).current() == fork
    ObjectFiles(URL).write("CURRENT", shas[2].encode())
    assert RevisionFiles(local_root(URL, cache)).current() == shas[-1]


def test_a_cache_of_a_revision_that_nobody_of_ours_wrote_is_left_out(root: Path, cache: RootCache) -> None:
    files = RevisionFiles(root)
    files.keep_snapshot(newest(root), files.load(newest(root)))
    push_root(root, URL)
    name = next(name for name in objects_of(URL) if name.endswith(".columns"))
    line = b"%012d" % 2
    ObjectFiles(URL).write(name, hashlib.sha256(line + b"[]").hexdigest().encode() + b" " + line + b"\n[]")
    assert rows(RevisionReader(URL, newest(root), cache=cache)) == rows(RevisionReader(root, newest(root)))


@pytest.mark.parametrize("parent", [5, "a", "", "../x", {}])
def test_a_parent_that_is_none_is_refused_and_not_followed(root: Path, cache: RootCache, parent: object) -> None:
    push_root(root, URL)
    data = json.dumps({"parent": parent}).encode()
    ObjectFiles(URL).write(f"revisions/000099-{hashlib.sha256(data).hexdigest()[:12]}.json", data)
    with pytest.raises(StoreError, match="names no parent that there can be"):
        RevisionFiles(local_root(URL, cache)).current()


def test_revisions_are_named_by_the_start_of_their_sha(root: Path, cache: RootCache) -> None:
    push_root(root, URL)
    sha = RevisionFiles(root).shas()[1]
    assert RevisionReader(URL, sha[:8], cache=cache).revision_sha == sha
    with pytest.raises(StoreError, match=f"does not exist in .*000002-{sha[:12]}"):
        RevisionReader(URL, "abcdef0123", cache=cache)
    with pytest.raises(StoreError, match="does not exist"):
        RevisionReader(URL, "../..", cache=cache)


def test_a_place_without_a_root_is_told(cache: RootCache) -> None:
    with pytest.raises(StoreError, match=r"is no dataset root.*data push ROOT memory://bucket/data"):
        RevisionReader(URL, "abcdef0123", cache=cache)


def test_a_format_of_something_else_is_told_by_its_url_and_asked_for_anew(root: Path, cache: RootCache) -> None:
    ObjectFiles(URL).write("format.json", b'{"name": "a game"}')
    with pytest.raises(StoreError, match="root 'memory://bucket/data' was written with format None"):
        RevisionReader(URL, newest(root), cache=cache)
    clear_memory()
    push_root(root, URL)
    assert rows(RevisionReader(URL, newest(root), cache=cache)) == rows(RevisionReader(root, newest(root)))


def test_nobody_writes_to_what_lies_at_a_url(root: Path, cache: RootCache) -> None:
    push_root(root, URL)
    with pytest.raises(StoreError, match="cannot be written to"):
        DatasetStore(local_root(URL, cache))
    with pytest.raises(StoreError, match="is a cache of another root"):
        push_root(local_root(URL, cache), "memory://bucket/copy")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"url": 3, "max_bytes": 1, "fetch": "tars"}',
        '{"url": "s3://a:b@c/d", "max_bytes": 1, "fetch": "tars"}',
        '{"url": "etc", "max_bytes": 1, "fetch": "tars"}',
        '{"url": "s3://c/d", "max_bytes": 1e999, "fetch": "tars"}',
        '{"url": "s3://c/d", "max_bytes": -1, "fetch": "tars"}',
        '{"url": "s3://c/d", "max_bytes": true, "fetch": "tars"}',
        '{"url": "s3://c/d", "max_bytes": 1, "fetch": "all"}',
    ],
    ids=range(10),
)
def test_a_folder_that_does_not_say_where_it_comes_from(cache: RootCache, text: str) -> None:
    folder = local_root(URL, cache)
    (folder / "remote.json").write_text(text)
    with pytest.raises(StoreError, match="does not say where a root lies"):
        mirror_of(folder)


def test_the_folder_of_the_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLVEDIRECTOR_CACHE", str(tmp_path / "all"))
    folder = local_root(URL)
    assert folder.parent == tmp_path / "all" / "roots"
    assert folder == local_root(URL + "/") != local_root(URL + "2")
    mirror = mirror_of(folder)
    assert mirror is not None
    assert mirror_of(tmp_path) is None
    assert mirror.max_bytes == 50 * 2**30
    local_root(URL, RootCache(None, 2))
    assert local_root(URL) == folder
    assert mirror_of(folder).max_bytes == 2 * 2**30  # type: ignore[union-attr]
