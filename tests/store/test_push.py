"""Publishing at a URL: whatever call fails, nothing torn can be read, and the same push again does the rest."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from evolvedirector.errors import UserError
from evolvedirector.store import DatasetStore, RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.collect import collect
from evolvedirector.store.compact import compact, plan_compaction
from evolvedirector.store.mirror import RootCache, local_root
from evolvedirector.store.objects import ObjectFiles, checked_url, is_url
from evolvedirector.store.push import push_root
from tests.store.remote_roots import Fault, clear_memory, failing, objects_of, publish, publish_companion

URL = "memory://bucket/data"


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
    """Two revisions with samples and one with a companion."""
    root = tmp_path_factory.mktemp("built") / "data"
    publish(root, range(3), "import")
    publish(root, range(3, 5), "round1")
    publish_companion(root)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "data"))


def rows(root: Path | str, sha: str, cache: Path | None = None) -> list[dict[str, str | bytes]]:
    """Read a revision whole, each member compared with its checksum."""
    reader = RevisionReader(root, sha, cache=RootCache(str(cache)) if cache else None)
    return [reader.raw(row, verify=True) for row in range(len(reader))]


def test_what_is_pushed_is_a_root_of_its_own_and_a_repeat_writes_nothing(root: Path) -> None:
    pushed = push_root(root, URL)
    assert pushed.revisions == 3
    assert pushed.newest_sha == RevisionFiles(root).current()
    there = objects_of(URL)
    names = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    published = {name for name in names if name.startswith(("shards/", "revisions/"))} | {"format.json", "CURRENT"}
    checksums = {f"{name}.sha256" for name in published if name.endswith(".index")}
    assert there.keys() == published | checksums
    assert all(there[name] == (root / name).read_bytes() for name in published)
    assert pushed.objects == len(there)
    assert pushed.size_bytes == sum(map(len, there.values()))
    for thorough in (False, True):
        again = push_root(root, URL, thorough=thorough)
        assert (again.revisions, again.objects) == (0, 0)
    assert objects_of(URL) == there


def test_the_next_revision_costs_what_it_brings(root: Path) -> None:
    push_root(root, URL)
    publish(root, range(5, 6), "round2")
    pushed = push_root(root, URL)
    assert (pushed.revisions, pushed.objects) == (1, 5)  # tar, index, checksum, revision, CURRENT


def test_the_revision_comes_after_all_that_it_names_and_current_last(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for method in ("pipe_file", "put_file"):
        real = getattr(MemoryFileSystem, method)

        def noting(self: MemoryFileSystem, *args: object, real=real, place=method == "put_file", **options: object):  # type: ignore[no-untyped-def]
            order.append(str(args[place]).rpartition("/")[2])
            return real(self, *args, **options)

        monkeypatch.setattr(MemoryFileSystem, method, noting)
    push_root(root, URL)
    assert order[-1] == "CURRENT"
    revisions = [name for name in order if name.endswith(".json") and name != "format.json"]
    assert revisions == sorted(revisions)
    for revision in revisions:
        own = [name for name in order if name[1:5] == revision[2:6] and name[0] in "rc"]
        assert own
        assert max(map(order.index, own)) < order.index(revision)


@pytest.mark.parametrize("how", ["before", "after", "cut"])
def test_any_call_may_fail_and_the_same_push_again_does_the_rest(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    push_root(root, URL)
    whole = objects_of(URL)
    shas = RevisionFiles(root).shas()
    wanted = {sha: rows(root, sha) for sha in shas}
    tried = 0
    for at in range(1, 200):
        clear_memory()
        with failing(at, how, monkeypatch) as calls:
            try:
                push_root(root, URL)
                failed = False
            except StoreError as error:
                assert isinstance(error.__cause__, Fault)
                failed = True
        assert failed == (calls() == at)
        tried += failed
        _nothing_torn(tmp_path / how / str(at), wanted)
        push_root(root, URL)
        assert objects_of(URL) == whole
        if not failed:
            break
    assert tried >= len(whole)
    assert not failed


@pytest.mark.parametrize("how", ["before", "after", "cut"])
def test_two_failures_in_a_row_change_nothing_of_that(root: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    push_root(root, URL)
    whole = objects_of(URL)
    clear_memory()
    for at in range(1, 60):  # goes on where the last one stopped, and fails one call later
        with failing(at, how, monkeypatch), pytest.raises(StoreError):
            push_root(root, URL)
            raise StoreError("done")
    push_root(root, URL)
    assert objects_of(URL) == whole


def _nothing_torn(cache: Path, wanted: dict[str, list[dict[str, str | bytes]]]) -> None:
    """Every revision whose name can be seen can be read whole, and what is called newest is one of them."""
    seen = {name for name in objects_of(URL) if name.startswith("revisions/") and name.endswith(".json")}
    for sha, rows_of in wanted.items():
        if any(sha[:12] in name for name in seen):
            assert rows(URL, sha, cache) == rows_of
    if not seen:
        return
    newest = RevisionFiles(local_root(URL, RootCache(str(cache)))).current()
    numbers = [sha for sha in wanted if any(sha[:12] in name for name in seen)]
    assert newest == numbers[-1]


def test_a_backend_that_cannot_create_exclusively_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryFileSystem.pipe_file
    monkeypatch.setattr(  # as a server that passes over If-None-Match
        MemoryFileSystem, "pipe_file", lambda self, path, value, mode="overwrite": real(self, path, value)
    )
    with pytest.raises(StoreError, match="cannot create a name only where there is none") as told:
        push_root(root, URL)
    assert len(str(told.value).splitlines()) == 1
    assert objects_of(URL).keys() == {"format.json"}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_refusal_that_does_not_say_why_is_one_where_the_name_is_taken(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = MemoryFileSystem.pipe_file

    def refusing(self: MemoryFileSystem, path: str, value: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise OSError(number, "At least one of the pre-conditions did not hold")
        real(self, path, value)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refusing)
    objects = ObjectFiles(URL)
    with pytest.raises(StoreError, match=r"cannot be written: .*pre-conditions"):
        objects.create("revisions/one.json", b"new")
    objects.write("revisions/one.json", b"old")
    assert objects.create("revisions/one.json", b"new") is False
    assert objects.read("revisions/one.json", 9) == b"old"


def test_a_backend_that_asks_first_and_writes_then_is_refused_before_it_is_asked(root: Path) -> None:
    with pytest.raises(StoreError, match="cannot create a name only where there is none"):
        push_root(root, "sftp://nobody.invalid/elsewhere")


def test_a_place_of_something_else_is_left_alone(root: Path, tmp_path: Path) -> None:
    foreign = ObjectFiles(URL)
    foreign.write("holiday.jpg", b"sea")
    with pytest.raises(StoreError, match=r"not empty and no dataset root: it holds 'holiday.jpg'"):
        push_root(root, URL)
    assert objects_of(URL) == {"holiday.jpg": b"sea"}
    clear_memory()
    foreign.write("format.json", b"{}")
    with pytest.raises(StoreError, match=r"holds a format.json of something else"):
        push_root(root, URL)
    clear_memory()
    publish(tmp_path / "other", range(9), "import")
    push_root(tmp_path / "other", URL)
    before = objects_of(URL)
    with pytest.raises(StoreError, match="holds another dataset"):
        push_root(root, URL)
    assert objects_of(URL) == before


def test_a_revision_is_never_overwritten(root: Path) -> None:
    push_root(root, URL)
    name = next(name for name in objects_of(URL) if name.startswith("revisions/000002"))
    ObjectFiles(URL).write(name, b"{}")
    with pytest.raises(StoreError, match="never overwritten"):
        push_root(root, URL)
    assert objects_of(URL)[name] == b"{}"


def test_a_thorough_push_brings_what_is_gone(root: Path) -> None:
    push_root(root, URL)
    whole = objects_of(URL)
    tar = next(name for name in whole if name.endswith(".tar"))
    for name in (tar, tar.replace(".tar", ".index")):
        MemoryFileSystem().rm_file(f"/bucket/data/{name}")
    assert push_root(root, URL).objects == 0
    push_root(root, URL, thorough=True)
    assert objects_of(URL) == whole


def test_nothing_damaged_is_pushed(root: Path) -> None:
    tar = next((root / "shards").glob("r0001*.tar"))
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    with pytest.raises(StoreError, match="nothing damaged is pushed"):
        push_root(root, URL)
    assert not any(name.endswith((".tar", ".json")) for name in objects_of(URL) if name != "format.json")


def test_a_root_whose_old_shards_were_collected_is_pushed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with DatasetStore(root, create=True):
        pass
    shas = [publish(root, range(3), "import")]
    publish(root, range(3, 6), "round1")
    with DatasetStore(root) as store:
        parent = store.revision(store.current() or "")
        shas.append(compact(store, parent, plan_compaction(root, parent)))
    collect(root, last=1)
    push_root(root, URL)
    assert rows(URL, shas[1], tmp_path / "cache") == rows(root, shas[1])
    with pytest.raises(StoreError, match="was collected before it was pushed"):
        RevisionReader(URL, shas[0], cache=RootCache(str(tmp_path / "cache")))


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("s3://key:secret@bucket/data", "user name or password"),
        ("s3://key@bucket/data", "user name or password"),
        ("abfs://box:secret@account.dfs.core.windows.net/data", "user name or password"),
        ("https://host/data?X-Amz-Signature=secret", "query or fragment"),
        ("simplecache::s3://bucket/secret", "chains file systems"),
        ("s3://buck et/secret", "white space"),
        ("S3://key:secret@bucket/data", "user name or password"),
        ("s3://[key:secret]/data", "brackets around"),
        ("s3://", "names no place"),
    ],
)
def test_no_url_with_a_secret_is_taken_or_repeated(url: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as told:
        ObjectFiles(url)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("name", ["backup/data", "/mnt/backup"])
def test_a_folder_to_push_to_is_told_how_it_is_written_as_a_url(root: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' is no URL.*s3://bucket/folder"):
        push_root(root, name)
    with pytest.raises(UserError, match="What was given is no URL"):
        ObjectFiles("s3:/key:secret@bucket")


def test_a_scheme_in_capitals_is_that_scheme_and_no_folder() -> None:
    assert is_url("S3://bucket/Data") and checked_url("S3://bucket/Data/") == "s3://bucket/Data"


def test_the_signature_of_an_address_in_an_error_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> bytes:
        raise OSError("403, message='Forbidden', url='https://host/data/CURRENT?sig=secret&se=1'")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refused)
    with pytest.raises(StoreError, match=r"cannot be read: 403.*'https://host/data/CURRENT\?\.\.\.'") as told:
        ObjectFiles(URL).read("CURRENT", 99)
    assert "secret" not in str(told.value)


def test_a_backend_that_is_not_installed_is_named() -> None:
    with pytest.raises(UserError, match=r"'nosuch://bucket' cannot be used: Protocol not known: nosuch.*pip install"):
        ObjectFiles("nosuch://bucket").sizes()


def test_a_container_before_the_host_is_no_password() -> None:
    assert ObjectFiles("abfs://box@account.dfs.core.windows.net/data/").url.endswith("net/data")


def test_a_file_url_is_written_whole_or_not_at_all(root: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    push_root(root, url)
    assert not list((tmp_path / "there").rglob(".*"))
    name = next((tmp_path / "there" / "revisions").iterdir())
    assert ObjectFiles(url).create(f"revisions/{name.name}", b"other") is False
    assert hashlib.sha256(name.read_bytes()).hexdigest()[:12] in name.name
    sha = RevisionFiles(root).current()
    assert sha is not None
    assert rows(url, sha, tmp_path / "cache") == rows(root, sha)
