"""Compaction: the same samples, bytes and order in fewer shards, and nothing else changed."""

import shutil
from pathlib import Path

import pytest

from evolvedirector.records import RevisionChange
from evolvedirector.store import DatasetStore, RevisionReader, StoreError
from evolvedirector.store.compact import compact, plan_compaction
from evolvedirector.store.delta import Revision
from evolvedirector.store.difference import difference
from evolvedirector.store.edits import newest
from evolvedirector.store.repair import repair_root
from evolvedirector.store.verify import verify_root
from tests.store.sample_files import embedding, kept, mask, thing


def rounds(root: Path, count: int = 6) -> None:
    """Make a root in which every round adds a shard, some with masks, and replaces, retires and masters others."""
    with DatasetStore(root, create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0), kept(store.blobs, 1))))
        for n in range(2, count):
            added = [
                kept(store.blobs, n, files={"mask": mask(n)} if n % 2 else {}),
                kept(store.blobs, 0, 100 + n, "again"),
            ]
            states = {3: {thing(1).id: "retired"}, 4: {thing(2).id: "mastered"}}.get(n, {})
            change = RevisionChange(samples=tuple(added), states=states, sample_weights={added[0].key: 2.0})
            sha = store.publish(sha, f"round{n}", change)
        keys = [sample.key for sample in newest(store).state.entries[thing(0).id].samples]
        for value, key in ((1, keys[0]), (2, keys[1]), (3, keys[0])):
            files = {"image_embedding": embedding(value)}
            sha = store.publish_companion(sha, f"clip{value}", [(key, files)], made_by="clip")


def rows(root: Path, revision: Revision, *roles: str) -> list[dict[str, object]]:
    reader = RevisionReader(root, revision.state.revision_sha, ("image",), optional_roles=("mask", "image_embedding"))
    return [reader.raw(row, verify=True) for row in range(len(reader))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    rounds(folder / "data")
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy")) / "data"


def test_the_same_content_lies_in_fewer_shards(root: Path) -> None:
    with DatasetStore(root) as store:
        before = newest(store)
        plan = plan_compaction(root, before)
        # the first image of a variant that every later round replaced is not copied
        assert (len(plan.shards), len(plan.samples), len(plan.companions), plan.new_shards) == (5, 7, 3, 2)
        sha = compact(store, before, plan)
        after = store.revision(sha)
        assert compact(store, before, plan) == sha == store.current()
        assert plan_compaction(root, after).is_empty
    assert (len(before.shards), len(after.shards), len(before.companions), len(after.companions)) == (5, 1, 3, 1)
    assert difference(before.state, after.state).is_empty
    assert list(before.state.entries.items()) == list(after.state.entries.items())  # ids, shas, states, in this order
    assert before.state.sample_weights == after.state.sample_weights
    assert rows(root, before) == rows(root, after) and len(rows(root, after)) == 6
    assert [shard.made_by for shard in after.companions.values()] == ["clip"]
    assert verify_root(root).damages == ()


def test_a_shard_holds_at_most_what_is_said(root: Path) -> None:
    with DatasetStore(root) as store:
        before = newest(store)
        after = store.revision(compact(store, before, plan_compaction(root, before, 6)))
    assert [shard.samples for shard in after.shards.values()] == [6, 1]
    assert [(e.prompt.id, e.state) for e in before.state.entries.values()] == [
        (e.prompt.id, e.state) for e in after.state.entries.values()
    ]
    assert rows(root, before) == rows(root, after)


def test_shards_that_are_half_full_are_left_alone(root: Path) -> None:
    with DatasetStore(root) as store:
        plan = plan_compaction(root, newest(store), 4)
    assert [name[:5] for name in plan.shards] == ["r0002", "r0003", "r0004"]  # one sample each; the others have two


def test_a_compacted_root_goes_on_and_is_mended_like_any_other(root: Path) -> None:
    with DatasetStore(root) as store:
        before = newest(store)
        sha = compact(store, before, plan_compaction(root, before))
        child = store.publish(sha, "round9", RevisionChange(samples=(kept(store.blobs, 9),)))
        tar = next(iter(store.revision(sha).shards))
        assert len(store.state(child).entries) == len(before.state.entries) + 1
    (root / "shards" / f"{tar}.tar").unlink()
    (line,) = repair_root(root, verify_root(root).damages)
    assert line.endswith(": mended") and verify_root(root).is_whole


def test_a_damaged_sample_stops_it(root: Path) -> None:
    tar = sorted(root.glob("shards/r0002-*.tar"))[0]
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    with DatasetStore(root) as store:
        before = newest(store)
        with pytest.raises(StoreError, match=r"is damaged\. Only what is whole is written anew"):
            compact(store, before, plan_compaction(root, before))
        assert store.current() == before.state.revision_sha


@pytest.mark.parametrize("count", [0, 10_001])
def test_no_size_of_a_shard(root: Path, count: int) -> None:
    with DatasetStore(root) as store, pytest.raises(StoreError, match=f"samples_per_shard is {count}. Allowed: 1 to"):
        plan_compaction(root, newest(store), count)
