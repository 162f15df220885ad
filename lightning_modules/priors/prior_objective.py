"""The seam behind which every training objective of a prior stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from evolvedirector.lightning_modules.priors.prior_condition import PriorCondition
from evolvedirector.lightning_modules.seeded_noise import seeded_normal, seeded_uniform

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

PredictEmbedding: TypeAlias = Callable[[Tensor, "Tensor | None", PriorCondition], Tensor]
"""(noise or noisy embeddings, times on the scale 0...1000 or None, condition) -> the network's output."""
_BEHIND_NOISE = 2**31
"""Place in a sample's stream at which no other draw lies."""


@dataclass(frozen=True, slots=True, eq=False)
class PriorDraws:
    """What chance decides about a batch of pairs, on the device of its seeds."""

    dropped: Tensor
    """Bool[batch]: which samples lose their text."""
    time: Tensor
    """Float[batch], in the unit of the objective; zeros where it has none."""
    noise: Tensor
    """Float[batch, embedding], unit Gaussian."""


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
    """Say what a prior learns from pairs, and how an embedding is drawn with it.

    Targets and drawn embeddings are Float[batch, embedding], losses Float[batch].
    """

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

    def times(self, uniform: Tensor) -> Tensor:
        """Return the times at which shares of the training's times lie below; of uniform numbers, such as it draws."""
        ...

    def losses(
        self,
        predict: PredictEmbedding,
        target: Tensor,
        condition: PriorCondition,
        draws: PriorDraws,
        prompts: Sequence[str],
    ) -> PriorLosses:
        """Return the losses of a batch whose image embeddings are `target`; draws lie on its device."""
        ...

    def own_losses(
        self,
        predict: PredictEmbedding,
        target: Tensor,
        condition: PriorCondition,
        draws: PriorDraws,
    ) -> Tensor:
        """Return what of the losses is each sample's own, whatever stands beside it in a batch."""
        ...

    def sample(
        self,
        predict: PredictEmbedding,
        shape: tuple[int, int],
        seeds: Sequence[int],
        condition: PriorCondition,
        null: PriorCondition | None,
    ) -> Tensor:
        """Draw embeddings of a shape, each from its seed; `null` is one row, the empty text, where it guides."""
        ...

    def loss_settings(self) -> Mapping[str, str]:
        """Name the numbers that mean something only together, in words, for `check`."""
        ...


def draw_for_prior(sample_seeds: Int64[Tensor, " batch"], objective: PriorObjective, embedding_dim: int) -> PriorDraws:
    """Draw for each sample from its own seed: dropout, time, noise.

    As with images, the loss of a global batch is then the same for every world size and after every resume.

    Args:
        sample_seeds: One per sample, unique to its slot in the training stream; draws lie on their device.
        objective: Names the distribution of times and the share of dropped texts.
        embedding_dim: Width of the noise.
    """
    chance = seeded_uniform(sample_seeds, 2)
    dropped, time = chance[:, 0] < objective.condition_dropout, objective.times(chance[:, 1])
    return PriorDraws(dropped, time.float(), seeded_normal(sample_seeds, embedding_dim, first=2))


def edges_lost(sample_seeds: Int64[Tensor, " batch"], share: float) -> Bool[Tensor, " batch"]:
    """Draw for each sample from its own seed whether it loses its edges.

    Args:
        sample_seeds: One per sample.
        share: Of samples that lose them.
    """
    return seeded_uniform(sample_seeds, 1, first=_BEHIND_NOISE)[:, 0] < share
