"""What all merges share: which experts may be merged, the sum of their updates as factors, how a merge was made."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from evolvedirector import __version__
from evolvedirector.errors import UserError
from evolvedirector.experts.expert import Expert
from evolvedirector.experts.lora import LoRA

if TYPE_CHECKING:
    from jaxtyping import Float

Method = Literal["product_mean", "factor_mean", "svd", "task_arithmetic", "ties", "dare_linear", "dare_ties"]
"""How experts are merged."""
Factors: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""A and B by layer, with the scale in B."""
FORMULAS: Mapping[Method, str] = {
    "product_mean": "dW = sum_i w_i s_i B_i A_i",
    "factor_mean": "dW = s (sum_i w_i B_i) (sum_i w_i A_i)",
    "svd": "dW = SVD_rank(sum_i w_i s_i B_i A_i)",
    "task_arithmetic": "dW = scale sum_i w_i s_i B_i A_i",
    "ties": "dW = SVD_rank(scale sum_i w_i t_i [sign t_i = g] / sum_i w_i [sign t_i = g]), t_i = trim(dW_i, density), "
    "g = sign(sum_i w_i t_i)",
    "dare_linear": "dW = SVD_rank(scale sum_i w_i d_i), d_i = m_i dW_i / density, m_i ~ Bernoulli(density)",
    "dare_ties": "dW = SVD_rank(scale sum_i w_i d_i [sign d_i = g] / sum_i w_i [sign d_i = g]), "
    "d_i = m_i dW_i / density, m_i ~ Bernoulli(density), g = sign(sum_i w_i d_i)",
}
"""What each computes: w_i are weights, dW_i = s_i B_i A_i with s_i = alpha_i / rank_i."""


def weights_of(
    experts: Sequence[Expert], weights: Sequence[float] | None, default: float, positive: bool = False
) -> list[float]:
    """Return a weight for each expert, once it is sure that they can be merged.

    Args:
        experts: To be merged.
        weights: As they were given. None: `default` for each.
        default: See above.
        positive: Whether all must be above 0.

    Raises:
        UserError: Fewer than two experts, two of one name, other bases or layers, or weights that do not fit.
    """
    _check_experts(experts)
    found = [default] * len(experts) if weights is None else [float(weight) for weight in weights]
    if len(found) != len(experts):
        raise UserError(
            f"There are {len(found)} weights for {len(experts)} experts. Allowed is one for each. Write {len(experts)} "
            "of them, or none."
        )
    if not all(math.isfinite(weight) and (weight > 0 or not positive) for weight in found):
        allowed = "numbers above 0: only their ratios count here" if positive else "finite numbers"
        raise UserError(
            f"The weights are {', '.join(f'{weight:g}' for weight in found)}. Allowed are {allowed}. Correct them, or "
            "leave them out."
        )
    return found


def concatenated(experts: Sequence[Expert], weights: Sequence[float], layer: str) -> tuple[Tensor, Tensor]:
    """Return factors of sum_i w_i s_i B_i A_i: the A one under the other, the w_i s_i B_i side by side.

    Args:
        experts: Whose layers are alike.
        weights: One for each.
        layer: Name in the network.
    """
    pairs = [expert.factors[layer] for expert in experts]
    scaled = [weight * expert.lora.scale for weight, expert in zip(weights, experts, strict=True)]
    up = torch.cat([scale * pair[1] for scale, pair in zip(scaled, pairs, strict=True)], dim=1)
    return torch.cat([pair[0] for pair in pairs]), up


def square_norm(down: Tensor, up: Tensor) -> float:
    """Return |B A|^2 (Frobenius) without building B A: the sum over (B^T B) (A A^T).

    Args:
        down: A.
        up: B.
    """
    thin_down, thin_up = down.flatten(1).double(), up.flatten(1).double()
    return max(0.0, float(((thin_up.T @ thin_up) * (thin_down @ thin_down.T)).sum()))


def relative(lost: float, whole: float) -> float:
    """Return a relative error of two squared norms; nothing lost of nothing is 0.

    Args:
        lost: Squared norm of what is missing.
        whole: Of what was to be kept.
    """
    return math.sqrt(lost / whole) if whole else 0.0


def refactored(
    left: Float[Tensor, "outputs k"], values: Float[Tensor, " k"], right: Float[Tensor, "k inputs"], rank: int
) -> tuple[Tensor, Tensor]:
    """Return A and B of the first directions of an SVD, each with the root of the singular values.

    A layer of fewer directions than the rank is filled up with zeros: all layers of an expert have one rank.

    Args:
        left: Singular vectors of the outputs.
        values: Singular values, the greatest first.
        right: Singular vectors of the inputs.
        rank: How many are kept.
    """
    root = values[:rank].sqrt()
    down, up = root[:, None] * right[:rank], left[:, :rank] * root
    missing = rank - len(root)
    if missing > 0:
        down = torch.cat([down, down.new_zeros(missing, down.shape[1])])
        up = torch.cat([up, up.new_zeros(len(up), missing)], dim=1)
    return down.float(), up.float()


