"""Train a tiny student in one or several processes and write its weights: run by the tests, not collected by pytest."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.tensor import DTensor

from evolvedirector.callbacks.ema import EMA
from evolvedirector.execution.ranks import leaving_process_group
from evolvedirector.lightning_modules import FlowMatching, PixArt, RandomTextEncoder, ShardedStrategy, TextToImage
from evolvedirector.records import ImageRequest
from tests.distributed.launched import end

GLOBAL_BATCH = 8
BATCHES = 40  # with accumulation 2: 20 optimizer steps
SPOILED_SEED = 14 * GLOBAL_BATCH + 6  # of two ranks the second reads it, for optimizer step 8


class SlicedBatches:
    """Yield this rank's slice of global batches that are a pure function of their number."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size, self.delivered = rank, world_size, 0

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start, self.delivered = self.delivered % BATCHES, self.delivered % BATCHES
        for number in range(start, BATCHES):
            generator = torch.Generator().manual_seed(number)
            images = torch.randint(256, (GLOBAL_BATCH, 3, 9, 9), dtype=torch.uint8, generator=generator)
            mine = slice(self.rank * GLOBAL_BATCH // self.world_size, (self.rank + 1) * GLOBAL_BATCH // self.world_size)
            self.delivered += 1
            yield {
                "image": images[mine],
                "prompt": [f"picture {index}" for index in range(GLOBAL_BATCH)][mine],
                "sample_seed": (number * GLOBAL_BATCH + torch.arange(GLOBAL_BATCH))[mine],
            }

    def state_dict(self) -> dict[str, int]:
        return {"delivered": self.delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.delivered = state["delivered"]


class DrawInTheMiddle(Callback):
    """Draw images on averaged weights during training, as a round of evolution does."""

    def __init__(self, ema: EMA) -> None:
        self.ema = ema
        self.images: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 12 and not self.images:
            requests = [ImageRequest(str(seed), "picture 1", seed, 9, 9) for seed in range(2)]
            with self.ema.averaged(pl_module):
                self.images = pl_module.generate(requests)


class Spoiled(TextToImage):
    """A student with one sample, on one rank, whose loss is NaN."""

    def _log_training(self, losses: torch.Tensor, batch: dict[str, Any]) -> None:
        losses.data[batch["sample_seed"] == SPOILED_SEED] = torch.nan
        super()._log_training(losses, batch)


class SaveAt(Callback):
    """Save one checkpoint after `step` optimizer steps.

    Whether the file is there says nothing: the first rank may have written it before the second looks, which would then
    leave the first alone in the barrier of saving.
    """

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path, self.saved = step, path, False

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not self.saved:
            self.saved = True
            trainer.save_checkpoint(self.path)


def full(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu().clone()


def strategy_of(name: str) -> Any:
    if name == "ddp":
        return DDPStrategy()
    if name == "single":
        return "auto"
    return ShardedStrategy(replicas=2 if name == "hsdp" else 1, cpu_offload=name == "offloaded")


def main(strategy_name: str, output: Path, resume: Path | None, precision: Any, accelerator: str) -> None:
    torch.set_num_threads(1)
    strategy_name, _, spoiled = strategy_name.partition("-")
    module = (Spoiled if spoiled else TextToImage)(
        PixArt(RandomTextEncoder(16), 9, text_length=4, patch_size=3, layers=2, heads=2, head_dim=10, qk_norm=True),
        FlowMatching(prediction="x0"),
        image_size_px=9,
        sampling_steps=2,
        generation_chunk_size=2,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 1e-3),
    )
    ema = EMA(decay=0.9)
    drawing = DrawInTheMiddle(ema)
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = Trainer(
        accelerator=accelerator,
        devices=devices,
        strategy=strategy_of(strategy_name),
        precision=precision,
        max_steps=20,
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        callbacks=[ema, drawing, SaveAt(10, output / "middle.ckpt")],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    loader = SlicedBatches(int(os.environ.get("LOCAL_RANK", "0")), devices)
    trainer.fit(module, loader, ckpt_path=resume)
    weights = {name: full(parameter) for name, parameter in module.named_parameters()}
    sharded = any(isinstance(parameter, DTensor) for parameter in module.parameters())
    with ema.averaged(module):
        average = {name: full(parameter) for name, parameter in module.named_parameters()}
    if trainer.is_global_zero:
        torch.save(
            {
                "weights": weights,
                "average": average,
                "updates": ema.updates,
                "images": [image.cpu() for image in drawing.images],
                "images_seen": module.images_seen,
                "sharded": sharded,
                "nonfinite": module.summary_entries(),
                "loss": float(trainer.callback_metrics["train/loss"]),
                "lies_on": sorted({part.device.type for part in module.parameters()}),
                "placements": sorted({str(p.placements) for p in module.parameters() if isinstance(p, DTensor)}),
            },
            output / "result.pt",
        )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    with leaving_process_group():
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3] != "-" else None, *sys.argv[4:])
    end()
