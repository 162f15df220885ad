"""Two processes (gloo): a prior that contrasts with the texts of all ranks trains what one process trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.launched import launch

SCRIPT = Path(__file__).with_name("prior_ranks.py")
pytestmark = pytest.mark.slow


def run(kind: str, negatives: str, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    launch(SCRIPT, kind, negatives, folder, ranks=1 if kind == "single" else 2)
    return dict(torch.load(folder / "result.pt", weights_only=True))


def test_gathered_negatives_train_what_one_process_trains(tmp_path: Path) -> None:
    single = run("single", "gather", tmp_path / "single")
    for kind in ("ddp", "fsdp"):
        ranks = run(kind, "gather", tmp_path / kind)
        assert ranks["weights"].keys() == single["weights"].keys()
        assert bool(ranks["sharded"]) == (kind == "fsdp")
        # a bias of keys changes no attention: its gradient is rounding, of which AdamW makes whole steps
        felt = {name: part for name, part in single["weights"].items() if not name.endswith("to_k.bias")}
        for name, part in felt.items():
            torch.testing.assert_close(ranks["weights"][name], part, atol=2e-5, rtol=1e-4, msg=f"{kind}: {name}")
        torch.testing.assert_close(ranks["embedded"], single["embedded"], atol=1e-4, rtol=1e-3)
    alone = run("ddp", "own", tmp_path / "own")  # or the comparison would be of equal things
    name = "transformer.proj_to_clip_embeddings.weight"
    assert (alone["weights"][name] - single["weights"][name]).abs().max() > 1e-3
