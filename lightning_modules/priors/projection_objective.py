"""The projection baseline: hit the true image embedding, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from evolvedirector.lightning_modules.objectives.prior_losses import Reduction
from evolvedirector.lightning_modules.priors.one_pass import OnePass
from evolvedirector.lightning_modules.priors.prior_condition import PriorCondition
from evolvedirector.lightning_modules.priors.prior_objective import PredictEmbedding, PriorDraws, PriorLosses


class ProjectionObjective(OnePass):
    """Train a prior to predict image embeddings from texts and noise by squared distance.

    Equation 3 of ECLIPSE (Patel et al. 2023, arXiv:2312.04655), its baseline: a diffusion prior held at its last time,
    without guidance. An embedding is drawn in one pass.

    Args:
        reduction: Over the dimensions of an embedding: the paper prints the `sum`; `mean` is what torch calls MSE.

    Raises:
        UserError: The reduction is another word.
    """

    def __init__(self, reduction: Reduction = "sum") -> None:
        super().__init__(reduction)

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
        return PriorLosses(self.own_losses(predict, target, condition, draws))

    def loss_settings(self) -> Mapping[str, str]:
        """Name the reduction."""
        return {"contrastive weight": "0", "reduction": self.reduction}
