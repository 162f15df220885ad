"""What gates choose: collected for the balance loss while they are trained, averaged for a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from evolvedirector.errors import RunError
from evolvedirector.experts.gate import gates_of

if TYPE_CHECKING:
    from jaxtyping import Float


@contextmanager
def collecting(network: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the weights of every gate, with their gradients, from each pass inside of the block.

    End the block before the backward pass: blocks that are recomputed there (gradient checkpointing) would be collected
    once more. Nothing is computed inside of the network for it, so that a recomputed block is the one of before.

    Args:
        network: With gates.

    Yields:
        Weights of each pass by the name of the layer, as `GateRouter.forward` returns them.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in gates_of(network)}
    with _watched(network, {name: weights.append for name, weights in seen.items()}):
        yield seen


def balance_loss(seen: Mapping[str, Sequence[Tensor]]) -> Float[Tensor, ""]:
    """Return L_balance = -log prod_i q_i, where q_i is the mean weight of expert i over all gates (MoLE, eq. 8 and 9).

    It is smallest, N log N for N experts, where all of them have the same share; single gates may still choose. q is
    taken for each sample (over its tokens and all gates) and the loss is the mean over samples: its mean over ranks is
    that of the global batch.

    Args:
        seen: As `collecting` yields it.

    Raises:
        RunError: No gate worked.
    """
    weights = [sample_means(one) for passes in seen.values() for one in passes]
    if not weights:
        raise RunError(
            "No gate worked, so their balance has no value: an adapter is active, or the network has no gates. Allowed "
            "is a network whose mixture works. Call experts.gate.mix(network) before."
        )
    share: Float[Tensor, "batch experts"] = torch.stack(torch.broadcast_tensors(*weights)).mean(0)
    return -share.log().sum(-1).mean()


@dataclass
class MeanWeights:
    """Means of what gates chose, over samples and passes.

    Args:
        experts: Names, in the order of the weights.
        sums: By layer, the sum of the weights of each expert over samples.
        counts: By layer, samples so far.
    """

    experts: tuple[str, ...]
    sums: dict[str, Float[Tensor, " experts"]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, layer: str, weights: Tensor) -> None:
        """Take one pass in.

        Args:
            layer: Name of the layer.
            weights: As `GateRouter.forward` returns them.
        """
        means = sample_means(weights.detach()).double().cpu()
        self.sums[layer] = means.sum(0) + self.sums.get(layer, torch.zeros(()))
        self.counts[layer] = self.counts.get(layer, 0) + len(means)

    def by_layer(self) -> dict[str, dict[str, float]]:
        """Return the mean weight of each expert at each layer; layers that no input reached are left out."""
        return {
            layer: dict(zip(self.experts, (total / self.counts[layer]).tolist(), strict=True))
            for layer, total in self.sums.items()
        }


@contextmanager
def weighing(network: nn.Module) -> Iterator[MeanWeights]:
    """Average what the gates choose inside of the block, while images are drawn or losses measured.

    Args:
        network: With gates.

    Yields:
        The means, which grow with each pass.
    """
    gates = gates_of(network)
    means = MeanWeights(next((gate.experts for gate in gates.values()), ()))
    with _watched(network, {name: _adder(means, name) for name in gates}):
        yield means


def sample_means(weights: Float[Tensor, "... experts"]) -> Float[Tensor, "batch experts"]:
    """Return the mean over tokens for each sample; one row where the gate reads no input.

    Args:
        weights: As `GateRouter.forward` returns them.
    """
    if weights.dim() < 2:
        return weights[None]
    return weights.flatten(1, -2).mean(1) if weights.dim() > 2 else weights


def _adder(means: MeanWeights, layer: str) -> Callable[[Tensor], None]:
    return lambda weights: means.add(layer, weights)


@contextmanager
def _watched(network: nn.Module, watchers: Mapping[str, Callable[[Tensor], None]]) -> Iterator[None]:
    gates = gates_of(network)
    for name, watcher in watchers.items():
        gates[name].watchers.append(watcher)
    try:
        yield
    finally:
        for name, watcher in watchers.items():
            gates[name].watchers.remove(watcher)
