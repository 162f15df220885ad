"""Collection: what nothing names goes, and what a checkpoint, a newer revision or a book names stays."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from evolvedirector.records import ImageReply, RevisionChange
from evolvedirector.store import DatasetStore, RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.collect import collect
from evolvedirector.store.compact import compact, plan_compaction
from evolvedirector.store.edits import newest
from evolvedirector.store.ledger import Call
from evolvedirector.store.naming import note_run
from evolvedirector.store.verify import verify_root
from tests.store.sample_files import kept, picture
from tests.store.test_compact import rounds


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of nine revisions, the newest of which was compacted."""
    folder = tmp_path_factory.mktemp("made")
    rounds(folder / "data")
    with DatasetStore(folder / "data") as store:
        parent = newest(store)
        compact(store, parent, plan_compaction(store.root, parent))
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "somewhere")) / "data"


def shas(root: Path) -> list[str]:
    return RevisionFiles(root).shas()


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("ledger.sqlite-"))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def is_readable(root: Path, sha: str) -> bool:
    reader = RevisionReader(root, sha)
    try:
        return all(reader.raw(row, verify=True) for row in range(len(reader)))
    except StoreError:
        return False


def commit(folder: Path, sha: str) -> None:
    """Write the marker of a checkpoint that reads a revision."""
    folder.mkdir(parents=True)
    (folder / "COMMIT.json").write_text(json.dumps({"revision_sha": sha, "order": 1, "global_step": 1, "files": {}}))


def test_old_shards_go_and_the_last_revisions_stay(root: Path) -> None:
    before = contents(root)
    planned = collect(root, last=1, dry_run=True)
    assert {**contents(root), ".lock": b""} == {**before, ".lock": b""} and planned.garbage
    done = collect(root, last=1)
    assert done == planned
    assert done.size_bytes() == sum(len(before[g.path.relative_to(root).as_posix()]) for g in done.garbage)
    assert {g.kind for g in done.garbage} == {"shard", "derived", "blob"}  # the blobs of images that were replaced
    assert [is_readable(root, sha) for sha in shas(root)] == [False] * 8 + [True]
    assert verify_root(root).damages == ()
    assert collect(root, last=1).garbage == ()


def test_nothing_goes_where_every_revision_is_kept(root: Path) -> None:
    assert collect(root, last=20).garbage == ()


def test_what_an_earlier_collection_took_is_said_where_it_is_missed(root: Path) -> None:
    old = shas(root)[1]
    collect(root, last=1)
    with pytest.raises(StoreError, match="data collect` deleted the files of this revision"):
        RevisionReader(root, old).raw(0)
    with DatasetStore(root) as store:
        sample = kept(store.blobs, 30)
        with pytest.raises(StoreError, match=r"Revision 2 of .* cannot be used: .* has deleted"):
            store.publish(old, "fork", RevisionChange(samples=(sample,)))
    commit(root.parent / "checkpoints" / "step-1", old)
    assert collect(root, last=1).named_but_gone == (old,)


@pytest.mark.parametrize("how", ["marker", "file", "noted", "given", "config", "linked"])
def test_a_checkpoint_keeps_its_revision_and_what_follows_it(root: Path, tmp_path: Path, how: str) -> None:
    named = shas(root)[5]
    elsewhere = tmp_path / "runs" / "other"
    if how == "marker":
        commit(root.parent / "checkpoints" / "step-00000010", named)
    elif how == "linked":  # checkpoints lie on another disk
        commit(tmp_path / "scratch" / "checkpoints" / "step-00000010", named)
        (tmp_path / "scratch" / "checkpoints" / "circle").symlink_to(tmp_path / "scratch")
        elsewhere.mkdir(parents=True)
        (elsewhere / "checkpoints").symlink_to(tmp_path / "scratch" / "checkpoints")
        note_run(root, elsewhere)
    elif how == "config":
        (root.parent / "config.yaml").write_text(f"data: {{init_args: {{revision: {named[:8]}}}}}")
    elif how == "file":  # of Lightning's own callback
        folder = root.parent / "lightning_logs" / "version_0" / "checkpoints"
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "epoch=1.ckpt", "w") as archive:
            archive.writestr("epoch=1/data.pkl", b"..." + named.encode() + b"q\x01")
    else:
        commit(elsewhere / "checkpoints" / "step-00000010", named)
        if how == "noted":
            note_run(root, elsewhere)
    collect(root, last=1, runs=[elsewhere] if how == "given" else [])
    assert all(is_readable(root, sha) for sha in shas(root)[5:])  # without it none but the last one: see above
    assert verify_root(root).is_whole


def test_a_fork_of_a_checkpoint_is_kept_and_another_one_goes(root: Path) -> None:
    with DatasetStore(root) as store:
        all_shas = shas(root)
        lost = store.publish(all_shas[1], "fork", RevisionChange(samples=(kept(store.blobs, 50),)))
        found = store.publish(all_shas[7], "fork", RevisionChange(samples=(kept(store.blobs, 51),)))
        store.publish(all_shas[8], "round10", RevisionChange(samples=(kept(store.blobs, 52),)))
    commit(root.parent / "checkpoints" / "step-1", all_shas[7])
    collect(root, last=1)
    assert is_readable(root, found) and not is_readable(root, lost)
    assert verify_root(root).is_whole


