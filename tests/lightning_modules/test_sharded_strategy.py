"""What a strategy that shards accepts, before any rank waits for another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import ShardedStrategy


def strategy_of(ranks: int, replicas: int) -> ShardedStrategy:
    strategy = ShardedStrategy(replicas=replicas)
    strategy.parallel_devices = [torch.device("cpu")] * ranks
    module: Any = LightningModule()
    module._trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING))
    strategy.connect(module)
    return strategy


@pytest.mark.parametrize(
    ("ranks", "replicas", "allowed"),
    [(6, 4, "1, 2, 3 here. Write replicas: 3"), (4, 4, "1, 2 here. Write replicas: 2")],
)
def test_replicas_that_ranks_cannot_form_are_refused(ranks: int, replicas: int, allowed: str) -> None:
    with pytest.raises(UserError, match=f"replicas is {replicas}, but there are {ranks} ranks.*{allowed}"):
        strategy_of(ranks, replicas).setup_environment()


def test_one_process_has_no_replicas() -> None:
    with pytest.raises(UserError, match="replicas is 2, but there is 1 rank.*Write replicas: 1"):
        strategy_of(1, 2).setup_environment()
    with pytest.raises(UserError, match="replicas is 0"):
        ShardedStrategy(replicas=0)
