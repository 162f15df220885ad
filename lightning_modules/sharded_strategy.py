"""Fully sharded data parallel training (FSDP2)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor

from evolvedirector.errors import RunError, UserError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class ShardedStrategy(ModelParallelStrategy):
    """Shard parameters, gradients and optimizer state over all ranks, each with its own data.

    Lightning's `ModelParallelStrategy` takes the ranks of a node as tensor-parallel by default, so that all of them
    would train on the same data; here data-parallel size is the world size, and set-up asserts it.

    Args:
        save_distributed_checkpoint: each rank saves its own shard (a folder); false gathers one file on rank 0.
        process_group_backend: None follows the device (`nccl` on GPUs, `gloo` on CPUs).
        timeout_minutes: how long a collective waits for a rank.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout_minutes: float = 30,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
        )

    def setup_environment(self) -> None:
        """Set data-parallel size to the number of ranks, which is known only now."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Assert that every rank is a data-parallel rank.

        Raises:
            RunError: if the mesh is another.
        """
        sizes = (self.device_mesh["data_parallel"].size(), self.device_mesh["tensor_parallel"].size())
        if sizes != (self.world_size, 1):
            raise RunError(
                f"The device mesh is {sizes[0]} data-parallel x {sizes[1]} tensor-parallel ranks. Every one of the "
                f"{self.world_size} ranks must be data-parallel. Launch as many processes per node as trainer.devices."
            )
        super().setup(trainer)


def shard(transformer: nn.Module, blocks: Sequence[nn.Module], device_mesh: DeviceMesh, precision: str) -> None:
    """Shard each block, then the rest, over the data-parallel ranks; master parameters stay fp32.

    Args:
        transformer: sharded in place.
        blocks: units that are gathered one at a time.
        device_mesh: holds an axis `data_parallel`.
        precision: Lightning's precision; with bf16 the gathered parameters and activations are bfloat16.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    half = torch.bfloat16 if precision == "bf16-mixed" else None
    # Inputs are not cast: times up to 1000 do not fit the 8 bits of bfloat16; autocast casts where it is safe.
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = device_mesh["data_parallel"]
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # Reshard the root, too: left gathered after drawing images, it would hide averaged weights that are swapped out.
    fully_shard(transformer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def refuse_unshardable_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuse bitsandbytes on sharded parameters: its kernels mix plain tensors with sharded ones and fail mid-step.

    Args:
        optimizer: as configured, after sharding.

    Raises:
        UserError: if it is one of bitsandbytes and a parameter is sharded.
    """
    if not type(optimizer).__module__.startswith("bitsandbytes"):
        return
    if any(isinstance(parameter, DTensor) for group in optimizer.param_groups for parameter in group["params"]):
        raise UserError(
            f"{type(optimizer).__name__} of bitsandbytes cannot step sharded (FSDP2) parameters. Allowed: torch "
            f"optimizers, whose state is sharded over the ranks anyway. Write optimizer: torch.optim.AdamW, or train "
            f"with configs/strategy/ddp.yaml."
        )
