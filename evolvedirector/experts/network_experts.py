"""The experts of a network that is trained: which of them work, what is trained then, and how they leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from evolvedirector.errors import UserError
from evolvedirector.experts.expert import Expert, expert_of
from evolvedirector.experts.gate import gated_layers, mix
from evolvedirector.experts.gated_experts import GatedExperts, gated_of
from evolvedirector.experts.lora import GATE, adapter_of, keeping_trained, weigh
from evolvedirector.experts.trained import Trained


@dataclass(frozen=True, slots=True, eq=False)
class NetworkExperts:
    """Let experts work, alone or together, and take them out; their weights stay in the network.

    Args:
        network: With the adapters and the gate of `trained`.
        trained: Names them.
        base: What the frozen weights are called.
        base_digest: Of these.
    """

    network: nn.Module
    trained: Trained
    base: str
    base_digest: str

    def activate(self, weights: Mapping[str, float]) -> None:
        """Let experts work: one with weight 1 alone, several as their weighted sum; without any the base alone works.

        Those without weight are left as they are, and get no gradient.

        Args:
            weights: By name. All alike and of sum 1 they give the product mean.

        Raises:
            UserError: There is no such expert.
        """
        for name in weights:
            self._check(name)
        weigh(self.network, weights)

    def activate_gate(self) -> None:
        """Let the gate mix its experts; it gets gradients, and they get none."""
        self.activate(dict.fromkeys(self.trained.mixed, 1.0))
        with keeping_trained(self.network):
            mix(self.network)

    @property
    def gate_works(self) -> bool:
        """Whether the gate mixes experts now: it has been activated, and no expert since."""
        layers = gated_layers(self.network).values()
        return any(not layer.disable_adapters and not layer.active_adapters for layer in layers)

    def parameters_of(self, name: str) -> dict[str, nn.Parameter]:
        """Return the parameters of an expert by their names in the network.

        Args:
            name: Of the expert.

        Raises:
            UserError: There is no such expert.
        """
        self._check(name)
        return {part: value for part, value in self.network.named_parameters() if adapter_of(part) == name}

    def parameters_of_gate(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the gate by their names in the network."""
        return {part: value for part, value in self.network.named_parameters() if GATE in part.split(".")}

    def expert(self, name: str, provenance: Mapping[str, Any]) -> Expert:
        """Take one expert out as it is now; every rank of a sharded network calls it.

        Args:
            name: Of the expert.
            provenance: How it was trained, as plain values.

        Raises:
            UserError: There is no such expert, or its weights are not finite.
        """
        self._check(name)
        return expert_of(self.network, name, self.trained.adapters[name], self.base, self.base_digest, provenance)

    def gated(self, provenance: Mapping[str, Mapping[str, Any]]) -> GatedExperts:
        """Take the gate out with its experts; every rank of a sharded network calls it.

        Args:
            provenance: How each of them was trained, by name.
        """
        return gated_of(self.network, [self.expert(name, provenance.get(name, {})) for name in self.trained.mixed])

    def _check(self, name: str) -> None:
        if name not in self.trained.experts:
            raise UserError(
                f"There is no expert {name!r}. Allowed: {', '.join(self.trained.experts) or 'none'}. Correct the name, "
                "or add it to model.init_args.trained.experts."
            )