def shaped_like(factors: tuple[Tensor, Tensor], expert: Expert, layer: str) -> tuple[Tensor, Tensor]:
    """Give flat factors the form of an expert's: those of a convolution have a height and a width.

    Args:
        factors: A and B of two dimensions.
        expert: Has the layer.
        layer: Name in the network.
    """
    down, up = expert.factors[layer]
    return factors[0].reshape(-1, *down.shape[1:]), factors[1].reshape(len(up), -1, *up.shape[2:])


def merged(
    name: str,
    method: Method,
    experts: Sequence[Expert],
    weights: Sequence[float],
    factors: Factors,
    **numbers: float,
) -> Expert:
    """Return a merge as an expert, with how it was made.

    Args:
        name: Of the result.
        method: How it was merged.
        experts: What was merged.
        weights: One for each.
        factors: Of the result.
        numbers: What else it depends on, and the relative error against what the formula says without `SVD_rank`.
    """
    rank = len(next(iter(factors.values()))[0])
    first = experts[0]
    seeds = {expert.lora.seed for expert in experts}
    lora = LoRA(rank, float(rank), first.lora.targets, seed=first.lora.seed if len(seeds) == 1 else 0)
    provenance = {
        "merge": {"method": method, "formula": FORMULAS[method], "weights": list(weights), **numbers},
        "experts": [_described(expert) for expert in experts],
        "versions": {"evolvedirector": __version__, "torch": torch.__version__, "peft": version("peft")},
    }
    base = next((expert.base for expert in experts if expert.base), "")
    digest = next((expert.base_digest for expert in experts if expert.base_digest), "")
    return Expert(name, lora, factors, base, digest, provenance)


def _described(expert: Expert) -> dict[str, Any]:
    lora = asdict(expert.lora) | {"alpha": expert.lora.scale * expert.lora.rank}
    return {
        "name": expert.name,
        "tensors_sha256": expert.tensors_sha256,
        "lora": lora | {"targets": None if expert.lora.targets is None else list(expert.lora.targets)},
        "provenance": dict(expert.provenance),
    }


def _check_experts(experts: Sequence[Expert]) -> None:
    if len(experts) < 2:
        raise UserError(
            f"There {'is one expert' if experts else 'are no experts'} to merge. Allowed are two or more. Name another."
        )
    names = [expert.name for expert in experts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"Two experts are called {twice[0]!r}. Allowed is each name once. Give each once, or rename a file."
        )
    for first, other in itertools.combinations(experts, 2):  # all pairs: one that lacks a digest fits two that differ
        _check_base(first, other)
    for other in experts[1:]:
        _check_layers(experts[0], other)


def _check_base(first: Expert, other: Expert) -> None:
    for expert in (first, other):
        if not expert.base and not expert.base_digest:
            raise UserError(
                f"Nobody says beside which base the expert {expert.name!r} was trained. Experts of other bases make no "
                "sum. Say it: --base NAME, which holds for every file that names none."
            )
    digests = first.base_digest, other.base_digest
    if (digests[0] != digests[1]) if all(digests) else first.base != other.base:
        shown = [f"{part.base or 'a base'} ({part.base_digest or 'no digest'})" for part in (first, other)]
        raise UserError(
            f"Expert {first.name!r} was trained beside {shown[0]}, {other.name!r} beside {shown[1]}. Experts of other "
            "bases make no sum. Merge those of one base."
        )


def _check_layers(first: Expert, other: Expert) -> None:
    if odd := sorted(first.factors.keys() ^ other.factors.keys()):
        has, lacks = (first, other) if odd[0] in first.factors else (other, first)
        raise UserError(
            f"Expert {has.name!r} changes the layer {odd[0]}, {lacks.name!r} does not ({len(odd)} layers differ). "
            "Allowed are experts of the same targets. Train them with the same targets."
        )
    for layer, (down, up) in first.factors.items():
        other_down, other_up = other.factors[layer]
        if down.shape[1:] != other_down.shape[1:] or len(up) != len(other_up):
            raise UserError(
                f"Expert {first.name!r} changes at {layer} {len(up)} x {tuple(down.shape[1:])} weights, {other.name!r} "
                f"{len(other_up)} x {tuple(other_down.shape[1:])}. Allowed are experts of one network. Merge those."
            )
