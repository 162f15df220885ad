"""Two processes that shard a network with gates (FSDP2, gloo) train the gates that one process trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evolvedirector.experts.lora import GATE, is_adapter
from tests.distributed.launched import launch

SCRIPT = Path(__file__).with_name("gate_ranks.py")
pytestmark = pytest.mark.slow


def run(folder: Path, ranks: int) -> Path:
    folder.mkdir()
    launch(SCRIPT, folder, ranks=ranks)
    return folder


def results(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[str]]:
    said = torch.load(folder / "result.pt", weights_only=True)
    return said, load_file(folder / "mixture.safetensors"), json.loads((folder / "sharded.json").read_text())


def test_sharded_ranks_train_the_gates_that_one_process_trains(tmp_path: Path) -> None:
    single, ranks = run(tmp_path / "one", 1), run(tmp_path / "two", 2)
    for kind in ("token", "pooled"):  # pooled ones under gradient checkpointing
        (said, one, whole), (says, two, sharded) = results(single / kind), results(ranks / kind)
        torch.testing.assert_close(says, said, atol=1e-5, rtol=1e-4)
        assert one.keys() == two.keys()
        for name, value in one.items():
            differs = 1e-3 if GATE in name else 0
            torch.testing.assert_close(two[name], value, atol=differs / 10, rtol=differs)
        assert sharded == sorted(one) and all(map(is_adapter, sharded)) and whole == []
