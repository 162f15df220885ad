"""Build the network of a run: weights, frozen base, adapters, kernels, shards, in the only order that works."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import nn

from evolvedirector.experts.gate import install_gates
from evolvedirector.experts.lora import base_digest, inject, is_adapter, train_all, weigh
from evolvedirector.experts.trained import Trained
from evolvedirector.lightning_modules.compute import Compute, set_up
from evolvedirector.lightning_modules.families.family import Family
from evolvedirector.lightning_modules.families.pretrained import on_meta
from evolvedirector.lightning_modules.sharded_strategy import ShardedStrategy, shard
from evolvedirector.models.quantised import BasePrecision, quantise, to_bfloat16

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_COMPUTE_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True, slots=True)
class Where:
    """Where a network will work.

    Args:
        precision: Lightning's.
        device: Of this rank.
        mesh: Over which it is sharded. None: it is not.
        cpu_offload: Whether its shards lie in main memory.
    """

    precision: str = "32-true"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mesh: DeviceMesh | None = None
    cpu_offload: bool = False

    @classmethod
    def of(cls, trainer: Trainer, mesh: DeviceMesh | None) -> Where:
        """Say where a trainer lets its module work.

        Args:
            trainer: Its strategy has set up the devices.
            mesh: That the module was given. None: the strategy gives none.
        """
        strategy = trainer.strategy
        offload = isinstance(strategy, ShardedStrategy) and strategy.cpu_offload
        return cls(str(trainer.precision), strategy.root_device, mesh, offload)


def assemble(family: Family, seed: int, trained: Trained, compute: Compute, where: Where) -> tuple[nn.Module, str]:
    """Build a network with weights named by a seed, freeze what is not trained, add adapters, and shard it.

    A digest is taken while weights are plain, quantisation comes before adapters (they wrap its layers), and shards
    last: only what is trained is sharded.

    Args:
        family: Builds the network.
        seed: Of initial weights.
        trained: What is trained.
        compute: How it is computed.
        where: It will work.

    Returns:
        The network, and the digest of a frozen base: empty where there is none, or it has no values.

    Raises:
        UserError: What is asked for does not fit network or precision.
    """
    frozen = bool(trained.adapters)
    # a base that is made smaller must not lie on the device at full size before
    place = torch.device("cpu") if trained.base_precision != "float32" and not on_meta() else torch.get_default_device()
    network = built_by_seed(family.build, seed, place)
    digest = ""
    if frozen:
        digest = base_digest(network)
        network.requires_grad_(False)
        _lower(network, family, trained.base_precision, where)
        inject(network, trained.adapters, next(iter(trained.adapters)), family.lora_targets())
        if trained.gate is not None:
            install_gates(network, trained.mixed, trained.gate)
            weigh(network, {next(iter(trained.adapters)): 1.0})  # the gate waits for its stage
        train_all(network)
    base = {part for name, part in network.named_parameters() if not is_adapter(name)} if frozen else set()
    make_ready(network, family.blocks(network), compute, where, base)
    return network, digest


def built_by_seed(build: Callable[[], nn.Module], seed: int, place: torch.device) -> nn.Module:
    """Build a network whose random weights follow from a seed: the same on every rank; global draws stay as they are.

    Args:
        build: Makes it.
        seed: Of its weights.
        place: Device of the weights.
    """
    with torch.random.fork_rng(devices=[]), place:
        torch.manual_seed(seed)
        return build()


def make_ready(
    network: nn.Module,
    blocks: Sequence[nn.Module],
    compute: Compute,
    where: Where,
    whole: Set[nn.Parameter] = frozenset(),
) -> None:
    """Apply the choices of kernels and memory to a network, and shard it where there is a mesh.

    Args:
        network: Whole, with its adapters; changed in place.
        blocks: Its repeated blocks.
        compute: The choices.
        where: It will work.
        whole: Parameters that are not sharded.

    Raises:
        UserError: The network cannot do what is chosen.
    """
    set_up(network, blocks, compute)
    _warn_of_half_precision(network)
    if where.mesh is not None:
        shard(network, blocks, where.mesh, where.precision, whole, where.cpu_offload)


def autocast(trained: Trained, device: torch.device) -> AbstractContextManager[Any]:
    """Return the precision that a network needs where no trainer gives one.

    Args:
        trained: How its base is kept.
        device: Where it works.
    """
    half = trained.base_precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()


def _lower(network: nn.Module, family: Family, precision: BasePrecision, where: Where) -> None:
    if precision == "float32":
        return
    if precision != "bfloat16":
        how: Literal["nf4", "int8"] = precision  # type: ignore[assignment]
        dtype = _COMPUTE_DTYPES.get(where.precision, torch.float32)
        quantise(network, family.blocks(network), how, dtype, where.device)
    if precision == "bfloat16" or where.precision == "bf16-mixed":
        to_bfloat16(network)


def _warn_of_half_precision(network: nn.Module) -> None:
    half = [name for name, part in network.named_parameters() if part.requires_grad and part.itemsize < 4]
    if half:
        warnings.warn(
            f"{len(half)} trained weights are in half precision ({half[0]}, ...). Updates below 1/256 of a weight are "
            "rounded away. Let the family build them in float32 and choose trainer.precision: bf16-mixed.",
            stacklevel=2,
        )
