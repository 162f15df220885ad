"""A run built to be measured: one process, a dataset root and a run folder that vanish, as long as is asked for."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from evolvedirector.commands.trained_student import StudentOfRun
from evolvedirector.datamodules import EvolvingDataModule


class BenchRun(StudentOfRun):
    """Build a run for one process, with a dataset root and run folder that vanish, and steps that can be counted."""

    def __init__(self, args: list[str], callbacks: Sequence[Callback], folder: Path, batches: int) -> None:
        """Parse and build.

        Args:
            args: The command line as `fit` takes it.
            callbacks: That measure.
            folder: Where everything that the run writes goes.
            batches: To train on.
        """
        self._folder, self._batches_to_train = folder, batches
        self.devices = 1
        """Devices of the run, of which one is measured with its share of the batch."""
        super().__init__(args, callbacks)

    def before_instantiate_classes(self) -> None:
        """Point the dataset into the folder, and let one process stand for all."""
        config = self.config[self.subcommand]
        trainer = config.trainer
        self.devices = _devices_of(trainer)
        _for_one_process(trainer)
        trainer.default_root_dir = str(self._folder / "run")
        student = config.model.get("init_args")
        if student is not None and "text_cache_folder" in student:
            student.text_cache_folder = None  # in the data root: other runs may share the one that is written
        data = config.get("data")
        path = "" if data is None else str(data.get("class_path") or "")
        if not path or not issubclass(pkgutil.resolve_name(path), EvolvingDataModule):
            return
        arguments = data.init_args
        arguments.root = str(self._folder / "data")
        for name in ("revision", "held_out", "predict_prompts", "remote"):  # nothing measured is pushed to others
            if name in arguments:
                arguments[name] = None
        if "validation_share" in arguments:
            arguments.validation_share = 0.0  # placeholders are few, and none is kept from training
        arguments.global_batch_size = max(1, arguments.global_batch_size // self.devices)

    def length(self, config: dict[str, Any]) -> dict[str, Any]:
        """Say how long to train.

        Args:
            config: Of the trainer.
        """
        steps = -(-self._batches_to_train // (config.get("accumulate_grad_batches") or 1))
        # an epoch without a batch ends nothing: then their number ends what no step would
        return {"max_steps": steps, "max_epochs": self._batches_to_train}

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        no_longer = {"min_steps": None, "min_epochs": None, "max_time": None}
        alone = {"limit_val_batches": 0, "num_sanity_val_steps": 0, "enable_model_summary": False, "profiler": None}
        whole = {"limit_train_batches": None, "overfit_batches": 0.0, "reload_dataloaders_every_n_epochs": 1}
        return super()._instantiate_trainer({**config, **self.length(config), **no_longer, **alone, **whole}, callbacks)


class AtEnd(Callback):
    """Call a function when training has ended and everything is still in place.

    Args:
        work: Is called once.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Work."""
        self._work()


def _for_one_process(trainer: Any) -> None:
    """Let a config train on one device, as one replica."""
    trainer.devices, trainer.num_nodes = 1, 1
    strategy = trainer.strategy
    arguments = None if strategy is None or isinstance(strategy, str) else strategy.get("init_args")
    if arguments is not None and "replicas" in arguments:
        arguments["replicas"] = 1


def _devices_of(trainer: Any) -> int:
    """Return how many devices a config names; `auto` is all GPUs here, or one CPU."""
    devices, nodes = trainer.devices, int(trainer.num_nodes or 1)
    if isinstance(devices, list):
        return max(1, len(devices)) * nodes
    if str(devices).isdigit() and int(devices) > 0:
        return int(devices) * nodes
    on_gpu = str(trainer.accelerator) in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return (torch.cuda.device_count() if on_gpu else 1) * nodes
