"""The card of a root: what Hugging Face `datasets` is told to read, and that a user's own card is left alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import webdataset
import yaml

from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore, EvolvingDataset, dataset
from evolvedirector.store.card import CARD, card
from evolvedirector.store.files import checked_file
from evolvedirector.store.shards import sample_members
from tests.store.sample_files import embedding, kept, mask, picture

# webdataset does not close the tars it has read
leaves_files_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def front_matter(root: Path) -> dict[str, Any]:
    opening, matter, _ = (root / CARD).read_text("utf-8").split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(matter)


def columns(root: Path) -> dict[str, Any]:
    return {f["name"]: f.get("dtype", f.get("struct")) for f in front_matter(root)["dataset_info"]["features"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a seed, a child, a variant, files of their own, and a companion."""
    files = {"mask": mask(9), "note": checked_file(b"seen", "txt"), "numbers": embedding(1)}
    with DatasetStore(tmp_path / "data", create=True) as store:
        parent = kept(store.blobs, 0)
        first = store.publish(None, "import", RevisionChange(samples=(parent, kept(store.blobs, 0, 5, "b"))))
        image = store.blobs.put(picture(7, kind="JPEG"))
        child = Sample.create(Prompt.create("a child", "expansion", "skill0", parent.prompt), image, "toy")
        other = kept(store.blobs, 1, files=files)
        second = store.publish(first, "round1", RevisionChange(samples=(child, other)))
        store.publish_companion(second, "clip", [(parent.key, {"image_embedding": embedding(1)})])
    return tmp_path / "data"


@leaves_files_open
def test_the_card_names_the_tars_of_samples_and_the_columns_they_have(root: Path) -> None:
    (config,) = front_matter(root)["configs"]
    (split,) = config["data_files"]
    named = sorted(root.glob(split["path"]))
    assert len(named) == 2 and len(list((root / "shards").glob("*.tar"))) == 3
    found = columns(root)
    described = {field["name"]: field["dtype"] for field in found.pop("json")}
    assert {name: found[name] for name in ("png", "jpg", "webp", "mask.png", "txt", "note.txt", "__key__")} == {
        **dict.fromkeys(("png", "jpg", "webp", "mask.png"), "image"),
        **dict.fromkeys(("txt", "note.txt", "__key__"), "string"),
    }
    assert "numbers.npy" not in found and "image_embedding.npy" not in found, "their shapes are not known"
    samples = list(webdataset.WebDataset([str(path) for path in named], shardshuffle=False))
    assert len(samples) == 4
    for sample in samples:
        about = json.loads(sample["json"])
        assert about.keys() == described.keys()
        assert {type(value) for value in about.values()} == {str} and set(described.values()) == {"string"}
    assert {json.loads(sample["json"])["parent"] for sample in samples} == {"", Prompt.create("thing 0").id}


def test_a_card_that_was_changed_stays_and_one_that_was_removed_comes_back(tmp_path: Path) -> None:
    with DatasetStore(tmp_path, create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0),)))
        assert (tmp_path / CARD).read_text("utf-8") == card()
        (tmp_path / CARD).write_text("mine")
        with_mask = kept(store.blobs, 1, files={"mask": mask(9)})
        sha = store.publish(sha, "round1", RevisionChange(samples=(with_mask,)))
        assert (tmp_path / CARD).read_text("utf-8") == "mine"
        (tmp_path / CARD).unlink()
        sha = store.publish(sha, "round2", RevisionChange(samples=(kept(store.blobs, 2),)))
        assert (tmp_path / CARD).read_text("utf-8") == card(["mask.png"])
        with_note = kept(store.blobs, 3, files={"note": checked_file(b"x", "txt")})
        store.publish(sha, "round3", RevisionChange(samples=(with_note,)))
    assert {"mask.png", "note.txt"} <= columns(tmp_path).keys()


@pytest.mark.parametrize("parent", ["null", "missing"])
def test_descriptions_of_an_earlier_day_are_read(parent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_it_was(*given: Any) -> dict[str, Any]:
        members = sample_members(*given)
        about = {name: value for name, value in json.loads(members["json"]).items() if value}
        about |= {"parent": None} if parent == "null" else {}
        return {**members, "json": json.dumps(about).encode()}

    monkeypatch.setattr(dataset, "sample_members", as_it_was)
    with DatasetStore(tmp_path, create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0),)))
    read = EvolvingDataset(tmp_path, sha)[0]
    assert (read["prompt"], read["skill"]) == ("thing 0", "skill0")
