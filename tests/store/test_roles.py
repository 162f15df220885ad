"""Samples with further files, several samples of one prompt, and files that were derived later."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import webdataset

from evolvedirector.records import FileRef, RevisionChange, Sample
from evolvedirector.store import DatasetStore, EvolvingDataset, RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.derived import makers_of
from evolvedirector.store.files import checked_file
from tests.store.sample_files import embedding, kept, mask, npy, picture, thing

# webdataset does not close the tars it has read
leaves_files_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def publish_plain(store: DatasetStore, *numbers: int, parent: str | None = None) -> str:
    samples = tuple(kept(store.blobs, n) for n in numbers)
    return store.publish(parent, f"plain{min(numbers)}", RevisionChange(samples=samples))


def with_mask(store: DatasetStore, number: int, variant: str = "") -> Sample:
    files = {"mask": mask(number), "source": checked_file(picture(number + 100, kind="JPEG"), "jpg")}
    return kept(store.blobs, number, 50 if variant else 0, variant, files)


def derived(store: DatasetStore, sha: str, plus: int = 0) -> list[tuple[str, dict[str, FileRef]]]:
    samples = [sample for entry in store.state(sha).entries.values() for sample in entry.samples]
    return [(s.key, {"image_embedding": embedding(int(s.prompt.text.split()[1]) + plus)}) for s in samples]


# ---- roles


@leaves_files_open
def test_further_roles_lie_beside_the_image(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        samples = (with_mask(store, 0), kept(store.blobs, 1), with_mask(store, 2))
        sha = store.publish(None, "import", RevisionChange(samples=samples))
        assert store.state(sha).entries[thing(0).id].sample == samples[0]
    tars = [str(path) for path in (root / "shards").glob("*.tar")]
    streamed = {s["__key__"]: s for s in webdataset.WebDataset(tars, shardshuffle=False)}
    assert streamed.keys() == {sample.key for sample in samples}
    first = streamed[samples[0].key]
    assert {name for name in first if not name.startswith("__")} == {"png", "json", "txt", "mask.png", "source.jpg"}
    assert first["mask.png"] == mask(0).content and first["png"] == picture(0)
    assert {name for name in streamed[samples[1].key] if not name.startswith("__")} == {"png", "json", "txt"}
    plain = RevisionReader(root, sha)
    for row in range(3):
        assert set(plain.raw(row, verify=True)) == {"__key__", "json", "txt", "png"}
    assert [plain.raw(row)["png"] for row in range(3)] == [picture(n) for n in range(3)]


def test_only_the_roles_asked_for_are_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DatasetStore(root, create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=(with_mask(store, 0), with_mask(store, 1))))
        sha = store.publish_companion(sha, "clip", derived(store, sha))
    read: list[int] = []
    pread = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        read.append(size)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    for roles in (("image",), ("image", "mask"), ("mask",), ("image_embedding",), ("source", "image_embedding")):
        reader = RevisionReader(root, sha, roles)
        read.clear()
        raw = reader.raw(1, verify=True)
        found = {name.rpartition(".")[0] or "image" for name in raw if name not in ("__key__", "json", "txt")}
        assert found == set(roles)
        assert sum(read) == sum(len(data) for name, data in raw.items() if name != "__key__")
    again = pickle.loads(pickle.dumps(RevisionReader(root, sha, ("mask",))))
    assert set(again.raw(0)) == {"__key__", "json", "txt", "mask.png"}


def test_a_missing_role_is_an_error_when_the_revision_is_opened(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        bare = kept(store.blobs, 1)
        sha = store.publish(None, "import", RevisionChange(samples=(with_mask(store, 0), bare)))
    with pytest.raises(StoreError, match=f"The sample '{bare.key}' has no file of the role 'mask'"):
        RevisionReader(root, sha, ("image", "mask"))
    with pytest.raises(StoreError, match="has no file of the role 'depth', nor have 1 more of the 2"):
        EvolvingDataset(root, sha, roles=("depth",))
    for roles in ((), ("image", "image"), ("../x",)):
        with pytest.raises(StoreError, match="role"):
            RevisionReader(root, sha, roles)


def test_a_foreign_loader_reads_roles(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=(with_mask(store, 3),)))
        sha = store.publish_companion(sha, "clip", derived(store, sha))
    sample = EvolvingDataset(root, sha, 4, ("image", "mask", "source", "image_embedding"))[0]
    assert sample["image"].shape == sample["source"].shape == (4, 4, 3) and sample["mask"].shape == (4, 4, 1)
    assert sample["mask"].max() == 3 and sample["image_embedding"].tolist() == [3] * 4
    assert sample["prompt"] == "thing 3" and sample["skill"] == "skill1"


def test_a_sample_whose_file_is_missing_or_misnamed_is_not_published(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        image = store.blobs.put(picture(0))
        missing = Sample.create(thing(0), image, "toy", {"mask": mask(9)})
        misnamed = Sample("a", thing(0), image, "toy", {"../mask": store.blobs.put_files([mask(9)])[0]})
        store.blobs.path(mask(9).sha256).unlink()
        for sample in (missing, misnamed):
            with pytest.raises(StoreError, match=r"is not in|cannot be used"):
                store.publish(None, "import", RevisionChange(samples=(sample,)))
        assert store.current() is None


def test_an_index_without_the_role_that_the_revision_promises_is_damage(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=(with_mask(store, 0),)))
    index = next((root / "shards").glob("*.index"))
    index.write_bytes(index.read_bytes().replace(b"mask.png", b"hask.png"))
    with pytest.raises(StoreError, match="is damaged"):
        RevisionReader(root, sha, ("mask",)).raw(0)


# ---- old roots


def test_a_plain_revision_has_the_bytes_it_always_had(root: Path) -> None:
    """The sums change with the description of a sample alone (last when each field of it became a text)."""
    with DatasetStore(root, create=True) as store:
        sha = publish_plain(store, 0, 1, 2)
        assert sha[:12] == "230c9676805b"
    index = next((root / "shards").glob("*.index")).read_bytes()
    assert hashlib.sha256(index).hexdigest()[:12] == "0d48cb4fcbae"
    assert json.loads(next((root / "revisions").glob("*.json")).read_bytes())["format"] == 1


# ---- variants


def test_a_prompt_may_have_several_samples(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        first, second = kept(store.blobs, 0), kept(store.blobs, 0, 50, "second")
        one = store.publish(None, "import", RevisionChange(samples=(first, kept(store.blobs, 1), second)))
        third, replaced = kept(store.blobs, 0, 60, "third"), kept(store.blobs, 0, 70, "second")
        two = store.publish(one, "round1", RevisionChange(samples=(third, replaced)))
        three = store.publish(two, "round2", RevisionChange(states={thing(0).id: "mastered"}))
        four = store.publish(three, "round3", RevisionChange(states={thing(0).id: "retired"}))
        assert store.state(one).entries[thing(0).id].samples == (first, second)
        entry = store.state(three).entries[thing(0).id]
    assert entry.sample == first and entry.samples == (first, replaced, third) and entry.state == "mastered"
    assert [str(key) for key in RevisionReader(root, one).keys] == [
        first.key,
        second.key,
        RevisionReader(root, one).keys[2],
    ]
    reader = RevisionReader(root, three)
    images = [reader.raw(row, verify=True)["png"] for row in range(len(reader))]
    assert images == [picture(0), picture(70), picture(60), picture(1)]
    assert sorted(set(reader.order(0, 4).global_batch(0).tolist())) == [0, 1, 2, 3]
    assert len(RevisionReader(root, four)) == 1


def test_one_change_may_not_name_a_sample_or_a_variant_twice(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        same = kept(store.blobs, 0)
        for pair in ((same, same), (kept(store.blobs, 0, 1, "v"), kept(store.blobs, 0, 2, "v"))):
            with pytest.raises(StoreError, match="same prompt and variant"):
                store.publish(None, "import", RevisionChange(samples=pair))
        assert store.current() is None


def test_a_variant_that_comes_first_is_the_first_sample(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        second, plain = kept(store.blobs, 0, 50, "second"), kept(store.blobs, 0)
        sha = store.publish(None, "import", RevisionChange(samples=(second,)))
        sha = store.publish(sha, "round1", RevisionChange(samples=(plain,)))
        assert store.state(sha).entries[thing(0).id].samples == (second, plain)


# ---- companions


@leaves_files_open
def test_a_companion_gives_samples_a_role_and_leaves_older_revisions_alone(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        parent = publish_plain(store, 0, 1, 2)
        before = {path: path.read_bytes() for path in (root / "shards").iterdir()}
        sha = store.publish_companion(parent, "clip", derived(store, parent))
        assert store.current() == sha and store.number(sha) == 2
        assert store.publish_companion(parent, "clip", [("never", {})]) == sha  # the child that is there
        shard = next(iter(store.revision(sha).companions.values()))
        assert store.state(sha).entries == store.state(parent).entries
    assert shard.samples == 3 and shard.roles == ("image_embedding",) and shard.name.startswith("c0002-")
    assert all(path.read_bytes() == data for path, data in before.items())
    reader = EvolvingDataset(root, sha, roles=("image", "image_embedding"))
    assert [reader[row]["image_embedding"][0] for row in range(3)] == [0, 1, 2]
    with pytest.raises(StoreError, match="image_embedding"):
        RevisionReader(root, parent, ("image_embedding",))
    streamed = list(webdataset.WebDataset([str(root / "shards" / f"{shard.name}.tar")], shardshuffle=False))
    assert [set(s) - {"__key__", "__url__", "__local_path__"} for s in streamed] == [{"image_embedding.npy"}] * 3


def test_the_newest_companion_counts_and_several_are_joined(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolvedirector.store.dataset.MAX_SHARD_SAMPLES", 2)
    with DatasetStore(root, create=True) as store:
        sha = publish_plain(store, 0, 1, 2, 3, 4)
        sha = store.publish_companion(sha, "clip", derived(store, sha))
        sha = publish_plain(store, 5, parent=sha)
        with pytest.raises(StoreError, match="nor have 0 more of the 6"):
            RevisionReader(root, sha, ("image_embedding",))
        newer = [item for item in derived(store, sha, 10) if item[0].startswith((thing(5).id, thing(1).id))]
        sha = store.publish_companion(sha, "clip", newer)
        assert len(store.revision(sha).companions) == 4
    reader = EvolvingDataset(root, sha, roles=("image_embedding",))
    assert [int(reader[row]["image_embedding"][0]) for row in range(6)] == [0, 11, 2, 3, 4, 15]
    assert "image" not in reader[0]


def test_a_snapshot_keeps_roles_variants_and_companions(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolvedirector.store.revision.SNAPSHOT_EVERY", 3)
    with DatasetStore(root, create=True) as store:
        samples = (with_mask(store, 0), with_mask(store, 0, "second"), kept(store.blobs, 1))
        sha = store.publish(None, "import", RevisionChange(samples=samples))
        sha = store.publish_companion(sha, "clip", derived(store, sha))
        sha = publish_plain(store, 2, parent=sha)
        expected = store.revision(sha)
    snapshot = next((root / "revisions").glob("*.columns"))
    from_snapshot = RevisionFiles(root).load(sha)
    snapshot.unlink()
    assert from_snapshot == RevisionFiles(root).load(sha) == expected
    assert from_snapshot.state.entries[thing(0).id].samples == samples[:2]


def test_what_cannot_be_joined_is_refused_and_leaves_nothing(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=(with_mask(store, 0), kept(store.blobs, 1))))
        (masked, files), (plain, _) = derived(store, sha)
        no_array = FileRef.of(npy([1])[:-1], "application/x-npy")
        refused = [
            ([], "no file to publish"),
            ([("unknown-key", files)], "is not in the revision"),
            ([(plain, files), (plain, files)], "comes twice"),
            ([(masked, {"mask": mask(1)})], "has the role 'mask' of its own"),
            ([(plain, {})], "without a file"),
            ([(plain, {"a.b": mask(1)})], "cannot be used"),
            ([(plain, {"image": mask(1)})], "cannot be used"),
            ([(plain, {"image_embedding": no_array})], "cannot be used"),
        ]
        before = sorted(root.rglob("*"))
        for given, reason in refused:
            with pytest.raises(StoreError, match=reason):
                store.publish_companion(sha, "clip", given)
        assert store.current() == sha and sorted(root.rglob("*")) == before


def test_a_damaged_companion_is_noticed(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        sha = publish_plain(store, 0, 1)
        sha = store.publish_companion(sha, "clip", derived(store, sha))
    tar = next((root / "shards").glob("c*.tar"))
    reader = RevisionReader(root, sha, ("image_embedding",))
    whole = tar.read_bytes()
    at = whole.index(b"\x93NUMPY")
    tar.write_bytes(whole[:at] + b"XX" + whole[at + 2 :])
    with pytest.raises(StoreError, match=f"in '{tar}' is damaged"):
        reader.raw(0, verify=True)
    tar.write_bytes(whole[:-512])
    with pytest.raises(StoreError, match="bytes long"):
        RevisionReader(root, sha, ("image_embedding",))
    assert len(RevisionReader(root, sha)) == 2  # who does not ask for it does not open it


def test_what_is_derived_may_come_with_its_samples_and_says_who_made_it(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        samples = tuple(kept(store.blobs, n) for n in range(3))
        files = [(sample.key, {"image_embedding": embedding(n)}) for n, sample in enumerate(samples)]
        sha = store.publish(None, "round1", RevisionChange(samples=samples), iter(files), "clip a")
        assert store.revision(sha).number == 1 and len(store.revision(sha).companions) == 1
        assert store.publish(None, "round1", RevisionChange(samples=samples), iter(files), "clip a") == sha
        sha = store.publish_companion(sha, "newer", files[:1], "clip b")
        later = publish_plain(store, 5, parent=sha)
        assert makers_of(root, store.revision(later), "image_embedding") == {
            samples[0].key: "clip b",
            samples[1].key: "clip a",
            samples[2].key: "clip a",
        }
        with pytest.raises(StoreError, match="is not in the revision"):
            store.publish(later, "round2", RevisionChange(), iter([("unknown", files[0][1])]))
    assert RevisionReader(root, sha, ("image_embedding",)).makers("image_embedding") == {"clip a": 2, "clip b": 1}
    bodies = [json.loads(path.read_bytes()) for path in sorted((root / "revisions").glob("*.json"))]
    assert [body["format"] for body in bodies] == [4, 4, 1]  # a program that knows no makers must not read the first


def test_nothing_derived_leaves_a_revision_as_it_always_was(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        change = RevisionChange(samples=tuple(kept(store.blobs, n) for n in range(3)))
        assert store.publish(None, "plain0", change, iter(())) == publish_plain(store, 0, 1, 2)
