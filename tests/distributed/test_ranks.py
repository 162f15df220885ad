"""Two processes, on CPU or GPUs: DDP and FSDP2 train what one process trains, and resume exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.launched import accelerators, launch

SCRIPT = Path(__file__).with_name("train_ranks.py")
pytestmark = pytest.mark.slow


def start(strategy: str, folder: Path, resume: Path | None, precision: str, accelerator: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ranks = 1 if strategy.startswith("single") else 2
    launch(SCRIPT, strategy, folder, resume or "-", precision, accelerator, ranks=ranks)


@pytest.fixture(scope="module", params=accelerators(2))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    root = tmp_path_factory.mktemp("ranks")
    finished: dict[tuple[str, bool, str], dict[str, Any]] = {}

    def run_once(strategy: str, resumed: bool = False, precision: str = "32-true") -> dict[str, Any]:
        key = (strategy, resumed, precision)
        if key not in finished:
            folder = root / "-".join(map(str, key))
            checkpoint = None
            if resumed:
                run_once(strategy, False, precision)
                checkpoint = root / "-".join(map(str, (strategy, False, precision))) / "middle.ckpt"
            start(strategy, folder, checkpoint, precision, request.param)
            finished[key] = torch.load(folder / "result.pt", weights_only=True)
        return finished[key]

    return run_once


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any weight, relative to the largest weight of its tensor."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max() / other[name].abs().max().clamp_min(1e-6)) for name in one)


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    for part in ("weights", "average"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in other[part])
    assert one["images_seen"] == other["images_seen"] and one["updates"] == other["updates"]


# Clipping, accumulation over two batches and EMA are on in all of these; the shards are uneven.
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_equal_one_process(run: Callable[..., dict[str, Any]], strategy: str) -> None:
    one, two = run("single"), run(strategy)
    assert two["sharded"] == (strategy == "fsdp")
    assert largest_difference(two["weights"], one["weights"]) < 1e-4
    assert largest_difference(two["average"], one["average"]) < 1e-4
    assert two["updates"] == one["updates"] == 19 and two["images_seen"] == one["images_seen"] == 320
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)  # the mean over ranks, of both accumulated batches
    assert largest_difference(one["average"], one["weights"]) > 1e-3  # the comparison above is not of equal things
    for image, other in zip(two["images"], one["images"], strict=True):  # drawn in the middle, on averaged weights
        assert (image.int() - other.int()).abs().max() <= 1


def test_shards_in_main_memory_train_as_others_do(run: Callable[..., dict[str, Any]]) -> None:
    one, two = run("single"), run("offloaded")
    assert two["lies_on"] == ["cpu"] and run("fsdp")["lies_on"] == one["lies_on"]
    for part in ("weights", "average"):
        assert largest_difference(two[part], one[part]) < 1e-4
    for image, other in zip(two["images"], one["images"], strict=True):
        assert (image.int() - other.int()).abs().max() <= 1


def test_sharded_resume_equals_uninterrupted(run: Callable[..., dict[str, Any]]) -> None:
    assert_equal(run("fsdp", resumed=True), run("fsdp"))


def test_sharded_mixed_precision_keeps_fp32_weights(run: Callable[..., dict[str, Any]]) -> None:
    result = run("fsdp", precision="bf16-mixed")
    assert all(weight.dtype == torch.float32 for weight in result["weights"].values())
    single = run("single")["weights"]
    differences = torch.cat([(weight - single[name]).abs().flatten() for name, weight in result["weights"].items()])
    assert 0 < float(differences.mean()) < 1e-3  # rounding of activations; 20 steps move a weight by up to 0.02


def test_a_sample_that_is_not_finite_on_one_rank_is_left_out_on_all(run: Callable[..., dict[str, Any]]) -> None:
    one, two = run("single-spoiled"), run("fsdp-spoiled")
    assert two["nonfinite"] == one["nonfinite"] == {"nonfinite_steps": 1, "nonfinite_at": [8]}
    assert all(weight.isfinite().all() for weight in two["weights"].values())
    assert largest_difference(two["weights"], one["weights"]) < 1e-4
    assert largest_difference(two["weights"], run("single")["weights"]) > 1e-3  # one update was left out
