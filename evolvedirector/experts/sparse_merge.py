"""Merge experts by choosing single entries of their updates: TIES and DARE, on dW itself.

peft applies both to A and B apart, which is another update, and draws DARE's masks from the global generator. Here dW_i
= s_i B_i A_i is built layer by layer; what is chosen has full rank, and is factored again by SVD to a stated rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.experts.expert import Expert
from evolvedirector.experts.merge import check_rank, check_scale
from evolvedirector.experts.merged import Factors, merged, refactored, relative, shaped_like, weights_of
from evolvedirector.records.names import seed_of

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Say how much of each update is kept, and what is made of the result.

    Args:
        density: Share of the entries that is kept, in (0, 1].
        rank: Of the result. The chosen entries have full rank; what is lost stands in the provenance.
        scale: Factor of the result.

    Raises:
        UserError: Density or scale is out of range.
    """

    density: float
    rank: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise UserError(
                f"density is {self.density}. Allowed is a share of the entries above 0, up to 1. Write density: 0.2."
            )
        check_scale(self.scale)


def ties(
    experts: Sequence[Expert], sparsity: Sparsity, weights: Sequence[float] | None = None, name: str = "merge"
) -> Expert:
    """Trim each dW_i to its largest entries t_i, elect a sign g for each entry, and average those that have it.

    dW = scale sum_i w_i t_i [sign t_i = g] / sum_i w_i [sign t_i = g], g = sign(sum_i w_i t_i): with equal weights
    algorithm 1 of TIES (Yadav et al. 2023, arXiv:2306.01708). Entries are trimmed layer by layer.

    Args:
        experts: Two or more of one base and with the same layers.
        sparsity: How much is kept.
        weights: One above 0 for each, of which only the ratios count. None: equal ones.
        name: Of the result.

    Raises:
        UserError: The experts cannot be merged, a layer keeps nothing, or none has so many directions as the rank.
    """
    found = weights_of(experts, weights, 1 / max(1, len(experts)), positive=True)
    _check_kept(experts[0], sparsity.density)

    def chosen(layer: str) -> Tensor:
        return disjoint_mean(torch.stack([trim(each.update(layer), sparsity.density) for each in experts]), found)

    factors, error = _factored(experts, sparsity, chosen)
    return merged(name, "ties", experts, found, factors, **_numbers(sparsity), relative_error=error)


def dare_linear(
    experts: Sequence[Expert],
    sparsity: Sparsity,
    seed: int,
    weights: Sequence[float] | None = None,
    name: str = "merge",
) -> Expert:
    """Drop entries of each dW_i at random, scale up the others, and add: dW = scale sum_i w_i m_i dW_i / density.

    The masks m_i ~ Bernoulli(density) make it right on average (DARE, Yu et al. 2023, arXiv:2311.03099, section 3.2).

    Args:
        experts: Two or more of one base and with the same layers.
        sparsity: How much is kept.
        seed: Names the masks, with the name of the expert and of the layer: their order does not matter.
        weights: One for each. None: 1 / N each.
        name: Of the result.

    Raises:
        UserError: The experts cannot be merged, or no layer has so many directions as the rank.
    """
    found = weights_of(experts, weights, 1 / max(1, len(experts)))

    def chosen(layer: str) -> Tensor:
        dropped = torch.stack([_dropped(each, layer, sparsity.density, seed) for each in experts])
        return torch.tensordot(torch.tensor(found), dropped, dims=1)

    factors, error = _factored(experts, sparsity, chosen)
    return merged(name, "dare_linear", experts, found, factors, **_numbers(sparsity), seed=seed, relative_error=error)


def dare_ties(
    experts: Sequence[Expert],
    sparsity: Sparsity,
    seed: int,
    weights: Sequence[float] | None = None,
    name: str = "merge",
) -> Expert:
    """Drop entries at random as `dare_linear` does in place of trimming, then elect signs and average as `ties` does.

    Args:
        experts: Two or more of one base and with the same layers.
        sparsity: How much is kept.
        seed: Names the masks, with the name of the expert and of the layer.
        weights: One above 0 for each, of which only the ratios count. None: equal ones.
        name: Of the result.

    Raises:
        UserError: The experts cannot be merged, or no layer has so many directions as the rank.
    """
    found = weights_of(experts, weights, 1 / max(1, len(experts)), positive=True)

    def chosen(layer: str) -> Tensor:
        return disjoint_mean(torch.stack([_dropped(each, layer, sparsity.density, seed) for each in experts]), found)

    factors, error = _factored(experts, sparsity, chosen)
    return merged(name, "dare_ties", experts, found, factors, **_numbers(sparsity), seed=seed, relative_error=error)


def trim(update: Float[Tensor, "outputs inputs"], density: float) -> Float[Tensor, "outputs inputs"]:
    """Keep the largest entries and set the others to zero.

    Args:
        update: dW.
        density: Share that is kept.
    """
    from peft.utils.merge_utils import magnitude_based_pruning

    return magnitude_based_pruning(update, density)


def drop(
    update: Float[Tensor, "outputs inputs"], density: float, generator: torch.Generator
) -> Float[Tensor, "outputs inputs"]:
    """Set entries to zero at random and divide the others by the density; the expected value stays.

    Args:
        update: dW.
        density: Probability with which an entry is kept.
        generator: Draws the mask.
    """
    return update * torch.bernoulli(torch.full_like(update, density), generator=generator) / density


def disjoint_mean(
    updates: Float[Tensor, "experts outputs inputs"], weights: Sequence[float]
) -> Float[Tensor, "outputs inputs"]:
    """Average, entry by entry, the updates whose sign is that of the weighted sum; zeros have no sign and do not count.

    Args:
        updates: Sparse ones, of each expert.
        weights: One above 0 for each.
    """
    weight: Float[Tensor, "experts 1 1"] = torch.tensor(weights)[:, None, None]
    elected = (weight * updates).sum(0).sign()
    agrees = (updates.sign() == elected) & (updates != 0)
    share = (weight * agrees).sum(0)
    return (weight * updates * agrees).sum(0) / torch.where(share > 0, share, 1)


def _check_kept(expert: Expert, density: float) -> None:
    layer, size = min(
        ((layer, len(up) * down[0].numel()) for layer, (down, up) in expert.factors.items()), key=lambda each: each[1]
    )
    if density * size < 1:
        raise UserError(
            f"density is {density:g}, which keeps none of the {size} entries of {layer}. Allowed is 1/{size} or more: "
            "one entry of every layer. Write density: 0.2."
        )


def _dropped(expert: Expert, layer: str, density: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed_of("dare", seed, expert.name, layer))
    return drop(expert.update(layer), density, generator)


def _factored(experts: Sequence[Expert], sparsity: Sparsity, chosen: Callable[[str], Tensor]) -> tuple[Factors, float]:
    """Build, scale and factor the update of each layer; returns the factors and the relative error over all layers."""
    shapes = [(len(up), down[0].numel()) for down, up in experts[0].factors.values()]
    check_rank(sparsity.rank, max(map(min, shapes)))
    factors: Factors = {}
    lost = whole = 0.0
    for layer in experts[0].factors:
        left, values, right = torch.linalg.svd(sparsity.scale * chosen(layer), full_matrices=False)
        factors[layer] = shaped_like(refactored(left, values, right, sparsity.rank), experts[0], layer)
        whole += float(values.double().square().sum())
        lost += float(values[sparsity.rank :].double().square().sum())
    return factors, relative(lost, whole)


def _numbers(sparsity: Sparsity) -> dict[str, float]:
    return {"scale": sparsity.scale, "density": sparsity.density}
