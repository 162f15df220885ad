"""The seam behind which every training objective of a prior stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from evolvedirector.lightning_modules.priors.prior_condition import PriorCondition

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

PredictEmbedding: TypeAlias = Callable[[Tensor, "Tensor | None", PriorCondition], Tensor]
"""(noise or noisy embeddings, times on the scale 0...1000 or None, condition) -> the network's output."""


@dataclass(frozen=True, slots=True, eq=False)
class PriorDraws:
    """What chance decides about a batch of pairs, on the CPU."""

    dropped: list[bool]
    """Which samples lose their text."""
    time: Tensor
    """Float[batch], in the unit of the objective; zeros where it has none."""
    noise: Tensor
    """Float[batch, embedding], unit Gaussian."""

    def to(self, device: torch.device) -> PriorDraws:
        """Move times and noise to a device.

        Args:
            device: Where they are wanted.
        """
        return PriorDraws(self.dropped, self.time.to(device), self.noise.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class PriorLosses:
    """Losses of a batch, one value per sample.

    Args:
        total: What is trained on.
        parts: Its terms by name, for the log; empty where there is one.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class PriorObjective(Protocol):
    """Say what a prior learns from pairs, and how an embedding is drawn with it."""

    @property
    def reads_time(self) -> bool:
        """Whether the network needs a time embedding."""
        ...

    @property
    def condition_dropout(self) -> float:
        """Share of training samples that lose their text."""
        ...

    @property
    def guides(self) -> bool:
        """Whether drawing needs the empty text, too."""
        ...

    def draw_time(self, generator: torch.Generator) -> float:
        """Draw the time of one sample."""
        ...

    def losses(
        self,
        predict: PredictEmbedding,
        target: Float[Tensor, "batch embedding"],
        condition: PriorCondition,
        draws: PriorDraws,
        prompts: Sequence[str],
    ) -> PriorLosses:
        """Return the losses of a batch whose image embeddings are `target`; draws lie on its device."""
        ...

    def own_losses(
        self,
        predict: PredictEmbedding,
        target: Float[Tensor, "batch embedding"],
        condition: PriorCondition,
        draws: PriorDraws,
    ) -> Float[Tensor, " batch"]:
        """Return what of the losses is each sample's own, whatever stands beside it in a batch."""
        ...

    def sample(
        self,
        predict: PredictEmbedding,
        shape: tuple[int, int],
        seeds: Sequence[int],
        condition: PriorCondition,
        null: PriorCondition | None,
    ) -> Float[Tensor, "batch embedding"]:
        """Draw embeddings of a shape, each from its seed; `null` is one row, the empty text, where it guides."""
        ...

    def loss_settings(self) -> Mapping[str, str]:
        """Name the numbers that mean something only together, in words, for `check`."""
        ...


def draw_for_prior(sample_seeds: Int64[Tensor, " batch"], objective: PriorObjective, embedding_dim: int) -> PriorDraws:
    """Draw for each sample from a CPU generator of its own seed, in the order dropout, time, noise.

    As with images, the loss of a global batch is then the same for every world size and after every resume.

    Args:
        sample_seeds: One per sample, unique to its slot in the training stream.
        objective: Names the distribution of times and the share of dropped texts.
        embedding_dim: Width of the noise.
    """
    generator = torch.Generator()
    dropped: list[bool] = []
    times: list[float] = []
    noise = torch.empty(len(sample_seeds), embedding_dim)
    for row, seed in zip(noise, sample_seeds.tolist(), strict=True):
        generator.manual_seed(seed)
        dropped.append(float(torch.rand((), generator=generator)) < objective.condition_dropout)
        times.append(objective.draw_time(generator))
        row.normal_(generator=generator)
    return PriorDraws(dropped, torch.tensor(times), noise)
