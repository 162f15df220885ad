"""Batches with further roles: what a module gets, from which bytes, and what is refused before training begins."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from safetensors.torch import save

from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.datamodules.batches import SampleCache, collate
from evolvedirector.records import FileRef, RevisionChange
from evolvedirector.store import DatasetStore, RevisionReader, StoreError
from evolvedirector.store.files import checked_file
from tests.store.sample_files import embedding, kept, mask, npy, picture

ROLES = ["image", "mask", "source", "image_embedding", "states", "boxes", "note"]


def files_of(number: int) -> dict[str, FileRef]:
    tensors = {"tokens": torch.full((2, 3), number, dtype=torch.bfloat16), "length": torch.tensor(number)}
    return {
        "mask": mask(number),
        "source": checked_file(picture(number + 100, (16, 8), kind="WEBP"), "webp"),
        "image_embedding": embedding(number),
        "states": checked_file(save(tensors), "safetensors"),
        "boxes": checked_file(f'{{"box": [{number}]}}'.encode(), "json"),
        "note": checked_file(f"note {number}".encode(), "txt"),
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with DatasetStore(tmp_path / "data", create=True) as store:
        samples = [kept(store.blobs, number, files=files_of(number)) for number in range(6)]
        samples.append(kept(store.blobs, 0, 50, "second", files_of(50)))
        store.publish(None, "import", RevisionChange(samples=tuple(samples)))
    return tmp_path / "data"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_carries_every_role_under_its_name(root: Path, workers: int) -> None:
    data = EvolvingDataModule(root, global_batch_size=7, image_size_px=4, roles=ROLES, num_workers=workers)
    batch = next(iter(data.train_dataloader()))
    numbers = batch["image_embedding"][:, 0].int().tolist()
    assert sorted(numbers) == [0, 1, 2, 3, 4, 5, 50]  # the variant is one more sample of its prompt
    assert batch["image"].dtype == batch["mask"].dtype == torch.uint8
    assert batch["image"].shape == (7, 3, 4, 4) and batch["mask"].shape == (7, 1, 4, 4)
    assert batch["source"].shape == (7, 3, 4, 4) and batch["source"].is_contiguous()
    assert batch["image"][:, 0, 0, 0].tolist() == batch["mask"][:, 0, 3, 3].tolist() == numbers
    assert batch["image_embedding"].dtype == torch.float32 and batch["image_embedding"].shape == (7, 4)
    assert batch["states"]["tokens"].dtype == torch.bfloat16 and batch["states"]["tokens"].shape == (7, 2, 3)
    assert batch["states"]["length"].tolist() == numbers
    assert batch["boxes"] == [{"box": [number]} for number in numbers]
    assert batch["note"] == [f"note {number}" for number in numbers]
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert all(moved[role].is_meta for role in ("image", "mask", "source", "image_embedding"))
    assert moved["states"]["tokens"].is_meta and not moved["sample_seed"].is_meta and moved["note"] == batch["note"]


def test_further_roles_change_neither_order_nor_images(root: Path) -> None:
    plain = EvolvingDataModule(root, global_batch_size=4, image_size_px=8, batches_per_epoch=5)
    all_roles = EvolvingDataModule(root, global_batch_size=4, image_size_px=8, batches_per_epoch=5, roles=ROLES)
    for one, other in zip(plain.train_dataloader(), all_roles.train_dataloader(), strict=True):
        assert set(one) == {"prompt", "key", "skill", "image", "sample_seed"}
        assert one["key"] == other["key"] and one["prompt"] == other["prompt"]
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["sample_seed"], other["sample_seed"])


def test_images_are_left_out_where_nobody_asks_for_them(root: Path) -> None:
    data = EvolvingDataModule(root, global_batch_size=4, roles=["image_embedding"])
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"prompt", "key", "skill", "image_embedding", "sample_seed"}


def test_a_missing_role_stops_before_training(root: Path) -> None:
    data = EvolvingDataModule(root, global_batch_size=4, roles=["image", "depth"])
    with pytest.raises(StoreError, match="has no file of the role 'depth'"):
        data.train_dataloader()
    for roles in ([], ["image", "image"], ["Mask"]):
        with pytest.raises(ValueError, match=r"Write"):
            EvolvingDataModule(root, roles=roles)


def test_a_newer_companion_is_read_although_the_sample_was_kept_in_memory(root: Path) -> None:
    with DatasetStore(root) as store:
        first = store.current() or ""
        keys = [s.key for entry in store.state(first).entries.values() for s in entry.samples]
        shas = [first]
        for value in (1, 2):
            files = ((key, {"score": checked_file(npy(value), "npy")}) for key in keys)
            shas.append(store.publish_companion(shas[-1], f"score {value}", files))
    data = EvolvingDataModule(root, global_batch_size=7, batches_per_epoch=1, roles=["score"], revision=shas[1])
    assert next(iter(data.train_dataloader()))["score"].tolist() == [1] * 7
    data.open_revision(shas[2])
    assert next(iter(data.train_dataloader()))["score"].tolist() == [2] * 7


def test_arrays_of_unequal_shape_are_one_clear_error() -> None:
    def sample(role: str, value: object) -> dict:
        return {"prompt": "", "key": "", "skill": "", role: value, "sample_seed": 0}

    pairs = [
        (np.zeros(2, np.float32), np.zeros(3, np.float32)),
        (np.zeros(2, np.float32), np.zeros(2, np.float64)),
        ({"a": torch.zeros(1)}, {"b": torch.zeros(1)}),
    ]
    for pair in pairs:
        with pytest.raises(StoreError, match="role 'states' in one batch"):
            collate([sample("states", value) for value in pair])


def test_roles_stand_in_a_config(root: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(EvolvingDataModule, "data")
    config = parser.parse_string(f"data: {{root: {root}, roles: [image, mask]}}")
    assert parser.instantiate_classes(config).data.roles == ("image", "mask")
    dumped = parser.dump(parser.parse_string(f"data: {{root: {root}}}"))
    assert "roles:\n  - image\n" in dumped
    assert parser.instantiate_classes(parser.parse_string(dumped)).data.roles == ("image",)


def sample(key: str) -> dict:
    return {"key": key, "image": np.zeros((2, 2, 3), np.uint8)}


def test_the_cache_fills_to_its_limit_and_makes_space_for_a_new_revision() -> None:
    cache = SampleCache(max_bytes=30)  # two images of 12 bytes
    for key in ("a", "a", "b", "c"):
        cache.add(sample(key))
    assert [cache.get(key) is not None for key in "abc"] == [True, True, False]
    cache.keep_only(["b", "c"])
    cache.add(sample("c"))
    assert [cache.get(key) is not None for key in "abc"] == [False, True, True]
    counted = SampleCache(max_bytes=30)
    counted.add({**sample("a"), "states": {"x": torch.zeros(5)}})  # 12 and 20 bytes
    assert counted.get("a") is None


def test_a_batch_makes_no_text_of_all_keys(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision may hold a million keys; a batch needs its own."""
    data = EvolvingDataModule(root, global_batch_size=3, image_size_px=4, roles=["image"])
    loader = data.train_dataloader()

    def all_keys(reader: RevisionReader) -> np.ndarray:
        raise AssertionError("a batch asked for every key of its revision")

    monkeypatch.setattr(RevisionReader, "keys", property(all_keys))
    assert len(next(iter(loader))["prompt"]) == 3