def test_a_revision_that_was_collected_is_not_named_again_by_the_round_that_published_it(root: Path) -> None:
    with DatasetStore(root.parent / "forked", create=True) as store:
        first = store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0),)))
        change = RevisionChange(samples=(kept(store.blobs, 1),))
        store.publish(first, "fork", change)
        newest_sha = store.publish(first, "round1", RevisionChange(samples=(kept(store.blobs, 2),)))
    collect(root.parent / "forked", last=1)
    assert is_readable(root.parent / "forked", first)  # it lost nothing, so that somebody may go on from it
    with DatasetStore(root.parent / "forked") as store:
        with pytest.raises(StoreError, match="Revision 2 of"):
            store.publish(first, "fork", change)
        assert store.current() == newest_sha


def test_a_run_folder_that_is_gone_is_asked_about(root: Path, tmp_path: Path) -> None:
    note_run(root, tmp_path / "runs" / "moved")
    with pytest.raises(StoreError, match=r"moved' trained on .* and is not there now"):
        collect(root, last=1)
    assert collect(root, last=1, forget_missing_runs=True).garbage
    with pytest.raises(StoreError, match=r"The run folder .* is not there"):
        collect(root, runs=[tmp_path / "nowhere"], forget_missing_runs=True)


def test_a_folder_that_may_not_be_listed_stops_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, before, scandir = root.parent / "checkpoints" / "step-1", contents(root), os.scandir
    commit(closed, shas(root)[0])

    def refuse(path: str | Path) -> object:  # chmod stops no root user
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StoreError, match=r"step-1' cannot be read .*Permission denied.* nobody knows"):
        collect(root, last=1)
    monkeypatch.undo()
    assert contents(root) == before


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_ledger_that_does_not_know_the_root_stops_it(root: Path, how: str) -> None:
    for path in root.glob("ledger.sqlite*"):
        path.unlink()
    if how == "empty":
        (root / "ledger.sqlite").touch()
    before = contents(root)
    with pytest.raises(StoreError, match=r"ledger\.sqlite' knows nothing of revision .* Nothing is deleted"):
        collect(root, last=1)
    assert {**contents(root), ".lock": b""} == {**before, ".lock": b""}


def test_root_and_run_folder_may_be_moved_together(root: Path, tmp_path: Path) -> None:
    note_run(root, root.parent / "run")
    commit(root.parent / "run" / "checkpoints" / "step-1", shas(root)[0])
    root.parent.rename(tmp_path / "moved")
    assert collect(tmp_path / "moved" / "data", last=1).garbage == ()


def test_a_checkpoint_that_cannot_be_read_stops_it(root: Path) -> None:
    before = contents(root)
    folder = root.parent / "checkpoints" / "step-1"
    folder.mkdir(parents=True)
    (folder / "state.ckpt").write_bytes(b"half a zip")
    with pytest.raises(StoreError, match=r"cannot be read .* so nobody knows which revision it names"):
        collect(root, last=1)
    assert contents(root) == before


def test_what_was_paid_for_is_never_deleted(root: Path) -> None:
    with DatasetStore(root) as store:
        paid, drawn, orphan = (store.blobs.put(picture(n)) for n in (80, 81, 82))
        store.ledger.calls.reserve("round9", [Call("request", "prompt", "lineage", "toy")])
        store.ledger.calls.settle([(ImageReply("request", "image"), paid)])
        store.ledger.rounds.add_renders("round9", {"request": drawn})
    found = collect(root, last=1)
    with DatasetStore(root) as store:
        assert store.blobs.has(paid) and store.blobs.has(drawn) and not store.blobs.has(orphan)
    assert orphan in {g.path.stem for g in found.garbage}


def test_leftovers_go_and_foreign_files_stay(root: Path) -> None:
    blob = sorted((root / "blobs").glob("??"))[0]
    leftovers = [root / ".CURRENT.tmp.1", blob / ".a.png.tmp.1", root / "shards" / ".r0009.1.writing"]
    foreign = [root / "shards" / "notes.txt", blob / "mine.png", root / "blobs" / "notes.txt"]
    for path in (*leftovers, *foreign):
        path.write_bytes(b"x")
    found = collect(root, last=20)
    assert {g.path for g in found.garbage} == set(leftovers) and {g.kind for g in found.garbage} == {"leftover"}
    assert not any(path.exists() for path in leftovers) and all(path.exists() for path in foreign)


def test_caches_go_only_where_that_is_said(root: Path) -> None:
    cache = root / "caches" / "latents" / "1.latents"
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"x")
    assert collect(root, last=20).garbage == ()
    assert [g.path for g in collect(root, last=20, caches=True).garbage] == [cache]


def test_a_first_revision_that_was_not_named_yet_is_kept(root: Path) -> None:
    with DatasetStore(root.parent / "new", create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0),)))
    (root.parent / "new" / "CURRENT").unlink()  # its writer was stopped just before
    assert collect(root.parent / "new", last=1).garbage == ()
    assert is_readable(root.parent / "new", sha)


def test_it_is_refused_while_another_process_writes(root: Path) -> None:
    with DatasetStore(root), pytest.raises(StoreError, match="open for writing"):
        collect(root, last=1)
    with pytest.raises(StoreError, match="0 revisions would be kept"):
        collect(root, last=0)
