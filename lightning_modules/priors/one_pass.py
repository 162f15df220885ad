"""What the objectives of a prior without diffusion share: no time, the squared distance, one pass to draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evolvedirector.lightning_modules.objectives.prior_losses import Reduction, check_reduction, projection_loss
from evolvedirector.lightning_modules.priors.prior_condition import PriorCondition
from evolvedirector.lightning_modules.priors.prior_objective import PredictEmbedding, PriorDraws
from evolvedirector.lightning_modules.sampling import initial_noise


class OnePass:
    """Predict an image embedding from a text and noise in one pass.

    Equation 3 of ECLIPSE (Patel et al. 2023, arXiv:2312.04655): a diffusion prior held at its last time, without
    guidance.

    Args:
        reduction: Over the dimensions of an embedding.

    Raises:
        UserError: The reduction is another word.
    """

    reads_time = False
    condition_dropout = 0.0
    guides = False

    def __init__(self, reduction: Reduction) -> None:
        check_reduction(reduction)
        self.reduction: Reduction = reduction

    def times(self, uniform: Tensor) -> Tensor:
        """Return zeros: there is no time.

        Args:
            uniform: One number per sample.
        """
        return torch.zeros_like(uniform)

    def own_losses(
        self,
        predict: PredictEmbedding,
        target: Tensor,
        condition: PriorCondition,
        draws: PriorDraws,
    ) -> Tensor:
        """Return |z - z'|^2 of each sample, which is its own; a contrast is one with others.

        Args:
            predict: The network.
            target: Float[batch, embedding], true image embeddings.
            condition: Of each.
            draws: Noise.
        """
        return projection_loss(predict(draws.noise, None, condition), target, self.reduction)

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
        noise = initial_noise(list(seeds), shape[1:]).to(condition.text_embedding.device)
        return predict(noise, None, condition).float()
