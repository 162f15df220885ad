"""Experts with their gates as one record: out of a network, into one, and, where no gate reads its input, fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.experts.expert import Expert, put_expert, whole_float32
from evolvedirector.experts.gate import GatedLoRA, gate_shapes, gates_of, install_gates
from evolvedirector.experts.lora import LoRA
from evolvedirector.experts.merged import concatenated, weights_of


@dataclass(frozen=True, slots=True, eq=False)
class GatedExperts:
    """Experts of one base and what weighs them in each layer.

    Args:
        settings: Of the gates.
        experts: Two or more with the same layers, in the order of the weights.
        gates: Parameters of each gate by the name of its layer, in float32 on the CPU: `weight`, and of a pooled gate
            `log_temperature`.

    Raises:
        UserError: The experts do not go together, or a gate does not fit them or is not finite.
    """

    settings: GatedLoRA
    experts: tuple[Expert, ...]
    gates: Mapping[str, Mapping[str, Tensor]]

    def __post_init__(self) -> None:
        weights_of(self.experts, None, 1.0)
        factors = self.experts[0].factors
        if odd := sorted(self.gates.keys() ^ factors.keys()):
            raise UserError(
                f"Gates and experts are not at the same layers: one alone has {odd[0]} ({len(odd)} of them). Both must "
                "be. Save them together, with write_gated."
            )
        for layer, (down, up) in factors.items():
            wanted = gate_shapes(self.settings, len(self.experts), down.shape[1], up.shape[0])
            found = {name: tuple(part.shape) for name, part in self.gates[layer].items()}
            if found != wanted or not all(part.isfinite().all() for part in self.gates[layer].values()):
                raise UserError(
                    f"The {self.settings.kind} gate at {layer} has {found}, or a number in it is not finite. Allowed "
                    f"for {len(self.experts)} experts is {wanted}, in finite numbers. Train it anew, or give its file."
                )

    @property
    def base(self) -> str:
        """What the base is called."""
        return self.experts[0].base

    @property
    def base_digest(self) -> str:
        """Name of the base's weights; empty where nobody says."""
        return next((expert.base_digest for expert in self.experts if expert.base_digest), "")


def gated_of(network: nn.Module, experts: Sequence[Expert]) -> GatedExperts:
    """Take the gates out of a network, as copies on the CPU; every rank of a sharded one calls it.

    Args:
        network: With gates.
        experts: Those of the gates, as `expert_of` takes them out of the same network, in any order.

    Raises:
        UserError: The network has no gates, or gates of other experts.
    """
    gates = gates_of(network)
    names = next((gate.experts for gate in gates.values()), ())
    by_name = {expert.name: expert for expert in experts}
    if not gates or set(names) != by_name.keys():
        raise UserError(
            f"The gates of {type(network).__name__} weigh {', '.join(names) or 'nothing: there are none'}, and the "
            f"experts are {', '.join(by_name)}. Both must be the same. Take each expert out with expert_of."
        )
    settings = next(iter(gates.values())).settings
    tensors = {
        layer: {name: whole_float32(part) for name, part in gate.named_parameters()} for layer, gate in gates.items()
    }
    return GatedExperts(settings, tuple(by_name[name] for name in names), tensors)


@torch.no_grad()
def put_gated(network: nn.Module, gated: GatedExperts) -> None:
    """Put experts and their gates into a network and let the mixture work; call it before the network is sharded.

    Args:
        network: Changed in place.
        gated: What is put in.

    Raises:
        UserError: They are of another network, or it has gates already.
    """
    for expert in gated.experts:
        put_expert(network, expert.name, expert)
    install_gates(network, [expert.name for expert in gated.experts], gated.settings)
    for layer, gate in gates_of(network).items():
        for name, parameter in gate.named_parameters():
            parameter.copy_(gated.gates[layer][name])


def constant_gate_as_expert(gated: GatedExperts, name: str) -> Expert:
    """Return dW = sum_i g_i s_i B_i A_i of each layer as one expert: what a constant gate computes, exactly.

    The ranks add up. It is saved, merged and fused as any LoRA.

    Args:
        gated: Experts with constant gates.
        name: Of the result.

    Raises:
        UserError: The gates read their input, so that no one LoRA does what they do.
    """
    if gated.settings.kind != "constant":
        raise UserError(
            f"The gates are of the kind {gated.settings.kind}: they weigh experts anew for each input, which no one "
            "LoRA does. Allowed is kind: constant. Keep the gates as they are (write_gated), or merge the experts."
        )
    experts, first = gated.experts, gated.experts[0]
    weights = {
        layer: (parts["weight"] / gated.settings.temperature).softmax(-1).tolist()
        for layer, parts in gated.gates.items()
    }
    factors = {layer: concatenated(experts, weights[layer], layer) for layer in first.factors}
    rank = sum(expert.lora.rank for expert in experts)
    provenance = {
        "gate": {"kind": "constant", "formula": "dW = sum_i g_i s_i B_i A_i", "weights": weights},
        "experts": [
            {"name": expert.name, "tensors_sha256": expert.tensors_sha256, "provenance": dict(expert.provenance)}
            for expert in experts
        ],
    }
    lora = LoRA(rank, float(rank), first.lora.targets, seed=first.lora.seed)
    return Expert(name, lora, factors, gated.base, gated.base_digest, provenance)
