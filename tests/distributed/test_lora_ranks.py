"""Two processes, on CPU or GPUs, train the LoRA that one process trains; only the adapter is sharded and saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from evolvedirector.experts.lora import is_adapter
from tests.distributed.launched import accelerators, launch

SCRIPT = Path(__file__).with_name("lora_ranks.py")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=accelerators(2))
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[dict[str, Any], Path]]:
    root, finished = tmp_path_factory.mktemp("lora"), {}

    def once(strategy: str, what: str, resume: Path | None = None) -> tuple[dict[str, Any], Path]:
        folder = root / f"{strategy}-{what}-{resume is not None}"
        if folder not in finished:
            folder.mkdir(exist_ok=True)
            ranks = 1 if strategy == "single" else 2
            launch(SCRIPT, strategy, what, folder, resume or "-", request.param, ranks=ranks)
            finished[folder] = torch.load(folder / "result.pt", weights_only=True)
        return finished[folder], folder

    return once


def differs(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max() / other[name].abs().max().clamp_min(1e-6)) for name in one)


@pytest.mark.parametrize("precision", ["float32", "nf4"])
def test_sharded_ranks_train_what_one_process_trains(run: Callable[..., Any], precision: str) -> None:
    one, _ = run("single", f"adamw+{precision}")
    two, folder = run("fsdp", f"adamw+{precision}")
    for part in ("weights", "average"):
        assert differs(two[part], one[part]) < 1e-3
    said = json.loads((folder / "said.json").read_text())
    assert sorted(said["sharded"]) == sorted(one["weights"]) and all(map(is_adapter, said["sharded"]))
    assert said["frozen"] and not any(map(is_adapter, said["frozen"]))
    saved = FileSystemReader(folder / "middle.ckpt").read_metadata().state_dict_metadata
    assert {is_adapter(name) for name in saved if name.startswith("state_dict.")} == {True}


def test_ranks_with_copies_train_what_one_process_trains(run: Callable[..., Any]) -> None:
    one, two = run("single", "adamw+float32")[0], run("ddp", "adamw+float32")[0]
    assert differs(two["weights"], one["weights"]) < 1e-3


def test_a_sharded_adapter_resumes_exactly(run: Callable[..., Any]) -> None:
    whole, folder = run("fsdp", "adamw+float32")
    again, _ = run("fsdp", "adamw+float32", folder / "middle.ckpt")
    for part in ("weights", "average"):
        assert all(torch.equal(whole[part][name], again[part][name]) for name in whole[part])
