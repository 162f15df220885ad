"""Two processes on the CPU train the experts that one process trains, and go on from any stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evolvedirector.evaluation.arm_table import read_table
from evolvedirector.experts.expert_files import read_expert
from tests.callbacks.staged import made_root
from tests.distributed.launched import launch

SCRIPT = Path(__file__).with_name("stage_ranks.py")
WHAT = "ema+checkpointing+fused"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, Any], Path]]:
    folder_of_all, finished = tmp_path_factory.mktemp("stages"), {}
    root = made_root(folder_of_all / "data")

    def once(strategy: str, what: str, checkpoint: str = "-") -> tuple[dict[str, Any], Path]:
        folder = folder_of_all / f"{strategy}-{what}{checkpoint}"
        if folder not in finished:
            folder.mkdir(exist_ok=True)
            if checkpoint != "-":
                shutil.copytree(folder_of_all / f"{strategy}-{what}-" / "checkpoints", folder / "checkpoints")
            launch(SCRIPT, strategy, what, root, folder, checkpoint, ranks=1 if strategy == "single" else 2)
            finished[folder] = torch.load(folder / "result.pt", weights_only=True)
        return finished[folder], folder

    return once


def differs(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Relative, by the norm: Adam makes much of single gradients that are rounding alone."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / other[name].norm().clamp_min(1e-3)) for name in one)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_train_what_one_process_trains(run: Callable[..., Any], strategy: str) -> None:
    (one, alone), (two, folder) = run("single", WHAT), run(strategy, WHAT)
    assert differs(two, one) < 1e-2
    assert (folder / "seen.json").exists()
    for name in ("dark", "uniform"):
        found, expected = (read_expert(place / "experts" / f"{name}.safetensors") for place in (folder, alone))
        assert all(torch.allclose(found.update(layer), expected.update(layer), atol=1e-4) for layer in expected.factors)
    assert (folder / "experts" / "gate.safetensors").exists()


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("step", [4, 9])
def test_ranks_go_on_inside_a_stage_and_at_its_end(run: Callable[..., Any], strategy: str, step: int) -> None:
    whole, _ = run(strategy, WHAT)
    again, _ = run(strategy, WHAT, f"step-{step:08d}")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_sharded_student_makes_the_table_that_one_process_makes(run: Callable[..., Any]) -> None:
    tables = [read_table(run(strategy, "ema-table")[1]) for strategy in ("single", "fsdp")]
    one, two = ({name: of.means["brightness"] for name, of in table.figures().items()} for table in tables if table)
    assert list(one) == list(two) == ["base", "dark", "light", "joint", "uniform", "gate"]
    assert all(two[name] == pytest.approx(one[name], abs=1.0) for name in one)  # of 255
