"""Run words of the command line one after the other in every rank: run by the tests, not collected by pytest."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, load

from evolvedirector.cli import main
from evolvedirector.execution.ranks import leaving_process_group
from tests.distributed.launched import end
from tests.distributed.lora_ranks import Sliced
from tests.lightning_modules.tiny_student import student_tree


class Pictures(LightningDataModule):
    """Eight batches of four pictures, of which each rank reads its part."""

    def train_dataloader(self) -> Sliced:
        assert self.trainer is not None
        return Sliced(self.trainer.global_rank, self.trainer.world_size)


class Held(Callback):
    """Let shards be written only after training has gone on by a step; fail, or kill a rank, at a step.

    Args:
        fault: `` for none, `fails` or `killed`.
        at_step: Where the second rank fails to write, or is killed when half of it is written.
    """

    def __init__(self, fault: str = "", at_step: int = 4) -> None:
        self.fault, self.at_step = fault, at_step
        self._goes_on = threading.Condition()
        self._step: float = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        write_data = FileSystemWriter.write_data

        def held(writer: FileSystemWriter, plan: Any, planner: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                return write_data(writer, plan, planner)
            saved_at = int(Path(writer.path).parent.name.removeprefix("step-"))
            with self._goes_on:
                assert self._goes_on.wait_for(lambda: self._step > saved_at, timeout=60), "training waited for it"
            if trainer.global_rank == 1 and saved_at == self.at_step and self.fault:
                if self.fault == "fails":
                    raise OSError(28, "No space left on device")
                (Path(writer.path) / "__1_0.distcp").write_bytes(b"half of it")
                os.kill(os.getpid(), signal.SIGKILL)
            return write_data(writer, plan, planner)

        FileSystemWriter.write_data = held  # type: ignore[method-assign]

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._now_at(trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._now_at(float("inf"))

    def _now_at(self, step: float) -> None:
        with self._goes_on:
            self._step = step
            self._goes_on.notify_all()


def write_config(folder: Path, accelerator: str = "cpu", fault: str | None = None, **saving: Any) -> Path:
    """Write a run of eight steps that saves every two, sharded over two ranks.

    Args:
        folder: Of the run.
        accelerator: Of the ranks.
        fault: Of `Held`, which then holds back what is written beside training. None: nothing is held back.
        saving: Further arguments of `RunCheckpoint`.
    """
    held = [] if fault is None else [{"class_path": "tests.distributed.cli_ranks.Held", "init_args": {"fault": fault}}]
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
                {"class_path": "evolvedirector.callbacks.RunCheckpoint", "init_args": every | saving},
                *held,
            ],
        },
        "model": student_tree(qk_norm=True),  # without, biases of keys have no gradient but rounding
        "data": {"class_path": "tests.distributed.cli_ranks.Pictures"},
    }  # fmt: skip
    path = folder / "written.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def optimizer_of(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Read both moments of the optimizer, as `weights_of` reads weights."""
    return _tensors(folder, step, "optimizer_0.state.")


def averages_of(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Return the averaged weights of a sharded checkpoint, which holds them whole."""
    head = torch.load(folder / f"checkpoints/step-{step:08d}/state.ckpt/meta.pt", weights_only=True)
    return next(iter(head["ema"].values()))["weights"]


def weights_of(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Read the weights of a sharded checkpoint in one process, without a group."""
    return _tensors(folder, step, "state_dict.")


def _tensors(folder: Path, step: int, prefix: str) -> dict[str, torch.Tensor]:
    reader = FileSystemReader(folder / f"checkpoints/step-{step:08d}/state.ckpt")
    described: dict[str, Any] = reader.read_metadata().state_dict_metadata
    wanted = {name: torch.empty(of.size) for name, of in described.items() if name.startswith(prefix)}
    load(wanted, storage_reader=reader, no_dist=True)
    return wanted


def run_all(commands: list[list[str]]) -> int:
    for words in commands:
        if code := main(words):
            (Path(words[2]).parent / f"rank{os.environ.get('RANK', 0)}.code").write_text(str(code))
            return code
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    with leaving_process_group():
        if "RANK" in os.environ:  # one group for all of them: it cannot be made a second time
            torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        ended_with = run_all(json.loads(sys.argv[1]))
    end(ended_with)
