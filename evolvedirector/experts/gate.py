"""Gates: how much of each expert a layer takes, anew for each input, while base and experts stay as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from evolvedirector.errors import UserError
from evolvedirector.experts.lora import GATE

if TYPE_CHECKING:
    from jaxtyping import Float

GateKind = Literal["token", "pooled", "constant"]
Pair: TypeAlias = tuple[Tensor, Tensor, float]
"""A, B and alpha / rank of one expert at one layer."""


@dataclass(frozen=True)
class GatedLoRA:
    """Mix frozen experts in every adapted layer: y = W x + sum_i g_i(x) s_i B_i A_i x, with sum_i g_i = 1.

    Gates begin at zero, where every g_i is 1/N: an untrained gate is the uniform merge of its experts.

    Args:
        kind: `token`, g = softmax(V x / tau) for each token (the router that SELMA compares itself with, Li et al.
            2024, arXiv:2403.06952, appendix). `pooled`, one g for each sample and layer, from what the experts answer:
            g = softmax(V LN(mean_t E_1(x) + ... + mean_t E_N(x)) / tau), where + concatenates (MoLE, Wu et al. 2024,
            arXiv:2404.13628, eq. 5 to 7, with the mean over tokens in place of all of them, so that images may have any
            size). `constant`, one g for each layer whatever its input, which can be fused into one LoRA.
        temperature: tau. A pooled gate begins with it and learns its own, as in MoLE; the others keep it.
        balance_weight: Of the balance loss that keeps gates from choosing one expert everywhere (see `balance_loss`);
            MoLE's alpha, and its value. 0: none.

    Raises:
        UserError: A setting is out of range.
    """

    kind: GateKind = "pooled"
    temperature: float = 1.0
    balance_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in get_args(GateKind):
            raise UserError(
                f"kind of a gate is {self.kind!r}. Allowed: {', '.join(get_args(GateKind))}. Write kind: pooled."
            )
        if not (0 < self.temperature < math.inf and 0 <= self.balance_weight < math.inf):
            raise UserError(
                f"temperature of a gate is {self.temperature} and balance_weight {self.balance_weight}. Allowed: a "
                "temperature above 0, a weight from 0 up. Write temperature: 1.0, balance_weight: 0.5."
            )


class GateRouter(nn.Module):
    """The gate of one layer: weighs its experts.

    Its parameters are float32 whatever the layer is kept in, and it computes in float32.

    Args:
        settings: Of the gate.
        experts: Names of the adapters, in the order of the weights.
        inputs: Of the layer.
        outputs: Of the layer.
        device: Where the layer is.
    """

    def __init__(
        self, settings: GatedLoRA, experts: Sequence[str], inputs: int, outputs: int, device: torch.device
    ) -> None:
        super().__init__()
        self.settings = settings
        self.experts = tuple(experts)
        self.watchers: list[Callable[[Tensor], None]] = []
        """Called with the weights of each pass, as they are: nothing is computed for them inside of the network."""
        self.hook: torch.utils.hooks.RemovableHandle | None = None
        shapes = gate_shapes(settings, len(experts), inputs, outputs)
        self.weight = nn.Parameter(torch.zeros(shapes["weight"], device=device))
        if "log_temperature" in shapes:
            beginning = math.log(settings.temperature)
            self.log_temperature = nn.Parameter(torch.full(shapes["log_temperature"], beginning, device=device))

    def forward(self, x: Float[Tensor, "*batch inputs"], pairs: Sequence[Pair]) -> Float[Tensor, "... experts"]:
        """Return the weights of the experts, which sum to one.

        They are (batch, tokens, experts) of a token gate, (batch, 1, experts) of a pooled one, (experts) of a constant
        one.

        Args:
            x: Input of the layer: (batch, tokens, inputs), or (batch, inputs) where it has no tokens.
            pairs: The experts at this layer.
        """
        with torch.autocast(x.device.type, enabled=False):
            if self.settings.kind == "pooled":
                return pooled_weights(x.float(), pairs, self.weight.float(), self.log_temperature.float().exp())
            weight = self.weight.float()
            logits = weight if self.settings.kind == "constant" else functional.linear(x.float(), weight)
            return (logits / self.settings.temperature).softmax(-1)


def gate_shapes(settings: GatedLoRA, experts: int, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters of a gate by name.

    Args:
        settings: Of the gate.
        experts: How many it weighs.
        inputs: Of its layer.
        outputs: Of its layer.
    """
    if settings.kind == "pooled":  # one number in one dimension: FSDP2 cuts no scalars
        return {"weight": (experts, experts * outputs), "log_temperature": (1,)}
    return {"weight": (experts, inputs) if settings.kind == "token" else (experts,)}


def pooled_weights(
    x: Float[Tensor, "batch *tokens inputs"],
    pairs: Sequence[Pair],
    weight: Float[Tensor, "experts answers"],
    temperature: Float[Tensor, " 1"],
) -> Float[Tensor, "batch *ones experts"]:
    """Return softmax(V LN(mean_t E_1(x) + ... + mean_t E_N(x)) / tau) of each sample, where + concatenates.

    E_i = s_i B_i A_i is linear, so its mean over tokens is its answer to their mean: pooling costs no pass over tokens.

    Args:
        x: Input of the layer, in float32.
        pairs: The experts at this layer.
        weight: V.
        temperature: tau.
    """
    mean = x.flatten(1, -2).mean(1) if x.dim() > 2 else x
    answers = torch.cat([scale * (mean @ down.float().T @ up.float().T) for down, up, scale in pairs], -1)
    logits = functional.linear(functional.layer_norm(answers, answers.shape[-1:]), weight)
    weights = (logits / temperature).softmax(-1)
    return weights.reshape(len(x), *[1] * (x.dim() - 2), -1)


