"""What a datamodule learns from its trainer: which share of a batch this process reads, and how far training is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer

from evolvedirector.errors import UserError


def rank_and_world_size(trainer: Trainer | None) -> tuple[int, int]:
    """Return which share of each global batch this process reads, and how many shares there are.

    Args:
        trainer: None: outside of one.
    """
    if trainer is not None:
        shares = getattr(trainer.strategy, "distributed_sampler_kwargs", None)
        if shares is not None:
            return shares["rank"], shares["num_replicas"]
        return trainer.global_rank, trainer.world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def equal_shares(shares: tuple[int, int], global_batch_size: int) -> tuple[int, int]:
    """Return this process's share and how many there are, as they were given.

    Args:
        shares: Of `rank_and_world_size`.
        global_batch_size: Over all of them.

    Raises:
        UserError: The batch cannot be shared equally.
    """
    _, world_size = shares
    if global_batch_size % world_size:
        raise UserError(
            f"global_batch_size is {global_batch_size}, which {world_size} ranks cannot share equally. It must"
            f" be a multiple of {world_size}. Write `data.init_args.global_batch_size:"
            f" {-(-global_batch_size // world_size) * world_size}`."
        )
    return shares


def batches_in_epoch(trainer: Trainer | None, batches_per_epoch: int) -> int:
    """Count the batches of an epoch under the trainer's `limit_train_batches`.

    Args:
        trainer: None: outside of one.
        batches_per_epoch: Without a limit.
    """
    limit = trainer.limit_train_batches if trainer is not None else 1.0
    return min(batches_per_epoch, limit) if isinstance(limit, int) else int(batches_per_epoch * limit)


def processed_batches(trainer: Trainer | None) -> int | None:
    """Count the batches that the trainer has finished so far; None without a trainer.

    Args:
        trainer: None: outside of one.
    """
    if trainer is None:
        return None
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    processed: int = total.processed
    return processed


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse numbers of a datamodule that are below 1.

    Args:
        counts: By name.

    Raises:
        UserError: One is.
    """
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} is {value}. It must be at least 1. Write `data.init_args.{name}: 1` or more.")
