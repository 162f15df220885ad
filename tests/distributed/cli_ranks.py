"""Run words of the command line one after the other in every rank: run by the tests, not collected by pytest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningDataModule
from torch.distributed.checkpoint import FileSystemReader, load

from evolvedirector.cli import main
from tests.distributed.lora_ranks import Sliced
from tests.lightning_modules.tiny_student import student_tree


class Pictures(LightningDataModule):
    """Eight batches of four pictures, of which each rank reads its part."""

    def train_dataloader(self) -> Sliced:
        assert self.trainer is not None
        return Sliced(self.trainer.global_rank, self.trainer.world_size)


def write_config(folder: Path, accelerator: str = "cpu", saving: dict[str, Any] | None = None) -> Path:
    """Write a run of eight steps that saves every two, sharded over two ranks.

    Args:
        folder: Of the run.
        accelerator: Of the ranks.
        saving: Further arguments of `RunCheckpoint`.
    """
    folder.mkdir()
    every = {"every_n_epochs": 0, "every_n_train_steps": 2, "keep_last": 99}
    strategy: dict[str, Any] = {"class_path": "evolvedirector.lightning_modules.ShardedStrategy", "init_args": {}}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    tree = {
        "seed_everything": 0,
        "trainer": {
            "default_root_dir": str(folder), "accelerator": accelerator, "devices": 2, "strategy": strategy,
            "max_steps": 8, "gradient_clip_val": 0.5, "use_distributed_sampler": False, **quiet,
            "callbacks": [
                {"class_path": "evolvedirector.callbacks.EMA", "init_args": {"decay": 0.5}},
                {"class_path": "evolvedirector.callbacks.RunCheckpoint", "init_args": every | (saving or {})},
            ],
        },
        "model": student_tree(qk_norm=True),  # without, biases of keys have no gradient but rounding
        "data": {"class_path": "tests.distributed.cli_ranks.Pictures"},
    }  # fmt: skip
    path = folder / "written.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def averages_of(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Return the averaged weights of a sharded checkpoint, which holds them whole."""
    head = torch.load(folder / f"checkpoints/step-{step:08d}/state.ckpt/meta.pt", weights_only=True)
    return next(iter(head["ema"].values()))["weights"]


def weights_of(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Read the weights of a sharded checkpoint in one process, without a group."""
    reader = FileSystemReader(folder / f"checkpoints/step-{step:08d}/state.ckpt")
    described: dict[str, Any] = reader.read_metadata().state_dict_metadata
    wanted = {name: torch.empty(of.size) for name, of in described.items() if name.startswith("state_dict.")}
    load(wanted, storage_reader=reader, no_dist=True)
    return wanted


if __name__ == "__main__":
    torch.set_num_threads(1)
    for words in json.loads(sys.argv[1]):
        if code := main(words):
            sys.exit(code)
