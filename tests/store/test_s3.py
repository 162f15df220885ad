"""The same on a server that speaks S3: a push that is killed before any of its calls, and two at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.store import RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.mirror import RootCache
from evolvedirector.store.objects import ObjectFiles
from evolvedirector.store.push import push_root
from tests.store.remote_roots import publish, publish_companion

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'evolvedirector[dev]'")
pytest.importorskip("moto.server", reason="moto's server is not installed: pip install 'evolvedirector[dev]'")
pytestmark = pytest.mark.slow
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 server on this machine; the keys of the environment are made up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "the server did not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URL of an empty place; keys and address come from the environment, as they always do."""
    for name, value in {
        "EVOLVEDIRECTOR_CACHE": str(tmp_path / "cache of the user"),
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{abs(hash(request.node.nodeid))}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/data"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("s3") / "data"
    publish(root, range(3), "import")
    publish(root, range(3, 5), "round1")
    publish_companion(root)
    return root


def objects_of(url: str) -> dict[str, bytes]:
    system = s3fs.S3FileSystem()
    system.invalidate_cache()
    base = url.removeprefix("s3://")
    found = system.find(base)
    return {path.removeprefix(f"{base}/"): data for path, data in (system.cat(found) if found else {}).items()}


def rows(root: Path | str, sha: str, cache: Path | None = None) -> list[dict[str, str | bytes]]:
    reader = RevisionReader(root, sha, cache=RootCache(str(cache)) if cache else None)
    return [reader.raw(row, verify=True) for row in range(len(reader))]


def _push(root: Path, url: str, dies_before: int) -> None:
    """Push, and be killed before the N-th call of the server."""
    count, real = 0, s3fs.S3FileSystem._call_s3

    async def counting(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == dies_before:
            os.kill(os.getpid(), signal.SIGKILL)
        return await real(self, *args, **options)

    s3fs.S3FileSystem._call_s3 = counting
    push_root(root, url)


def killed(root: Path, url: str, before: int) -> bool:
    """Push in a process of its own; returns whether it was killed."""
    process = FORK.Process(target=_push, args=(root, url, before))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_a_push_may_be_killed_before_any_call(root: Path, bucket: str, tmp_path: Path) -> None:
    shas = RevisionFiles(root).shas()
    wanted = {sha: rows(root, sha) for sha in shas}
    push_root(root, f"{bucket}-whole")
    whole = objects_of(f"{bucket}-whole")
    before = 0
    while True:
        before += 1
        url = f"{bucket}-{before}"
        was_killed = killed(root, url, before)
        there = objects_of(url)
        assert there.items() <= whole.items()
        for sha in shas:
            if any(name.startswith("revisions/") and name.endswith(f"{sha[:12]}.json") for name in there):
                assert rows(url, sha, tmp_path / "cache") == wanted[sha]
        if not was_killed:
            assert there == whole
            break
        push_root(root, url)
        assert objects_of(url) == whole
    assert before > len(whole)


def test_a_push_that_is_killed_again_and_again_comes_to_its_end(root: Path, bucket: str) -> None:
    push_root(root, f"{bucket}-whole")
    kills = 0
    while killed(root, bucket, 7):  # each does four new things at most
        kills += 1
    assert kills > 2
    assert objects_of(bucket) == objects_of(f"{bucket}-whole")


def test_two_may_push_at_a_time(root: Path, bucket: str, tmp_path: Path) -> None:
    push_root(root, f"{bucket}-whole")
    processes = [FORK.Process(target=_push, args=(root, bucket, 0)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert objects_of(bucket) == objects_of(f"{bucket}-whole")


def test_reading_is_that_of_the_folder(root: Path, bucket: str, tmp_path: Path) -> None:
    pushed = push_root(root, bucket)
    reader = RevisionReader(bucket, pushed.newest_sha, ("image", "note"), cache=RootCache(str(tmp_path / "cache")))
    here = RevisionReader(root, pushed.newest_sha, ("image", "note"))
    assert [reader.raw(row, verify=True) for row in range(len(reader))] == [here.raw(row) for row in range(len(here))]
    assert RevisionFiles(reader.root).current() == pushed.newest_sha
    alone = RootCache(str(tmp_path / "samples"), fetch="samples")
    assert rows(bucket, pushed.newest_sha) == rows(root, pushed.newest_sha)
    assert RevisionReader(bucket, pushed.newest_sha, cache=alone).raw(3) == RevisionReader(root, pushed.newest_sha).raw(
        3
    )
    text = "".join(p.read_text("utf-8", "replace") for p in reader.root.rglob("*.json"))
    assert "very-secret" not in text
    assert "made-up" not in text


def test_a_revision_is_created_where_there_is_none(bucket: str) -> None:
    objects = ObjectFiles(bucket)
    assert objects.create("revisions/000001-0123456789ab.json", b"one")
    assert not objects.create("revisions/000001-0123456789ab.json", b"two")
    assert objects.read("revisions/000001-0123456789ab.json", 10) == b"one"


def test_a_server_that_passes_over_the_condition_is_refused(
    root: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = s3fs.S3FileSystem._call_s3

    async def unconditional(self: Any, *args: Any, **options: Any) -> Any:
        options.pop("IfNoneMatch", None)
        return await real(self, *args, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", unconditional)
    with pytest.raises(StoreError, match="cannot create a name only where there is none"):
        push_root(root, bucket)
    assert objects_of(bucket).keys() == {"format.json"}


def test_what_the_backend_says_is_one_sentence_without_keys(root: Path, bucket: str) -> None:
    with pytest.raises(StoreError, match=r"'s3://no-such-bucket-here/data.*' cannot be") as told:
        push_root(root, "s3://no-such-bucket-here/data")
    assert "secret" not in str(told.value)
    assert "made-up" not in str(told.value)
