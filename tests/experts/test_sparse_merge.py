"""TIES and DARE on the update itself: a worked example, what is right on average, and what a rank loses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evolvedirector.experts import Expert, LoRA
from evolvedirector.experts.sparse_merge import Sparsity, dare_linear, dare_ties, disjoint_mean, drop, ties, trim
from tests.experts.toy_experts import expert, update

FIRST = torch.tensor([[4.0, -3.0, 0.5], [1.0, 2.0, -0.1]])
SECOND = torch.tensor([[2.0, 6.0, -5.0], [-0.2, 1.0, -4.0]])


def of_update(name: str, changed: Tensor, scale: float = 1.0) -> Expert:
    """An expert whose dW is a matrix: B is it, A the identity."""
    inputs = changed.shape[1]
    factors = {"layer": (torch.eye(inputs), changed / scale)}
    return Expert(name, LoRA(inputs, scale * inputs), factors, "org/base", "d1")


def test_ties_is_the_example_worked_by_hand() -> None:
    """Half of 6 entries stay: 4, -3, 2 and 6, -5, -4. At (0, 1) 6 wins over -3, so 6 alone counts."""
    assert trim(FIRST, 0.5).tolist() == [[4, -3, 0], [0, 2, 0]]
    assert trim(SECOND, 0.5).tolist() == [[0, 6, -5], [0, 0, -4]]
    for scale in (1.0, 0.25):
        merge = ties([of_update("a", FIRST, scale), of_update("b", SECOND, 2.0)], Sparsity(0.5, 2))
        torch.testing.assert_close(merge.update("layer"), torch.tensor([[4.0, 6.0, -5.0], [0.0, 2.0, -4.0]]))
    doubled = ties([of_update("a", FIRST), of_update("b", SECOND)], Sparsity(0.5, 2, scale=2.0))
    torch.testing.assert_close(doubled.update("layer"), 2 * merge.update("layer"))


def test_signs_are_elected_by_weight_and_those_who_agree_are_averaged() -> None:
    """At (0, 1) 3 x 3 of the first outweighs 6 of the second; at (0, 0) both agree: (3 x 4 + 2) / 4."""
    found = disjoint_mean(torch.stack([FIRST, SECOND]), [3.0, 1.0])
    torch.testing.assert_close(found, torch.tensor([[3.5, -3.0, -5.0], [1.0, 1.75, -1.075]]))
    assert disjoint_mean(torch.stack([FIRST, -FIRST]), [1.0, 1.0]).eq(0).all(), "a tie elects nobody"


def test_dare_is_right_on_average_and_each_seed_draws_its_own() -> None:
    draws, density = 4000, 0.3
    generator = torch.Generator().manual_seed(0)
    dropped = torch.stack([drop(FIRST, density, generator) for _ in range(draws)])
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], (FIRST / density).expand_as(dropped)[kept])
    deviation = FIRST.abs() * ((1 - density) / density / draws) ** 0.5
    assert ((dropped.mean(0) - FIRST).abs() < 4 * deviation).all()
    experts = [of_update("a", FIRST), of_update("b", SECOND)]
    mean = torch.stack([dare_linear(experts, Sparsity(0.5, 2), seed).update("layer") for seed in range(400)]).mean(0)
    deviation = (FIRST.square() + SECOND.square()).sqrt() / 2 / 400**0.5
    assert ((mean - (FIRST + SECOND) / 2).abs() < 4 * deviation).all()


@pytest.mark.parametrize("method", [dare_linear, dare_ties])
def test_dare_draws_nothing_from_the_global_generator(method: type[dare_linear]) -> None:  # type: ignore[valid-type]
    experts = [expert("one"), expert("two")]
    before = torch.get_rng_state()
    first = update(method(experts, Sparsity(0.5, 5), seed=1))  # type: ignore[operator]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    assert torch.equal(first, update(method(experts, Sparsity(0.5, 5), seed=1)))  # type: ignore[operator]
    assert not torch.equal(first, update(method(experts, Sparsity(0.5, 5), seed=2)))  # type: ignore[operator]


def test_dare_ties_elects_among_what_was_not_dropped() -> None:
    merge = dare_ties([of_update("a", FIRST), of_update("b", SECOND)], Sparsity(0.5, 2), seed=0)
    both, neither = FIRST / 0.5, SECOND / 0.5
    found = merge.update("layer")
    allowed = torch.stack([torch.zeros_like(found), both, neither, (both + neither) / 2])
    assert ((found - allowed).abs().min(0).values < 1e-5).all() and found.count_nonzero() > 0


def test_what_a_rank_loses_is_told() -> None:
    experts = [expert("one"), expert("two")]
    whole = ties(experts, Sparsity(0.5, 5))
    assert whole.provenance["merge"]["relative_error"] < 1e-6
    cut = ties(experts, Sparsity(0.5, 2))
    lost = float((update(cut) - update(whole)).norm() / update(whole).norm())
    assert cut.provenance["merge"]["relative_error"] == pytest.approx(lost, rel=1e-4)
    assert lost > 0.1 and cut.lora.rank == 2
