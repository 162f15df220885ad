"""Train a tiny prior in one or two processes and write its weights: run by the tests, not collected by pytest."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from evolvedirector.callbacks.ema import EMA
from evolvedirector.execution.ranks import leaving_process_group
from evolvedirector.lightning_modules import EclipseObjective, ShardedStrategy
from tests.lightning_modules.priors.prior_toys import pairs, prior, request

GLOBAL_BATCH, STEPS = 8, 6


def batches(rank: int, ranks: int) -> list[dict[str, Any]]:
    """Return this rank's slices of global batches in which one text stands on both ranks."""
    rows = slice(rank * GLOBAL_BATCH // ranks, (rank + 1) * GLOBAL_BATCH // ranks)
    found = [pairs(number, GLOBAL_BATCH) for number in range(STEPS)]
    for batch in found:
        batch["prompt"][6] = batch["prompt"][1]
        batch["text_embedding"][6] = batch["text_embedding"][1]
    return [{name: values[rows] for name, values in batch.items()} for batch in found]


def full(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def main(kind: str, gathers: bool, output: Path) -> None:
    torch.set_num_threads(1)
    strategies: dict[str, Any] = {"single": "auto", "ddp": DDPStrategy(), "fsdp": ShardedStrategy()}
    ranks = 1 if kind == "single" else 2
    module = prior(EclipseObjective(5.0, "mean", 0.07, gather_negatives=gathers))
    ema = EMA(decay=0.5)
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategies[kind],
        max_steps=STEPS,
        gradient_clip_val=0.5,
        callbacks=[ema],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    slices: Any = batches(int(os.environ.get("LOCAL_RANK", 0)), ranks)
    trainer.fit(module, DataLoader(slices, batch_size=None))
    result = {name: full(parameter) for name, parameter in module.named_parameters()}
    sharded = sorted(name for name, part in module.named_parameters() if isinstance(part, DTensor))
    with ema.averaged(module):
        embedded = module.embed([request("word1 and word10", 3)])
    trainer.save_checkpoint(output / "last.ckpt")
    if trainer.is_global_zero:
        torch.save({"weights": result, "embedded": embedded, "sharded": sharded}, output / "result.pt")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    with leaving_process_group():
        main(sys.argv[1], sys.argv[2] == "gather", Path(sys.argv[3]))