def mixture(
    x: Float[Tensor, "*batch inputs"], pairs: Sequence[Pair], weights: Float[Tensor, "... experts"]
) -> Float[Tensor, "*batch outputs"]:
    """Return sum_i g_i s_i B_i A_i x.

    Args:
        x: Input of the layer.
        pairs: The experts at this layer.
        weights: g, in a shape that goes with the one of x.
    """
    total: Tensor | None = None
    for index, (down, up, scale) in enumerate(pairs):
        narrow = functional.linear(x.to(down.dtype), down) * (scale * weights[..., index : index + 1])
        change = functional.linear(narrow.to(up.dtype), up)
        total = change if total is None else total + change
    assert total is not None
    return total


def install_gates(network: nn.Module, experts: Sequence[str], settings: GatedLoRA) -> None:
    """Put a gate at every adapted layer and let the mixture work; call it before the network is sharded.

    A gate is the part `gate_router` of its layer, beside the experts' `lora_A` and `lora_B`. It works where no adapter
    is active (`mix`); while one is (`experts.lora.activate`), that one works alone and its gate waits.

    Args:
        network: With adapters, as `inject` puts them there; changed in place.
        experts: Names of the adapters that are mixed. Others stay as they are.
        settings: Of the gates.

    Raises:
        UserError: An expert is missing at a layer, or is no plain LoRA, or a layer is not linear.
    """
    layers = _adapted_layers(network)
    _check_experts(network, layers, experts)
    for layer in layers.values():
        down, up = layer.lora_A[experts[0]].weight, layer.lora_B[experts[0]].weight
        router = GateRouter(settings, experts, down.shape[1], up.shape[0], down.device)
        router.hook = layer.register_forward_hook(_add_mixture)
        layer.add_module(GATE, router)
    mix(network)


def mix(network: nn.Module) -> None:
    """Let the mixture of the experts work; gates are trained and experts are not.

    Args:
        network: With gates.
    """
    for layer in gated_layers(network).values():
        layer.set_adapter([])


def gated_layers(network: nn.Module) -> dict[str, Any]:
    """Return the layers that have a gate (layers of peft, with a `gate_router`) by their names in the network.

    Args:
        network: With or without gates.
    """
    return {
        name.removesuffix(f".{GATE}"): network.get_submodule(name.removesuffix(f".{GATE}"))
        for name, part in network.named_modules()
        if isinstance(part, GateRouter)
    }


def gates_of(network: nn.Module) -> dict[str, GateRouter]:
    """Return the gates by the names of their layers.

    Args:
        network: With or without gates.
    """
    return {name: layer.get_submodule(GATE) for name, layer in gated_layers(network).items()}


def gate_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return what is trained where the mixture works, by name in the network.

    Args:
        network: With gates.
    """
    return {
        f"{layer}.{GATE}.{name}": parameter
        for layer, gate in gates_of(network).items()
        for name, parameter in gate.named_parameters()
    }


def remove_gates(network: nn.Module) -> None:
    """Take the gates away; the experts stay, and none is active.

    Args:
        network: With gates; changed in place.
    """
    for layer in gated_layers(network).values():
        layer.gate_router.hook.remove()
        delattr(layer, GATE)


def _add_mixture(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """Add the mixture to what the base layer answers (a forward hook of torch)."""
    if layer.disable_adapters or layer.active_adapters:
        return None
    router = cast(GateRouter, layer.gate_router)
    # detached: whatever else of the network is trained, a mixture teaches its gates alone
    pairs = [
        (layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach(), layer.scaling[name])
        for name in router.experts
    ]
    weights = router(inputs[0], pairs)
    for watch in router.watchers:
        watch(weights)
    return (output + mixture(inputs[0], pairs, weights)).to(output.dtype)


def _adapted_layers(network: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: part for name, part in network.named_modules() if isinstance(part, LoraLayer)}


def _check_experts(network: nn.Module, layers: dict[str, Any], experts: Sequence[str]) -> None:
    kind = type(network).__name__
    if isinstance(experts, str) or not experts or len(set(experts)) < len(experts):
        raise UserError(
            f"experts of a gate is {experts!r}. Allowed are names of adapters, each once. Write experts: [count, "
            "colour]."
        )
    present = sorted({name for layer in layers.values() for name in layer.lora_A})
    if missing := [name for name in experts if name not in present]:
        raise UserError(
            f"{kind} has no expert {missing[0]!r} for a gate. Allowed: {', '.join(present) or 'none: inject some'}. "
            "Name those that are in the network."
        )
    if gates_of(network):
        raise UserError(f"{kind} has gates already. Allowed is one gate a layer. Take them away with remove_gates.")
    for name, layer in layers.items():
        if lacking := [expert for expert in experts if expert not in layer.lora_A]:
            raise UserError(
                f"Expert {lacking[0]!r} does not adapt {name}, and others do. Experts that are gated adapt the same "
                "layers. Give all of them the same targets."
            )
        if not isinstance(layer.lora_A[experts[0]], nn.Linear):
            raise UserError(
                f"The experts adapt {name}, a convolution. Gates weigh experts of linear layers alone. Leave "
                "convolutions out of targets."
            )
        if doras := [expert for expert in experts if expert in layer.lora_variant]:
            raise UserError(
                f"Expert {doras[0]!r} is a DoRA (dora: true), whose change is no product of two matrices. Allowed are "
                "plain LoRAs. Train it with dora: false."
            )
