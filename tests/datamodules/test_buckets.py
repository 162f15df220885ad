"""Training in aspect buckets: no square crops, one size a batch, equal counts on every rank, how images were cut."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.datamodules.batches import RevisionBatches
from evolvedirector.errors import UserError
from evolvedirector.planning.preflight import RunOptions, problems_of_options
from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore, EvolvingDataset, RevisionReader, StoreError
from evolvedirector.store.images import crop_top_left_px, fit_size

BUCKETS = [(16, 16), (24, 12), (12, 24)]
SHAPES = [(32, 32), (40, 16), (24, 48), (50, 26)]
"""Width and height of the images: square, wider than its bucket, exactly twice as large, nearly twice."""


def striped(width_px: int, height_px: int) -> bytes:
    """Draw columns that grow brighter from left to right and rows that grow redder, so that a crop can be told."""
    pixels = np.zeros((height_px, width_px, 3), np.uint8)
    pixels[..., 0] = (np.arange(width_px) * 5)[None, :]
    pixels[..., 1] = (np.arange(height_px) * 5)[:, None]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("buckets") / "data"
    with DatasetStore(folder, create=True) as store:
        images = store.blobs.put_many([striped(*SHAPES[number % 4]) for number in range(16)])
        samples = [
            Sample.create(Prompt.create(f"thing {number}", skill=f"skill{number % 2}"), image, "toy")
            for number, image in enumerate(images)
        ]
        store.publish(None, "import", RevisionChange(samples=tuple(samples)))
    return folder


def module(root: Path, **changes: Any) -> EvolvingDataModule:
    settings: dict[str, Any] = {"global_batch_size": 4, "batches_per_epoch": 12, "image_size_px": 16}
    return EvolvingDataModule(root, **(settings | {"buckets": BUCKETS} | changes))


def test_every_batch_has_the_size_of_one_bucket_and_says_how_it_was_cut(root: Path) -> None:
    seen = set()
    for batch in module(root).train_dataloader():
        height_px, width_px = batch["image"].shape[-2:]
        assert batch["image"].shape == (4, 3, height_px, width_px) and (width_px, height_px) in BUCKETS
        seen.add((width_px, height_px))
        assert batch["original_size_px"].dtype == batch["crop_top_left_px"].dtype == torch.int64
        for original, crop in zip(batch["original_size_px"].tolist(), batch["crop_top_left_px"].tolist(), strict=True):
            assert (original[1], original[0]) in SHAPES
            assert crop == list(crop_top_left_px((original[0], original[1]), width_px, height_px))
    assert seen == set(BUCKETS)


def test_an_image_is_scaled_to_cover_and_cut_in_the_middle() -> None:
    pixels = np.asarray(Image.open(io.BytesIO(striped(40, 16))))
    assert crop_top_left_px((16, 40), 24, 12) == (0, 3)  # scaled to 30 x 12, three columns go on either side
    cut = fit_size(pixels, 24, 12).astype(int)
    assert cut.shape == (12, 24, 3)
    wanted = (np.arange(24) + 0.5 + 3) * 40 / 30 * 5 - 2.5  # brightness at the middle of each column
    assert np.abs(cut[6, 2:-2, 0] - wanted[2:-2]).max() <= 2
    assert fit_size(pixels, 40, 16) is pixels
    assert crop_top_left_px((48, 24), 12, 24) == (0, 0)


def test_every_rank_gets_equally_many_of_the_same_size(root: Path) -> None:
    reader = RevisionReader(root, sha(root), buckets=BUCKETS)
    for batch in range(12):
        parts = [RevisionBatches(reader, 0, 4, 16, rank, 2)[batch] for rank in range(2)]
        whole = RevisionBatches(reader, 0, 4, 16)[batch]
        assert [len(part["prompt"]) for part in parts] == [2, 2]
        assert parts[0]["image"].shape == parts[1]["image"].shape
        assert torch.equal(torch.cat([part["image"] for part in parts]), whole["image"])
        sizes = torch.cat([part["original_size_px"] for part in parts])
        assert torch.equal(sizes, whole["original_size_px"])


def sha(root: Path) -> str:
    return module(root).revision_sha


def test_other_loaders_and_processes_read_the_same(root: Path) -> None:
    dataset = EvolvingDataset(root, sha(root), buckets=BUCKETS)
    for rows in dataset.batch_sampler(4, batches=6):
        assert len({dataset[row]["image"].shape for row in rows}) == 1
    reader = RevisionReader(root, sha(root), buckets=BUCKETS)
    again = pickle.loads(pickle.dumps(reader))
    assert again.buckets == reader.buckets == ((12, 24), (16, 16), (24, 12))
    assert [again.bucket(row) for row in range(16)] == [reader.bucket(row) for row in range(16)]


def test_workers_deliver_the_same_batches(root: Path) -> None:
    for one, other in zip(module(root).train_dataloader(), module(root, num_workers=1).train_dataloader(), strict=True):
        assert one["key"] == other["key"] and torch.equal(one["image"], other["image"])
        assert torch.equal(one["crop_top_left_px"], other["crop_top_left_px"])


def test_without_buckets_images_are_squares_and_batches_say_nothing(root: Path) -> None:
    batch = next(iter(module(root, buckets=()).train_dataloader()))
    assert batch["image"].shape == (4, 3, 16, 16)
    assert set(batch) == {"prompt", "key", "skill", "image", "sample_seed"}


def test_a_bucket_that_stays_empty_is_refused_by_name(root: Path) -> None:
    with pytest.raises(UserError, match=r"revision 1 belongs to 1 of 4 buckets: 48 x 8 px\. .* Leave these"):
        module(root, buckets=[*BUCKETS, (48, 8)]).train_dataloader()


def test_a_resumed_run_keeps_its_buckets(root: Path) -> None:
    first = module(root)
    next(iter(first.train_dataloader()))
    state = first.state_dict()
    going_on = module(root)
    going_on.load_state_dict(state)
    going_on.train_dataloader()
    for buckets in ((), BUCKETS[:2]):
        other = module(root, buckets=buckets)
        other.load_state_dict(state)
        with pytest.raises(StoreError, match=r"trained with buckets \[\[12, 24\], .* Write `data.init_args.buckets"):
            other.train_dataloader()


def test_the_rehearsal_tries_the_largest_bucket(root: Path) -> None:
    batch = module(root).placeholder_batch()
    assert batch is not None and batch["image"].shape == (4, 3, 24, 12)
    assert batch["original_size_px"].tolist() == [[24, 12]] * 4 and not batch["crop_top_left_px"].any()
    moved = module(root).transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["original_size_px"].is_meta and moved["crop_top_left_px"].is_meta


class Student:
    """Takes sizes of whole patches."""

    def check_buckets(self, buckets: Any) -> None:
        for width_px, height_px in buckets:
            if width_px % 8 or height_px % 8:
                raise UserError(f"{width_px} x {height_px}")


def test_sizes_that_the_patch_does_not_divide_are_found_before_anything_is_bought(root: Path) -> None:
    found = problems_of_options(RunOptions("32-true"), Student(), module(root))
    assert "12 x 24" in found
    assert problems_of_options(RunOptions("32-true"), Student(), module(root, buckets=[(16, 16)])) == []
