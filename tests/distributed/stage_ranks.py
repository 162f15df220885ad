"""Train experts in stages in one or two processes and write what came out: run by the tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from evolvedirector.callbacks import ExpertTable
from evolvedirector.execution.ranks import leaving_process_group
from evolvedirector.experts import LoRA, Trained
from evolvedirector.experts.gate import GatedLoRA
from evolvedirector.experts.stages import Stage
from evolvedirector.lightning_modules import Compute, ShardedStrategy
from tests.callbacks.expert_toys import HeldOut, Measures
from tests.callbacks.staged import STAGES, Staged

GATE = Stage("gate", 2, kind="gate")
TRAINED = Trained(LoRA(2), experts=["dark", "light", "joint"], gate=GatedLoRA("token"), gated=["dark", "light"])


def full(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def main(strategy: str, what: str, root: Path, folder: Path, checkpoint: str) -> None:
    torch.set_num_threads(1)
    strategies: dict[str, Any] = {"single": "auto", "ddp": "ddp_find_unused_parameters_true", "fsdp": ShardedStrategy()}
    table = ExpertTable({"brightness": Measures("brightness", (1 / 3, 1 / 3, 1 / 3))}, HeldOut())
    run = Staged(
        folder, root, stages=(*STAGES, GATE), trained=TRAINED, every=1, average="ema" in what,
        fused="fused" in what or None,
        callbacks=[table] if "table" in what else [],
        model={"compute": Compute(gradient_checkpointing="checkpointing" in what)},
        strategy=strategies[strategy], devices=1 if strategy == "single" else 2, use_distributed_sampler=False,
    )  # fmt: skip
    run.fit(None if checkpoint == "-" else checkpoint)
    weights = {name: full(part) for name, part in run.module.named_parameters() if part.requires_grad}
    if run.trainer.is_global_zero:
        torch.save(weights, folder / "result.pt")
        (folder / "seen.json").write_text(json.dumps({step: sorted(seen[0]) for step, seen in run.module.seen.items()}))


if __name__ == "__main__":
    with leaving_process_group():
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
