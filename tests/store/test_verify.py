"""A root that is whole is said to be; each kind of damage is found, named once, and mended where the root can."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from evolvedirector.records import ImageReply, RevisionChange
from evolvedirector.store import DatasetStore, RevisionReader, StoreError
from evolvedirector.store.ledger import Call
from evolvedirector.store.repair import repair_root
from evolvedirector.store.shards import Shard, index_tar, open_index
from evolvedirector.store.verify import verify_root
from tests.store.sample_files import embedding, kept, mask, thing


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with three revisions, one of them a fork: two shards of samples, one with masks, and a companion."""
    with DatasetStore(tmp_path / "data", create=True) as store:
        samples = [kept(store.blobs, number, files={"mask": mask(number)}) for number in range(3)]
        first = store.publish(None, "import", RevisionChange(samples=tuple(samples)))
        second = store.publish(first, "round1", RevisionChange(samples=(kept(store.blobs, 3),)))
        store.publish_companion(second, "clip", [(samples[0].key, {"image_embedding": embedding(1)})])
        store.publish(first, "round2", RevisionChange(states={thing(0).id: "retired"}))
    return tmp_path / "data"


def one(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[0]


def contents(root: Path) -> dict[Path, bytes]:
    """Read all files but those that SQLite lays beside a ledger while it reads."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("ledger.sqlite-"))
    return {path: path.read_bytes() for path in files}


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def other_index(root: Path) -> None:
    """Put the index of one shard beside another."""
    one(root, "shards/r0001-*.index").write_bytes(one(root, "shards/r0002-*.index").read_bytes())


def short_ledger(root: Path) -> None:
    """Cut the ledger in its middle."""
    path = root / "ledger.sqlite"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_whole_root_is_whole_and_nothing_in_it_is_changed(root: Path) -> None:
    before = contents(root)
    found = verify_root(root)
    assert found.is_whole and not found.damages
    assert (found.revisions, found.shards, found.blobs) == (4, 3, 7)
    assert found.bytes_read > 0 and verify_root(root, quick=True).bytes_read == 0
    assert contents(root) == before


@pytest.mark.parametrize(
    ("damage", "kind", "path", "said"),
    [
        (lambda r: one(r, "shards/r0001-*.tar").unlink(), "missing", "shards/r0001-", "3 samples up to revision 3"),
        (lambda r: flip(one(r, "shards/r0002-*.tar"), 600), "changed", "shards/r0002-", "not those that were written"),
        (lambda r: one(r, "shards/r0001-*.tar").write_bytes(b"x"), "short", "shards/r0001-", "it has 1 bytes"),
        (lambda r: flip(one(r, "shards/c*.tar"), 600), "changed", "shards/c0003-", "not those that were written"),
        (lambda r: one(r, "shards/r0001-*.index").unlink(), "missing", "shards/r0001-", "cannot be read"),
        (lambda r: flip(one(r, "shards/r0001-*.index")), "index", "shards/r0001-", "its record of"),
        (lambda r: one(r, "shards/r0001-*.index").write_bytes(b"x"), "index", "shards/r0001-", "no index"),
        (lambda r: flip(one(r, "revisions/000002-*.json")), "changed", "revisions/000002-", "what its name says"),
        (lambda r: one(r, "revisions/000001-*.json").unlink(), "revision", "revisions/000002-", "its parent"),
        (lambda r: (r / "CURRENT").write_text("0" * 64), "missing", "CURRENT", "it names 000000000000"),
        (lambda r: (r / "CURRENT").unlink(), "missing", "CURRENT", "it is not there, and 4 revisions are"),
        (lambda r: one(r, "shards/c*.tar").unlink(), "missing", "shards/c0003-", "1 samples up to revision 3"),
        (lambda r: one(r, "shards/c*.index").unlink(), "missing", "shards/c0003-", "cannot be read"),
        (lambda r: other_index(r), "index", "shards/r0001-", "it is of a tar of"),
        (
            lambda r: one(r, "revisions/000003-*.json").rename(r / "revisions" / "000003-0.json"),
            "changed",
            "rev",
            "its",
        ),
        (
            lambda r: (r / "ledger.sqlite").write_bytes(b""),
            "ledger",
            "ledger.sqlite",
            "it knows nothing of 3 revisions",
        ),
        (lambda r: short_ledger(r), "ledger", "ledger.sqlite", "cannot be read"),
        (lambda r: flip(one(r, "blobs/*/*.png")), "changed", "blobs/", "its name says"),
        (lambda r: (r / "ledger.sqlite").unlink(), "missing", "ledger.sqlite", "recorded nowhere else"),
        (lambda r: (r / "ledger.sqlite").write_bytes(b"no database at all"), "ledger", "ledger.sqlite", "cannot be"),
    ],
)
def test_each_kind_of_damage_is_found(
    root: Path, damage: Callable[[Path], object], kind: str, path: str, said: str
) -> None:
    damage(root)
    found = verify_root(root)
    assert not found.is_whole
    assert any(d.kind == kind and d.path.startswith(path) and said in d.what and d.advice for d in found.damages), found


def test_a_quick_look_compares_names_and_sizes_alone(root: Path) -> None:
    flip(one(root, "shards/r0001-*.tar"), 600)
    assert verify_root(root, quick=True).is_whole
    one(root, "shards/r0001-*.tar").write_bytes(b"")
    assert [damage.kind for damage in verify_root(root, quick=True).damages] == ["short"]


def test_what_belongs_to_nobody_is_told_and_harms_nothing(root: Path) -> None:
    (root / "shards" / "notes.txt").write_text("mine")
    (root / "shards" / ".r0009.1.writing").write_bytes(b"half")
    (root / "shards" / "r0009-000000000000.tar").write_bytes(b"unpublished")
    (root / "revisions" / "000032-000000000000.snapshot").write_bytes(b"damaged\n{}")
    found = verify_root(root)
    assert found.is_whole
    assert {(damage.kind, Path(damage.path).name) for damage in found.damages} == {
        ("foreign", "notes.txt"),
        ("leftover", ".r0009.1.writing"),
        ("leftover", "r0009-000000000000.tar"),
        ("leftover", "000032-000000000000.snapshot"),
    }


def test_a_ledger_and_revisions_that_contradict_each_other(root: Path) -> None:
    with DatasetStore(root) as store:
        image = next(iter(store.state(store.current() or "").entries.values())).sample
        assert image is not None
        store.ledger.calls.reserve("round1", [Call("request", "prompt", "lineage", "toy")])
        store.ledger.calls.settle([(ImageReply("request", "image"), image.image_sha256)])
    store.blobs.path(image.image_sha256).unlink()
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        ledger.execute("DELETE FROM revisions WHERE number = 1")
        ledger.execute("INSERT INTO revisions VALUES ('feed', 4, NULL, 'round9')")
    ledger.close()
    said = [damage.what for damage in verify_root(root).damages if damage.kind == "ledger"]
    assert len(said) == 3
    assert "1 revisions that it knows are not there whole, such as feed" in said[0]
    assert "it knows nothing of 1 revisions" in said[1]
    assert "1 files that were paid for are not in blobs/ whole; 1 of them are still in shards" in said[2]


def test_a_revision_whose_writer_was_stopped_before_the_ledger_knew_it(root: Path) -> None:
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        ledger.execute("DELETE FROM revisions WHERE number = 3")  # no child, and CURRENT names another one
    ledger.close()
    found = verify_root(root)
    assert found.is_whole
    ((kind, path, what),) = [(d.kind, d.path, d.what) for d in found.damages]
    assert kind == "leftover" and path.startswith("revisions/000003-") and "its writer was stopped" in what


def test_a_first_revision_that_was_not_named_yet_is_told_and_the_same_import_names_it(tmp_path: Path) -> None:
    with DatasetStore(tmp_path / "data", create=True) as store:
        store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0),)))
    (tmp_path / "data" / "CURRENT").unlink()
    found = verify_root(tmp_path / "data")
    assert found.is_whole and [d.kind for d in found.damages] == ["leftover"]


def test_an_empty_root_whose_first_writer_was_stopped_is_whole(tmp_path: Path) -> None:
    DatasetStore(tmp_path / "data", create=True).close()
    (tmp_path / "data" / "ledger.sqlite").write_bytes(b"")  # before it had its tables
    assert verify_root(tmp_path / "data").damages == ()


def test_shards_are_packed_anew_from_blobs_and_indexes_from_shards(root: Path) -> None:
    whole = {path.name: path.read_bytes() for path in (root / "shards").iterdir()}
    one(root, "shards/r0001-*.tar").unlink()
    one(root, "shards/r0001-*.index").unlink()
    flip(one(root, "shards/r0002-*.tar"), 600)
    flip(one(root, "shards/c*.index"))
    done = repair_root(root, verify_root(root).damages)
    assert all(line.endswith(": mended") for line in done) and len(done) == 3
    assert {path.name: path.read_bytes() for path in (root / "shards").iterdir()} == whole
    assert verify_root(root).is_whole
    reader = RevisionReader(
        root, next(iter(json.loads(p.read_text())["parent"] for p in root.glob("revisions/000003*")))
    )
    assert len(reader.keys) == 4


def test_what_cannot_be_mended_is_said_and_left_as_it_is(root: Path) -> None:
    companion, tar = one(root, "shards/c*.tar"), one(root, "shards/r0002-*.tar")
    flip(companion, 600)
    flip(tar, 600)
    damaged = companion.read_bytes(), tar.read_bytes()
    with DatasetStore(root) as store:
        store.blobs.path(kept(store.blobs, 3).image_sha256).unlink()
    said = repair_root(root, verify_root(root).damages)
    assert len(said) == 2 and "is not in" in said[0] + said[1] and "derived from samples" in said[0] + said[1]
    assert (companion.read_bytes(), tar.read_bytes()) == damaged


def test_no_index_is_made_of_a_tar_whose_bytes_are_others(root: Path) -> None:
    tar, index = one(root, "shards/r0001-*.tar"), one(root, "shards/r0001-*.index")
    index.unlink()
    flip(tar, 600)
    quick = verify_root(root, quick=True).damages  # names and sizes alone: the tar looks whole
    assert [damage.path for damage in quick] == [f"shards/{index.name}"]
    (said,) = repair_root(root, quick)
    assert "its bytes are not those" in said and not index.exists()


def test_a_shard_that_is_packed_otherwise_leaves_the_others_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other, lost = one(root, "shards/r0002-*.tar"), one(root, "shards/r0001-*.tar")
    lost.unlink()
    before = contents(root)
    shard = Shard(other.stem, 1, other.stat().st_size, "0" * 64)
    monkeypatch.setattr("evolvedirector.store.repair.write_shard", lambda *_: shard)
    (said,) = repair_root(root, verify_root(root).damages)
    assert "they are not the shard" in said and contents(root) == before


def test_nobody_else_may_write_while_it_is_mended(root: Path) -> None:
    one(root, "shards/r0001-*.index").unlink()
    with DatasetStore(root), pytest.raises(StoreError, match="open for writing"):
        repair_root(root, verify_root(root).damages)


def test_an_index_made_from_a_tar_is_the_one_that_was_written_with_it(root: Path) -> None:
    for tar in (root / "shards").glob("*.tar"):
        records, _ = open_index(tar.with_suffix(".index"))
        again = index_tar(tar, companion=tar.name.startswith("c"))
        assert records.dtype == again.dtype and records.tobytes() == again.tobytes()
