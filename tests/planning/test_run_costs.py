"""What a config says of strategy and optimizer, in whatever form it is written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from evolvedirector.planning.run_costs import class_of, devices_of, shards_of

SHARDED = "evolvedirector.lightning_modules.ShardedStrategy"


@pytest.mark.parametrize(
    ("strategy", "shards"),
    [
        ("ddp", 1),
        ("fsdp", 8),
        (Namespace(class_path=SHARDED), 8),
        (Namespace(class_path=SHARDED, init_args=Namespace(replicas=2)), 4),
        (None, 1),
    ],
)
def test_replicas_divide_it_over_fewer_devices(strategy: Any, shards: int) -> None:
    trainer = SimpleNamespace(strategy=strategy, devices=4, num_nodes=2)
    run = SimpleNamespace(subcommand="fit", config={"fit": SimpleNamespace(trainer=trainer)})
    assert shards_of(run) == shards


@pytest.mark.parametrize(("devices", "counted"), [(4, 8), ("4", 8), ("auto", 6), (-1, 6), ([0, 2], 6)])
def test_devices_are_counted_however_they_are_written(devices: Any, counted: int) -> None:
    config = {"fit": SimpleNamespace(trainer=SimpleNamespace(devices=devices, num_nodes=2))}
    assert (
        devices_of(SimpleNamespace(subcommand="fit", config=config, trainer=SimpleNamespace(num_devices=3))) == counted
    )


def test_an_optimizer_that_is_not_written_is_the_default_class() -> None:
    assert class_of(torch.optim.SGD).endswith(".SGD")
    assert class_of(Namespace(class_path="torch.optim.SGD")) == class_of("torch.optim.SGD") == "torch.optim.SGD"
    assert class_of(None) == ""
