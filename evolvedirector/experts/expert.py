"""One expert: the low-rank change of a network that one skill, or one aspect, has taught it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from evolvedirector.errors import UserError
from evolvedirector.experts.lora import LoRA, inject

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, slots=True, eq=False)
class Expert:
    """Change each of some layers by a product of two thin matrices: dW = (alpha / rank) B A (arXiv:2106.09685, eq. 3).

    Args:
        name: Of the skill or aspect, or of the file; unlike those of the others.
        lora: Rank, alpha, targets and seed of the beginning. Its targets may be null: the factors name the layers.
        factors: A and B by the name of their layer in the network, on the CPU: Float[rank, inputs] and
            Float[outputs, rank], of a convolution Float[rank, inputs, height, width] and Float[outputs, rank, 1, 1].
        base: What the weights are called beside which it was trained. Empty: nobody says.
        base_digest: Of these weights, as `experts.lora.base_digest` takes it. Empty: nobody says.
        provenance: How it was made, as plain values.

    Raises:
        UserError: It changes no layer, two factors do not fit each other or the rank, a number is not finite, or it is
            a DoRA, whose change is no product of two matrices.
    """

    name: str
    lora: LoRA
    factors: Mapping[str, tuple[Tensor, Tensor]]
    base: str
    base_digest: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.lora.dora:
            raise UserError(
                f"Expert {self.name!r} is a DoRA (dora: true): the lengths of its columns belong to its own directions "
                "and to no sum. Allowed are plain LoRAs. Train it with dora: false."
            )
        if not self.factors:
            raise UserError(
                f"Expert {self.name!r} changes no layer. Allowed are LoRAs with an A and a B for one layer or more. "
                "Give it the file that training wrote."
            )
        for layer, (down, up) in self.factors.items():
            _check_factors(self.name, layer, self.lora.rank, down, up)

    def update(self, layer: str) -> Float[Tensor, "outputs inputs"]:
        """Return dW = (alpha / rank) B A of a layer; the inputs of a convolution are flattened.

        Args:
            layer: Name in the network.
        """
        down, up = self.factors[layer]
        return self.lora.scale * (up.flatten(1) @ down.flatten(1))

    @property
    def tensors_sha256(self) -> str:
        """Name the numbers by content: scale, layers and factors, whatever the file that they came from says beside."""
        hashed = hashlib.sha256(repr(self.lora.scale).encode())
        for layer, factors in sorted(self.factors.items()):
            hashed.update(layer.encode())
            for factor in factors:
                hashed.update(str(tuple(factor.shape)).encode())
                hashed.update(factor.contiguous().numpy().tobytes())
        return hashed.hexdigest()


def expert_of(
    network: nn.Module,
    adapter: str,
    lora: LoRA,
    base: str,
    base_digest: str,
    provenance: Mapping[str, Any] | None = None,
) -> Expert:
    """Take an adapter out of a network, as copies in float32 on the CPU; every rank of a sharded one calls it.

    Args:
        network: With the adapter, as `inject` puts it there.
        adapter: Its name there, which becomes the expert's.
        lora: What was injected under that name.
        base: What the network's frozen weights are called.
        base_digest: Of these, before the adapter came.
        provenance: How it was trained, as plain values. None: nothing to say.

    Raises:
        UserError: The network has no such adapter, or the adapter makes no expert (see `Expert`).
    """
    layers = _layers(network, adapter)
    if not layers:
        raise UserError(
            f"{type(network).__name__} has no adapter {adapter!r}. Allowed: {', '.join(_adapters(network)) or 'none'}. "
            "Inject it first."
        )
    factors = {
        name: (whole_float32(layer.lora_A[adapter].weight), whole_float32(layer.lora_B[adapter].weight))
        for name, layer in layers.items()
    }
    return Expert(adapter, lora, factors, base, base_digest, dict(provenance or {}))


@torch.no_grad()
def put_expert(network: nn.Module, adapter: str, expert: Expert) -> None:
    """Put an expert into a network under a name; where there is no adapter of that name yet, it is injected.

    Call it before the network is sharded. An injected one becomes the active one.

    Args:
        network: Changed in place.
        adapter: Name there, which need not be the expert's.
        expert: What is put in.

    Raises:
        UserError: The network lacks a layer of the expert, or what is there has other layers, another rank or scale.
    """
    if not _layers(network, adapter):
        check_layers(network, expert)
        lora = replace(expert.lora, targets=list(expert.factors))
        inject(network, {adapter: lora}, adapter, list(expert.factors))
    layers = _layers(network, adapter)
    if layers.keys() != expert.factors.keys():
        odd = sorted(layers.keys() ^ expert.factors.keys())
        raise UserError(
            f"Expert {expert.name!r} and the adapter {adapter!r} of {type(network).__name__} are not beside the same "
            f"layers: one alone has {odd[0]} ({len(odd)} of them). Both must be. Give them the same targets."
        )
    for name, (down, up) in expert.factors.items():
        layer = layers[name]
        kept_down, kept_up, scale = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, layer.scaling[adapter]
        if kept_down.shape != down.shape or kept_up.shape != up.shape or scale != expert.lora.scale:
            raise UserError(
                f"Expert {expert.name!r} has at {name} factors of {tuple(down.shape)} and {tuple(up.shape)} and a scale"
                f" of {expert.lora.scale:g}, the adapter {adapter!r} {tuple(kept_down.shape)}, {tuple(kept_up.shape)} "
                f"and {scale:g}. Both must be alike. Inject a LoRA of the expert's rank and alpha."
            )
        kept_down.copy_(down)
        kept_up.copy_(up)


@torch.no_grad()
def fold_expert(network: nn.Module, expert: Expert) -> None:
    """Add the updates of an expert to the weights of a network: W + dW, which no LoRA can be taken out of again.

    Args:
        network: Without adapters; changed in place.
        expert: What is added.

    Raises:
        UserError: The network lacks a layer of the expert.
    """
    check_layers(network, expert)
    for layer in expert.factors:
        part: Any = network.get_submodule(layer)
        part.weight += expert.update(layer).reshape(part.weight.shape).to(part.weight)


def whole_float32(value: Tensor) -> Tensor:
    """Return a copy in float32 on the CPU, gathered where it is sharded: then every rank calls it.

    Args:
        value: Of any shape.
    """
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().to("cpu", torch.float32, copy=True)


def _layers(network: nn.Module, adapter: str) -> dict[str, Any]:
    """Return peft's layers that have an adapter, by name."""
    from peft.tuners.lora import LoraLayer

    return {
        name: part for name, part in network.named_modules() if isinstance(part, LoraLayer) and adapter in part.lora_A
    }


