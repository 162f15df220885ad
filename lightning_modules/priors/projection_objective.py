"""The projection baseline: hit the true image embedding, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evolvedirector.lightning_modules.objectives.prior_losses import Reduction, check_reduction, projection_loss
from evolvedirector.lightning_modules.priors.prior_condition import PriorCondition
from evolvedirector.lightning_modules.priors.prior_objective import PredictEmbedding, PriorDraws, PriorLosses
from evolvedirector.lightning_modules.sampling import initial_noise

if TYPE_CHECKING:
    from jaxtyping import Float


class ProjectionObjective:
    """Train a prior to predict image embeddings from texts and noise by squared distance.

    Equation 3 of ECLIPSE (Patel et al. 2023, arXiv:2312.04655), its baseline: a diffusion prior held at its last time,
    without guidance. An embedding is drawn in one pass.

    Args:
        reduction: Over the dimensions of an embedding: the paper prints the `sum`; `mean` is what torch calls MSE.

    Raises:
        UserError: The reduction is another word.
    """

    reads_time = False
    condition_dropout = 0.0
    guides = False

    def __init__(self, reduction: Reduction = "sum") -> None:
        check_reduction(reduction)
        self.reduction: Reduction = reduction

    def times(self, uniform: Tensor) -> Tensor:
        """Return zeros: there is no time.

        Args:
            uniform: One number per sample.
        """
        return torch.zeros_like(uniform)

    def losses(
        self,
        predict: PredictEmbedding,
        target: Tensor,
        condition: PriorCondition,
        draws: PriorDraws,
        prompts: Sequence[str],
    ) -> PriorLosses:
        """Return |z - z'|^2 of each sample.

        Args:
            predict: The network.
            target: Float[batch, embedding], true image embeddings.
            condition: Of each.
            draws: Noise.
            prompts: Not read.
        """
        return PriorLosses(projection_loss(predict(draws.noise, None, condition), target, self.reduction))

    def own_losses(
        self,
        predict: PredictEmbedding,
        target: Tensor,
        condition: PriorCondition,
        draws: PriorDraws,
    ) -> Tensor:
        """Return the losses: each is its sample's own.

        Args:
            predict: The network.
            target: Float[batch, embedding], true image embeddings.
            condition: Of each.
            draws: Noise.
        """
        return self.losses(predict, target, condition, draws, ()).total

    def sample(
        self,
        predict: PredictEmbedding,
        shape: tuple[int, int],
        seeds: Sequence[int],
        condition: PriorCondition,
        null: PriorCondition | None,
    ) -> Tensor:
        """Predict embeddings in one pass from the seeds' noise.

        Args:
            predict: The network.
            shape: Embeddings and their width.
            seeds: One for each.
            condition: Of each.
            null: Not read.
        """
        return one_pass(predict, shape, seeds, condition)

    def loss_settings(self) -> Mapping[str, str]:
        """Name the reduction."""
        return {"contrastive weight": "0", "reduction": self.reduction}


def one_pass(
    predict: PredictEmbedding, shape: tuple[int, int], seeds: Sequence[int], condition: PriorCondition
) -> Float[Tensor, "batch embedding"]:
    """Predict embeddings from the noise of seeds, without any steps.

    Args:
        predict: The network.
        shape: Embeddings and their width.
        seeds: One for each.
        condition: Of each.
    """
    noise = initial_noise(list(seeds), shape[1:]).to(condition.text_embedding.device)
    return predict(noise, None, condition).float()
