"""Four processes form two replicas of two shards (HSDP): they train what one process trains, and resume exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.launched import accelerators, launch
from tests.distributed.test_ranks import SCRIPT, assert_equal, largest_difference

pytestmark = pytest.mark.crash
RANKS = 4


def trained(strategy: str, folder: Path, accelerator: str, resume: Path | None = None) -> dict[str, Any]:
    folder.mkdir()
    ranks = 1 if strategy == "single" else RANKS
    launch(SCRIPT, strategy, folder, resume or "-", "32-true", accelerator, ranks=ranks)
    return torch.load(folder / "result.pt", weights_only=True)


@pytest.mark.parametrize("accelerator", accelerators(RANKS))
def test_replicas_of_shards_equal_one_process_and_resume_exactly(tmp_path: Path, accelerator: str) -> None:
    one = trained("single", tmp_path / "one", accelerator)
    four = trained("hsdp", tmp_path / "four", accelerator)
    assert four["placements"] == ["(Replicate(), Shard(dim=0))"]
    for part in ("weights", "average"):  # clipped gradients, accumulated over two batches, averaged over all ranks
        assert largest_difference(four[part], one[part]) < 1e-4
    assert four["loss"] == pytest.approx(one["loss"], rel=1e-4) and four["images_seen"] == one["images_seen"] == 320
    for image, other in zip(four["images"], one["images"], strict=True):  # drawn in the middle, on averaged weights
        assert (image.int() - other.int()).abs().max() <= 1
    again = trained("hsdp", tmp_path / "again", accelerator, tmp_path / "four" / "middle.ckpt")
    assert_equal(again, four)
