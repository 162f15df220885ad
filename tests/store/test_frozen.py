"""A frozen dataset: what a revision trains on, whole, in tars that others read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import webdataset
import yaml

from evolvedirector.cli import main
from evolvedirector.records import RevisionChange
from evolvedirector.store import DatasetStore, StoreError
from evolvedirector.store.frozen import SHARDS, freeze
from tests.store.sample_files import kept, mask

# webdataset does not close the tars it has read
leaves_files_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five samples with masks, of which one is retired in the newest revision."""
    with DatasetStore(tmp_path / "data", create=True) as store:
        samples = tuple(kept(store.blobs, number, files={"mask": mask(number)}) for number in range(5))
        first = store.publish(None, "import", RevisionChange(samples=samples))
        store.publish(first, "round1", RevisionChange(states={samples[2].prompt.id: "retired"}))
    return tmp_path / "data"


def read(folder: Path) -> list[dict[str, Any]]:
    return list(webdataset.WebDataset([str(path) for path in sorted(folder.glob(SHARDS))], shardshuffle=False))


@leaves_files_open
def test_it_holds_what_is_trained_on_and_nothing_else(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root.parent / "frozen"
    assert main(["data", "export", str(root), str(out), "--samples-per-shard", "3", "--roles", "mask"]) == 0
    assert "4 samples of revision 2" in capsys.readouterr().out
    samples = read(out)
    assert len(samples) == 4 and len(list(out.glob("*.tar"))) == 2
    assert all({"png", "txt", "json", "mask.png"} <= sample.keys() for sample in samples)
    assert main(["data", "keys", str(root)]) == 0
    assert {sample["__key__"] for sample in samples} == set(capsys.readouterr().out.split())
    front = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    (split,) = front["configs"][0]["data_files"]
    assert sorted(out.glob(split["path"])) == sorted(out.glob("*.tar"))
    assert {"png", "txt", "json", "mask.png"} <= {feature["name"] for feature in front["dataset_info"]["features"]}


@leaves_files_open
@pytest.mark.slow
def test_datasets_reads_it_with_its_masks(root: Path) -> None:
    import datasets

    out = root.parent / "frozen"
    assert main(["data", "export", str(root), str(out), "--samples-per-shard", "3", "--roles", "mask"]) == 0
    loaded = datasets.load_dataset(str(out), cache_dir=str(root.parent / "cache"))["train"]
    read_here = {sample["__key__"]: sample["txt"].decode() for sample in read(out)}
    assert {row["__key__"]: row["txt"] for row in loaded} == read_here
    assert all(row["png"].size == row["mask.png"].size and row["jpg"] is None for row in loaded)


def test_the_same_revision_gives_the_same_bytes_and_an_older_one_others(root: Path) -> None:
    with DatasetStore(root) as store:
        second = store.current() or ""
        first = store.revision(second).parent_sha or ""
    digests = {}
    for name, sha in (("a", second), ("b", second), ("c", first)):
        freeze(root, sha, root.parent / name)
        (tar,) = (root.parent / name).glob("*.tar")
        digests[name] = hashlib.sha256(tar.read_bytes()).hexdigest()
    assert digests["a"] == digests["b"] != digests["c"]


def test_what_cannot_be_written_leaves_nothing(root: Path) -> None:
    with DatasetStore(root) as store:
        sha = store.current() or ""
    before = sorted(root.parent.iterdir())
    with pytest.raises(StoreError, match="no file of the role 'depth'"):
        freeze(root, sha, root.parent / "x", ["image", "depth"])
    with pytest.raises(StoreError, match="not empty"):
        freeze(root, sha, root)
    tar = next((root / "shards").glob("r0001-*.tar"))
    tar.write_bytes(tar.read_bytes().replace(b"\x89PNG", b"\x89PNH"))
    with pytest.raises(StoreError, match="damaged"):
        freeze(root, sha, root.parent / "x")
    assert sorted(root.parent.iterdir()) == before
