"""Merge experts by sums of their updates or factors, each headed by its equation.

w_i are weights, s_i = alpha_i / rank_i, and dW_i = s_i B_i A_i is what expert i adds to a layer. No method here builds
dW: a sum of products is a product of concatenated factors. `sparse_merge` has TIES and DARE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from evolvedirector.errors import UserError
from evolvedirector.experts.expert import Expert
from evolvedirector.experts.merged import (
    Factors,
    concatenated,
    merged,
    refactored,
    relative,
    shaped_like,
    square_norm,
    weights_of,
)


def product_mean(experts: Sequence[Expert], weights: Sequence[float] | None = None, name: str = "merge") -> Expert:
    """Return dW = sum_i w_i s_i B_i A_i, exactly: factors one behind the other, the ranks add up.

    It is what peft calls `cat`, and what `set_adapters(names, weights)` of diffusers computes at each step.

    Args:
        experts: Two or more of one base and with the same layers.
        weights: One for each. None: 1 / N each, the mean.
        name: Of the result.

    Raises:
        UserError: The experts cannot be merged, or the weights are not one finite number for each.
    """
    found = weights_of(experts, weights, 1 / max(1, len(experts)))
    factors = {layer: concatenated(experts, found, layer) for layer in experts[0].factors}
    return merged(name, "product_mean", experts, found, factors, relative_error=0.0)


def factor_mean(experts: Sequence[Expert], weights: Sequence[float] | None = None, name: str = "merge") -> Expert:
    """Return dW = s (sum_i w_i B_i) (sum_i w_i A_i), as SELMA prints it (arXiv:2403.06952, section 3.4).

    This is not the mean of what the experts do: each B is also multiplied by the A of the others. It comes near the
    product mean only where all A stayed near one beginning (one seed); else most of the update is averaged away. How
    far it is from the product mean stands in the provenance as `relative_error`.

    Args:
        experts: Two or more of one base, with the same layers, rank and alpha.
        weights: One for each. None: 1 / N each.
        name: Of the result.

    Raises:
        UserError: The experts cannot be merged, or differ in rank or alpha.
    """
    found = weights_of(experts, weights, 1 / max(1, len(experts)))
    for expert in experts[1:]:
        _check_alike(experts[0], expert)
    factors: Factors = {}
    lost = whole = 0.0
    for layer in experts[0].factors:
        downs, ups = zip(*(expert.factors[layer] for expert in experts), strict=True)
        mean = torch.tensor(found)
        down = torch.tensordot(mean, torch.stack(downs), dims=1)
        up = experts[0].lora.scale * torch.tensordot(mean, torch.stack(ups), dims=1)
        factors[layer] = down, up
        true_down, true_up = concatenated(experts, found, layer)
        whole += square_norm(true_down, true_up)
        lost += square_norm(torch.cat([true_down, down]), torch.cat([true_up, -up], dim=1))
    return merged(name, "factor_mean", experts, found, factors, relative_error=relative(lost, whole))


def svd(experts: Sequence[Expert], rank: int, weights: Sequence[float] | None = None, name: str = "merge") -> Expert:
    """Return the update of a rank that is nearest to sum_i w_i s_i B_i A_i: its first singular directions.

    It is exact where the rank is the sum of ranks (Eckart and Young 1936: no other update of the rank is nearer).

    Args:
        experts: Two or more of one base and with the same layers.
        rank: Of the result, at most the sum of ranks.
        weights: One for each. None: 1 / N each.
        name: Of the result.

    Raises:
        UserError: The experts cannot be merged, or the sum has no such rank.
    """
    found = weights_of(experts, weights, 1 / max(1, len(experts)))
    factors, error = _truncated(experts, found, rank)
    return merged(name, "svd", experts, found, factors, relative_error=error)


def task_arithmetic(
    experts: Sequence[Expert],
    scale: float,
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    name: str = "merge",
) -> Expert:
    """Return dW = scale sum_i w_i s_i B_i A_i (Ilharco et al. 2022, arXiv:2212.04089, section 2).

    The weights are 1 there, and the scale is chosen on a validation split: `choose_scale`.

    Args:
        experts: Two or more of one base and with the same layers.
        scale: Of the sum.
        weights: One for each; one below 0 takes a skill away. None: 1 each.
        rank: Of the result, as in `svd`. None: the sum of ranks, which is exact.
        name: Of the result.

    Raises:
        UserError: The experts cannot be merged, or a number is out of range.
    """
    found = weights_of(experts, weights, 1.0)
    check_scale(scale)
    scaled = [scale * weight for weight in found]
    if rank is None:
        factors, error = {layer: concatenated(experts, scaled, layer) for layer in experts[0].factors}, 0.0
    else:
        factors, error = _truncated(experts, scaled, rank)
    return merged(name, "task_arithmetic", experts, found, factors, scale=scale, relative_error=error)


def choose_scale(score: Callable[[float], float], scales: Sequence[float]) -> tuple[float, dict[float, float]]:
    """Return the scale of the best score, the first of equals, and all scores.

    Args:
        score: Of a scale, higher is better: merges, draws a validation split that no test reads, and judges it.
        scales: Which are tried, each once.

    Raises:
        UserError: There is no scale, or a score is not finite.
    """
    if not scales:
        raise UserError("There is no scale to choose from. Allowed are one or more. Write scales=[0.3, 0.6, 1.0].")
    scores = {scale: float(score(scale)) for scale in dict.fromkeys(scales)}
    for scale, value in scores.items():
        if not math.isfinite(value):
            raise UserError(
                f"The score of the scale {scale:g} is {value}. Allowed are finite numbers. Look at what it draws, or "
                "leave that scale out."
            )
    return max(scores, key=lambda scale: scores[scale]), scores


def check_scale(scale: float) -> None:
    """Refuse a scale under which nothing, or nothing finite, is left.

    Args:
        scale: Of a sum of updates.

    Raises:
        UserError: It is 0 or not finite.
    """
    if not math.isfinite(scale) or scale == 0:
        raise UserError(f"scale is {scale:g}. Allowed are finite numbers but 0. Write scale: 0.6, or 1.")


def check_rank(rank: int, most: int) -> None:
    """Refuse a rank that a merge cannot have.

    Args:
        rank: That was asked for.
        most: That it can have.

    Raises:
        UserError: It is under 1 or above that.
    """
    if not 1 <= rank <= most:
        raise UserError(
            f"rank is {rank}, but the merged update has at most {most} directions. Allowed is 1 to {most}. Write rank: "
            f"{most} to lose nothing that has a direction."
        )


def _truncated(experts: Sequence[Expert], weights: Sequence[float], rank: int) -> tuple[Factors, float]:
    """Cut sum_i w_i s_i B_i A_i to a rank by the small core of its QR factors: B = Q R, A^T = P S, B A = Q (R S^T) P^T.

    Returns the factors and the relative error over all layers.
    """
    check_rank(rank, sum(expert.lora.rank for expert in experts))
    factors: Factors = {}
    lost = whole = 0.0
    for layer in experts[0].factors:
        down, up = concatenated(experts, weights, layer)
        outer, right_of = torch.linalg.qr(up.flatten(1).double())
        inner, left_of = torch.linalg.qr(down.flatten(1).double().T)
        left, values, right = torch.linalg.svd(right_of @ left_of.T, full_matrices=False)
        factors[layer] = shaped_like(refactored(outer @ left, values, right @ inner.T, rank), experts[0], layer)
        whole += float(values.square().sum())
        lost += float(values[rank:].square().sum())
    return factors, relative(lost, whole)


def _check_alike(first: Expert, other: Expert) -> None:
    if other.lora.rank != first.lora.rank or not math.isclose(other.lora.scale, first.lora.scale):
        shown = [f"rank {part.lora.rank} and alpha {part.lora.scale * part.lora.rank:g}" for part in (first, other)]
        raise UserError(
            f"Expert {first.name!r} has {shown[0]}, {other.name!r} {shown[1]}. A mean of factors is for equal ranks "
            "and alphas. Write --method product_mean, which takes any."
        )
