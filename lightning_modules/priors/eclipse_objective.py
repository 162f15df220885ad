"""The objective of ECLIPSE: projection and contrast."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.objectives.prior_losses import (
    Reduction,
    contrastive_loss,
    projection_loss,
    texts_of,
    total_loss,
)
from evolvedirector.lightning_modules.priors.one_pass import OnePass
from evolvedirector.lightning_modules.priors.prior_condition import PriorCondition
from evolvedirector.lightning_modules.priors.prior_objective import PredictEmbedding, PriorDraws, PriorLosses


class EclipseObjective(OnePass):
    """Train a prior by projection and a contrast with the texts of the batch, without diffusion.

    L = L_proj + lambda L_CLS (Patel et al. 2023, arXiv:2312.04655, equation 5). lambda means nothing alone: the sum
    over dimensions is as many times larger than the mean as an embedding has dimensions, temperature and norm of the
    embeddings decide how the two gradients compare, and what is best falls with the number of pairs. The paper states
    lambda alone, so the rest is ours, and `evolvedirector check` prints all of it together.

    Args:
        contrastive_weight: lambda; the paper has 0.2, and 0.2 to 0.4 in its range. 0 is `ProjectionObjective`.
        reduction: Over the dimensions of an embedding, in the projection: the paper prints the `sum`.
        temperature: tau; the paper gives none. CLIP begins at 0.07 and ends at 0.01.
        gather_negatives: Contrast with the texts of all ranks, not of this one's batch alone; the paper does not say.
            Only then is the loss of a global batch the same for every world size.

    Raises:
        UserError: A number is out of range, or the reduction is another word.
    """

    def __init__(
        self,
        contrastive_weight: float = 0.2,
        reduction: Reduction = "sum",
        temperature: float = 0.07,
        gather_negatives: bool = False,
    ) -> None:
        if not (0 <= contrastive_weight < math.inf and 0 < temperature < math.inf):
            raise UserError(
                f"contrastive_weight is {contrastive_weight} and temperature {temperature}. Allowed are a weight from "
                "0 and a temperature above 0. Write contrastive_weight: 0.2, temperature: 0.07."
            )
        super().__init__(reduction)
        self.contrastive_weight = contrastive_weight
        self.temperature = temperature
        self.gather_negatives = gather_negatives

    def losses(
        self,
        predict: PredictEmbedding,
        target: Tensor,
        condition: PriorCondition,
        draws: PriorDraws,
        prompts: Sequence[str],
    ) -> PriorLosses:
        """Return L_proj + lambda L_CLS of each sample.

        Args:
            predict: The network.
            target: Float[batch, embedding], true image embeddings.
            condition: Of each.
            draws: Noise.
            prompts: Texts; equal ones are no negatives of each other.
        """
        predicted = predict(draws.noise, None, condition)
        projection = projection_loss(predicted, target, self.reduction)
        if not self.contrastive_weight:
            return PriorLosses(projection)
        texts = texts_of(condition.text_embedding, prompts, self.gather_negatives)
        contrastive = contrastive_loss(predicted, texts, self.temperature)
        total = total_loss(projection, contrastive, self.contrastive_weight)
        return PriorLosses(total, {"projection_loss": projection, "contrastive_loss": contrastive})

    def loss_settings(self) -> Mapping[str, str]:
        """Name weight, reduction and temperature."""
        return {
            "contrastive weight": f"{self.contrastive_weight:g}",
            "reduction": self.reduction,
            "temperature": f"{self.temperature:g}",
            "negatives": "of all ranks" if self.gather_negatives else "of each rank's batch",
        }
