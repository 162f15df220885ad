"""Train a LoRA in one or two processes and write what came out: run by the tests."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.tensor import DTensor

from evolvedirector.callbacks.ema import EMA
from evolvedirector.execution.ranks import leaving_process_group
from evolvedirector.experts import LoRA, Trained
from evolvedirector.lightning_modules import FlowMatching, ShardedStrategy, TextToImage
from evolvedirector.records import ImageRequest
from tests.distributed.launched import end
from tests.lightning_modules.tiny_student import SIDE, Batches, family


class Sliced(Batches):
    """This rank's half of each batch."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__()
        mine = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
        self[:] = [{name: value[mine] for name, value in batch.items()} for batch in self[:]]


class SaveAt(Callback):
    """Save one checkpoint after three steps, and draw."""

    def __init__(self, path: Path) -> None:
        self.path, self.saved = path, False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 3 and not self.saved:
            self.saved = True
            trainer.save_checkpoint(self.path)
            pl_module.generate([ImageRequest("r", "a", 0, SIDE, SIDE)])


def full(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu().clone()


def main(strategy: str, what: str, output: Path, resume: str, accelerator: str) -> None:
    torch.set_num_threads(1)
    precision: Any = what.partition("+")[2]
    module = TextToImage(
        family(), FlowMatching(prediction="x0"), SIDE, optimizer=partial(torch.optim.AdamW, lr=1e-3), sampling_steps=1,
        generation_chunk_size=1, trained=Trained(LoRA(2), precision),
    )  # fmt: skip
    made: dict[str, Any] = {
        "single": "auto",
        "ddp": DDPStrategy(),
        "fsdp": ShardedStrategy(),
    }
    devices = 1 if strategy == "single" else 2
    average = EMA(0.5)
    trainer = Trainer(
        accelerator=accelerator, devices=devices, strategy=made[strategy], max_steps=6, gradient_clip_val=0.5,
        callbacks=[average, SaveAt(output / "middle.ckpt")], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    trainer.fit(module, Sliced(rank, devices), ckpt_path=None if resume == "-" else resume, weights_only=True)
    sharded = [name for name, part in module.named_parameters() if isinstance(part, DTensor)]
    weights = {name: full(part) for name, part in module.named_parameters() if part.requires_grad}
    with average.averaged(module):
        means = {name: full(part) for name, part in module.named_parameters() if part.requires_grad}
    if trainer.is_global_zero:
        torch.save({"weights": weights, "average": means}, output / "result.pt")
        (output / "said.json").write_text(json.dumps({"sharded": sharded, "frozen": frozen_of(module)}))


def frozen_of(module: LightningModule) -> list[str]:
    return [name for name, part in module.named_parameters() if not part.requires_grad]


if __name__ == "__main__":
    with leaving_process_group():
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
    end()