def _adapters(network: nn.Module) -> list[str]:
    from peft.tuners.lora import LoraLayer

    return sorted({name for part in network.modules() if isinstance(part, LoraLayer) for name in part.lora_A})


def check_layers(network: nn.Module, expert: Expert) -> None:
    """Refuse an expert of another network before anything is changed.

    Args:
        network: With or without adapters.
        expert: Which is to work in it.

    Raises:
        UserError: The network lacks a layer of the expert, or has one of another shape.
    """
    parts = dict(network.named_modules())
    for layer, (down, up) in expert.factors.items():
        part = parts.get(layer)
        found = _weight_shape(getattr(part, "base_layer", part))
        wanted = (up.shape[0], *down.shape[1:])
        if found != wanted:
            raise UserError(
                f"Expert {expert.name!r} changes the layer {layer}, with weights of {wanted}, but "
                f"{type(network).__name__} has {f'{found} there' if found else 'no such layer'}. Allowed are "
                "experts of this network. Give it its own base."
            )


def _weight_shape(part: Any) -> tuple[int, ...] | None:
    """Return the shape of a layer's weights, whatever they are packed into; None: no layer that can be adapted."""
    if isinstance(part, nn.Linear):
        return part.out_features, part.in_features
    return tuple(part.weight.shape) if isinstance(part, nn.Conv2d) else None


def _check_factors(name: str, layer: str, rank: int, down: Tensor, up: Tensor) -> None:
    fits = down.dim() == up.dim() and down.dim() in (2, 4) and up.shape[2:].numel() == 1
    if not fits or down.shape[0] != rank or up.shape[1] != rank:
        raise UserError(
            f"Expert {name!r} has at {layer} factors of {tuple(down.shape)} and {tuple(up.shape)}, and its rank is "
            f"{rank}. Allowed are A of (rank, inputs) and B of (outputs, rank). Train it anew, or give its own file."
        )
    if not (down.isfinite().all() and up.isfinite().all()):
        raise UserError(
            f"Expert {name!r} holds a NaN or an infinity at {layer}. Allowed are finite numbers. Train it with a lower "
            "learning rate, or give another of its files."
        )
