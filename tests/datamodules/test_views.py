"""Pairs of views: which objects, which two views, which order, and what a resumed run goes on with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from evolvedirector.datamodules import ViewDataModule
from evolvedirector.datamodules import views as module
from evolvedirector.errors import UserError
from evolvedirector.pairs import DrawnSubjects, DrawnViews
from evolvedirector.pairs.key_ground import GROUNDS
from evolvedirector.pairs.view_source import ViewedObject
from evolvedirector.store import StoreError
from evolvedirector.worlds.shapes.cut_outs import ShapeCutOuts

SIDE = 12


class FewViews(DrawnViews):
    """Nine concepts in two art sets."""

    def __init__(self, count: int = 9) -> None:
        super().__init__(DrawnSubjects(ShapeCutOuts(), ["flat", "bold"]))
        self.count = count

    @property
    def fingerprint(self) -> str:
        return f"few {self.count}"

    def objects(self) -> list[ViewedObject]:
        groups = list(dict.fromkeys(viewed.group for viewed in super().objects()))[: self.count]
        return [viewed for viewed in super().objects() if viewed.group in groups]


def data(**settings: Any) -> ViewDataModule:
    numbers = {"global_batch_size": 4, "batches_per_epoch": 5, "image_size_px": SIDE, "held_out_share": 0.3}
    return ViewDataModule(**({"views": FewViews()} | numbers | settings))


def read(given: ViewDataModule) -> list[dict[str, Any]]:
    return list(given.train_dataloader())


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    tensors = ("image", "reference", "pose", "sample_seed")
    return one["key"] == other["key"] and all(torch.equal(one[name], other[name]) for name in tensors)


def test_a_sample_is_two_views_of_one_object_on_one_ground_and_the_turn_between_them() -> None:
    views = FewViews()
    objects = {viewed.name: viewed for viewed in views.objects()}
    for batch in read(data()):
        assert batch["image"].shape == (4, 3, SIDE, SIDE) and batch["image"].dtype == torch.uint8
        assert batch["pose"].dtype == torch.float32 and batch["skill"] == ["view"] * 4
        for key, prompt, image, reference, pose in zip(
            *(batch[name] for name in ("key", "prompt", "image", "reference", "pose")), strict=True
        ):
            assert prompt == objects[key].category
            assert tuple(image[:, 0, 0].tolist()) == tuple(reference[:, 0, 0].tolist()) in GROUNDS
            shown = reference.flip(2) if pose[3] else reference
            assert torch.equal(torch.rot90(shown, round(pose[2].item() / 90), (1, 2)), image)
            assert not torch.equal(image, reference) or pose.any()


def test_groups_are_held_out_whole_and_validated_on_always_alike() -> None:
    given = data()
    held = {viewed.group for viewed in given.held_out_objects()}
    trained = {key.split("|")[0] for batch in read(given) + read(given) + read(given) for key in batch["key"]}
    assert held and trained and not held & trained and len(held | trained) == 9
    first, second = list(given.val_dataloader()), list(given.val_dataloader())
    assert all(map(equal, first, second)) and len(first) == -(-len(given.held_out_objects()) // 4)
    assert {key for batch in first for key in batch["key"]} == {viewed.name for viewed in given.held_out_objects()}


def test_every_object_comes_once_in_each_pass() -> None:
    given = data(batches_per_epoch=7, held_out_share=0.3)
    count = len(FewViews().objects()) - len(given.held_out_objects())
    keys = [key for _ in range(4) for batch in read(given) for key in batch["key"]]
    assert len(set(keys[:count])) == count and sorted(keys[:count]) == sorted(keys[count : 2 * count])
    assert keys[:count] != keys[count : 2 * count]


@pytest.mark.parametrize("after", [2, 5, 7])
def test_a_resumed_run_reads_what_the_whole_one_does(after: int) -> None:
    whole, broken, resumed = data(), data(), data()
    expected = [batch for _ in range(3) for batch in read(whole)]
    found = []
    while len(found) < after:
        for batch in broken.train_dataloader():
            found.append(batch)
            if len(found) == after:
                break
    resumed.load_state_dict(broken.state_dict())
    while len(found) < 15:
        found += read(resumed)
    assert all(map(equal, expected, found))


def test_two_ranks_read_what_one_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = read(data()), []
    for rank in range(2):
        monkeypatch.setattr(module, "rank_and_world_size", lambda trainer, rank=rank: (rank, 2))
        parts.append(read(data()))
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch["key"] == first["key"] + second["key"]
        assert torch.equal(batch["image"], torch.cat([first["image"], second["image"]]))


@pytest.mark.slow
def test_workers_read_the_same() -> None:
    assert all(map(equal, read(data()), read(data(num_workers=2))))


def test_another_seed_is_another_order_and_references_may_have_a_size_of_their_own() -> None:
    batch = read(data(reference_size_px=20))[0]
    assert batch["reference"].shape == (4, 3, 20, 20) and batch["image"].shape == (4, 3, SIDE, SIDE)
    assert read(data(seed=1))[0]["sample_seed"].tolist() != batch["sample_seed"].tolist()


def test_views_without_poses_say_so() -> None:
    class Unknown(FewViews):
        def objects(self) -> list[ViewedObject]:
            return [replace(viewed, poses=(None,) * 5) for viewed in super().objects()]

    assert all(batch["pose"].isnan().all() for batch in read(data(views=Unknown())))


def test_a_checkpoint_of_other_objects_or_another_order_is_refused() -> None:
    state = data().state_dict()
    for changed, kind, said in (
        (data(views=FewViews(8)), UserError, "trained on the views 'few 9, .*', but the configuration says 'few 8, "),
        (data(held_out_share=0.2), UserError, r"held_out_share 0\.3', but .* held_out_share 0\.2'"),
        (data(global_batch_size=8), StoreError, "was trained with global_batch_size 4"),
        (data(seed=3), StoreError, "was trained with seed 0"),
    ):
        changed.load_state_dict(dict(state))
        with pytest.raises(kind, match=said):
            changed.train_dataloader()


def test_numbers_that_leave_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="held_out_share is 1e-09, which leaves none of the 18 objects in 9 groups"):
        data(held_out_share=1e-9).prepare_data()
    with pytest.raises(UserError, match="groups to train on"):
        data(held_out_share=0.999999).prepare_data()
    with pytest.raises(UserError, match="batches_per_epoch is 0"):
        data(batches_per_epoch=0)
