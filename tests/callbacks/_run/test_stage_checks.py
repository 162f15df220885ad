"""What stages need of trainer, module and data, and how long a training is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning.pytorch as pl
import pytest
from lightning.pytorch.strategies import DDPStrategy

from evolvedirector.callbacks._run.stage_checks import check_stage_host, steps_of
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.errors import RunError
from evolvedirector.experts import LoRA, Trained
from evolvedirector.lightning_modules import FlowMatching, TextToImage
from tests.lightning_modules.tiny_student import SIDE, family
from tests.toys import ToyStudent


def trainer_of(data: Any, strategy: Any = None) -> pl.Trainer:
    return cast(pl.Trainer, SimpleNamespace(datamodule=data, strategy=strategy))


def test_a_project_without_experts_or_subsets_is_told_what_to_add(tmp_path: Path) -> None:
    module = TextToImage(family(), FlowMatching(prediction="x0"), SIDE, trained=Trained(LoRA(2), experts=["one"]))
    data = EvolvingDataModule(tmp_path)
    assert check_stage_host(trainer_of(data), module) == (module, data)
    with pytest.raises(RunError, match="ToyStudent holds no experts: it lacks `trained: Trained`"):
        check_stage_host(trainer_of(data), ToyStudent())
    with pytest.raises(RunError, match=r"LightningDataModule cannot train on a subset: it lacks `train_on\(subset\)`"):
        check_stage_host(trainer_of(pl.LightningDataModule()), module)


def test_ddp_must_look_for_experts_without_gradient(tmp_path: Path) -> None:
    module = TextToImage(family(), FlowMatching(prediction="x0"), SIDE, trained=Trained(LoRA(2), experts=["one"]))
    data = EvolvingDataModule(tmp_path)
    check_stage_host(trainer_of(data, DDPStrategy(find_unused_parameters=True)), module)
    with pytest.raises(RunError, match=r"Write trainer.strategy: ddp_find_unused_parameters_true"):
        check_stage_host(trainer_of(data, DDPStrategy()), module)


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({"max_steps": 40}, (40, 10)),
        ({"max_epochs": 3}, (30, 10)),
        ({"max_steps": 40, "max_epochs": 3}, (30, 10)),
        ({"max_epochs": -1}, (None, 10)),
        ({"max_steps": 40, "accumulate_grad_batches": 4}, (40, 3)),
        ({"max_steps": 40, "limit_train_batches": 4}, (40, 4)),
        ({"max_steps": 40, "limit_train_batches": 0.5}, (40, 5)),
    ],
)
def test_the_steps_of_a_training_and_of_an_epoch(tmp_path: Path, limits: Any, found: Any) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **limits)
    assert steps_of(trainer, EvolvingDataModule(tmp_path, batches_per_epoch=10)) == found
