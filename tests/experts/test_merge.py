"""Merges compute their equations: exact where they say so, as near as can be where they do not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.experts import Expert
from evolvedirector.experts.merge import choose_scale, factor_mean, product_mean, svd, task_arithmetic
from evolvedirector.experts.sparse_merge import Sparsity, dare_linear, dare_ties, ties
from tests.experts.toy_experts import expert, update

ONE, TWO, THREE = expert("one", 2, 1.0), expert("two", 3, 6.0), expert("three", 2)
ALIKE = [expert("one", 2, 4.0), expert("two", 2, 4.0), expert("three", 2, 4.0)]
ALL: dict[str, Callable[..., Expert]] = {
    "product_mean": product_mean,
    "factor_mean": factor_mean,
    "svd": partial(svd, rank=6),
    "task_arithmetic": partial(task_arithmetic, scale=1.0),
    "ties": partial(ties, sparsity=Sparsity(0.5, 5)),
    "dare_linear": partial(dare_linear, sparsity=Sparsity(0.5, 5), seed=3),
    "dare_ties": partial(dare_ties, sparsity=Sparsity(0.5, 5), seed=3),
}


def same(found: Tensor, wanted: Tensor, within: float = 2e-6) -> None:
    assert float((found - wanted).norm() / wanted.norm()) < within


def error_of(merge: Expert) -> float:
    return float(merge.provenance["merge"]["relative_error"])


def test_the_product_mean_is_the_weighted_sum_of_what_the_experts_do() -> None:
    merge = product_mean([ONE, TWO, THREE])
    same(update(merge), (update(ONE) + update(TWO) + update(THREE)) / 3)
    assert merge.lora.rank == 7 and merge.lora.scale == 1.0 and error_of(merge) == 0
    same(update(product_mean([ONE, TWO], [0.7, -2.0])), 0.7 * update(ONE) - 2 * update(TWO))


def test_the_factor_mean_is_the_printed_formula() -> None:
    merge = factor_mean(ALIKE)
    for layer in merge.factors:
        downs = [each.factors[layer][0].double().flatten(1) for each in ALIKE]
        ups = [each.factors[layer][1].double().flatten(1) for each in ALIKE]
        printed = sum(2.0 * up @ down for up, down in itertools.product(ups, downs)) / 9
        assert isinstance(printed, Tensor)
        same(merge.update(layer).double(), printed)
    same(update(factor_mean(ALIKE, [0.2, 0.3, 0.5])), update(factor_mean(ALIKE[::-1], [0.5, 0.3, 0.2])))


def test_the_factor_mean_comes_near_the_product_mean_only_from_one_beginning() -> None:
    """Five experts: prototypes gave ratio and cosine .996 from one beginning, .43 and .42 from five."""
    together = [expert(f"e{number}", beginning=7, drift=0.03) for number in range(5)]
    apart = [expert(f"e{number}", beginning=number, drift=0.03) for number in range(5)]
    assert error_of(factor_mean(together)) < 0.1 < 0.5 < error_of(factor_mean(apart))
    for experts in (together, apart):
        true, merge = update(product_mean(experts)), factor_mean(experts)
        assert error_of(merge) == pytest.approx(float((update(merge) - true).norm() / true.norm()), rel=1e-3)


def test_svd_is_exact_at_the_sum_of_ranks_and_the_nearest_below() -> None:
    experts = [ONE, TWO]
    whole = svd(experts, 5)
    true = (update(ONE) + update(TWO)) / 2
    same(update(whole), true)
    assert error_of(whole) < 1e-6
    for rank in (1, 2, 3):
        cut = svd(experts, rank)
        assert cut.lora.rank == rank
        lost = 0.0
        for layer in cut.factors:
            values = torch.linalg.svdvals((ONE.update(layer) + TWO.update(layer)).double() / 2)
            lost += float(values[rank:].square().sum())
        assert float((update(cut) - true).norm()) == pytest.approx(lost**0.5, rel=1e-5)
        assert error_of(cut) == pytest.approx(lost**0.5 / float(true.norm()), rel=1e-5)


def test_task_arithmetic_scales_the_sum_and_takes_skills_away() -> None:
    same(update(task_arithmetic([ONE, TWO], 0.4)), 0.4 * (update(ONE) + update(TWO)))
    same(update(task_arithmetic([ONE, TWO], 0.4, [1.0, -1.0])), 0.4 * (update(ONE) - update(TWO)))
    same(update(task_arithmetic([ONE, TWO], 0.4, rank=2)), 0.8 * update(svd([ONE, TWO], 2)))


def test_the_scale_is_the_one_of_the_best_score() -> None:
    assert choose_scale(lambda scale: -((scale - 0.6) ** 2), [0.3, 0.5, 1.0])[0] == 0.5
    best, scores = choose_scale(lambda scale: 1.0, [0.3, 0.5, 0.3])
    assert best == 0.3 and scores == {0.3: 1.0, 0.5: 1.0}
    with pytest.raises(UserError, match="no scale to choose from"):
        choose_scale(lambda scale: 1.0, [])
    with pytest.raises(UserError, match=r"score of the scale 0\.5 is nan"):
        choose_scale(lambda scale: float("nan"), [0.5])


@pytest.mark.parametrize("method", ALL)
def test_the_order_does_not_matter(method: str) -> None:
    """Names and weights go with their expert."""
    weights = [0.2, 0.3, 0.5]
    wanted = update(ALL[method](ALIKE, weights=weights))
    for order in itertools.permutations(range(3)):
        same(update(ALL[method]([ALIKE[n] for n in order], weights=[weights[n] for n in order])), wanted)


@pytest.mark.parametrize("method", ["product_mean", "factor_mean", "svd", "task_arithmetic", "ties"])
def test_weights_that_sum_to_one_of_equal_experts_give_the_expert(method: str) -> None:
    twins = [expert("one", 2, 4.0, factors=ONE.factors), expert("two", 2, 4.0, factors=ONE.factors)]
    settings: dict[str, Any] = {"sparsity": Sparsity(1.0, 5)} if method == "ties" else {}
    settings |= {"rank": 4} if method == "svd" else {}
    same(update(ALL[method](twins, weights=[0.3, 0.7], **settings)), update(twins[0]))


@pytest.mark.parametrize("method", ALL)
def test_a_merge_says_how_it_was_made(method: str) -> None:
    merge = ALL[method](ALIKE, name="all")
    told = merge.provenance
    assert (merge.name, merge.base, merge.base_digest) == ("all", "org/base", "d1")
    assert told["merge"]["method"] == method and told["merge"]["formula"].startswith("dW = ")
    assert [each["tensors_sha256"] for each in told["experts"]] == [each.tensors_sha256 for each in ALIKE]
    assert told["experts"][0]["lora"]["alpha"] == 4.0 and told["versions"]["torch"] == torch.__version__
    if method.startswith("dare"):
        assert told["merge"]["seed"] == 3 and told["merge"]["density"] == 0.5
    again = ALL[method]([merge, expert("four", 2, 4.0)]) if method != "factor_mean" else merge
    assert again.provenance["merge"]["method"] == method, "a merge can be merged"


def test_what_cannot_be_merged_is_refused() -> None:
    cases: list[tuple[str, list[Expert], dict[str, Any]]] = [
        ("are no experts", [], {}),
        ("is one expert", [ONE], {}),
        ("called 'one'", [ONE, ONE], {}),
        (
            "beside org/base .d1., 'two' beside org/other .d2.",
            [ONE, expert("two", base="org/other", base_digest="d2")],
            {},
        ),
        ("'two' beside org/base .d2.", [ONE, expert("two", base_digest="d2")], {}),
        ("org/other .no digest.", [ONE, expert("two", base="org/other", base_digest="")], {}),
        (
            "'two' was trained beside org/base .d2., 'three' beside org/base .d3.",
            [expert("one", base_digest=""), expert("two", base_digest="d2"), expert("three", base_digest="d3")],
            {},
        ),
        ("Nobody says.*'two'.*--base", [ONE, expert("two", base="", base_digest="")], {}),
        ("'one' changes the layer conv, 'two' does not", [ONE, without(TWO, "conv")], {}),
        ("changes at conv", [ONE, with_factors(TWO, "conv", (3, 3, 1, 1), (4, 3, 1, 1))], {}),
        ("1 weights for 2 experts", [ONE, TWO], {"weights": [1.0]}),
        ("weights are 1, nan", [ONE, TWO], {"weights": [1.0, float("nan")]}),
    ]
    for match, experts, settings in cases:
        with pytest.raises(UserError, match=match):
            product_mean(experts, **settings)
    for pair in ([ONE, TWO], [ONE, THREE]):
        with pytest.raises(UserError, match=r"'one' has rank 2 and alpha 1.*product_mean"):
            factor_mean(pair)
    for rank in (0, 6):
        with pytest.raises(UserError, match="1 to 5"):
            svd([ONE, TWO], rank)
    for rank in (0, 6):
        with pytest.raises(UserError, match="1 to 5"):
            ties([ONE, TWO], Sparsity(0.5, rank))
    for scale in (0.0, float("inf")):
        with pytest.raises(UserError, match="scale is"):
            task_arithmetic([ONE, TWO], scale)
    for density in (0.0, 1.1, float("nan")):
        with pytest.raises(UserError, match="density is"):
            Sparsity(density, 2)
    with pytest.raises(UserError, match=r"keeps none of the 30 entries of blocks\.1\.to_q\. Allowed is 1/30 or more"):
        ties([ONE, TWO], Sparsity(0.02, 2))
    with pytest.raises(UserError, match=r"weights are 1, -1\. Allowed are numbers above 0"):
        ties([ONE, TWO], Sparsity(0.5, 2), [1.0, -1.0])


def test_a_base_known_by_digest_alone_or_by_name_alone_is_enough() -> None:
    assert product_mean([ONE, expert("two", base="")]).base == "org/base"
    assert product_mean([ONE, expert("two", base_digest="")]).base_digest == "d1"


def without(of: Expert, layer: str) -> Expert:
    return expert(of.name, of.lora.rank, factors={key: value for key, value in of.factors.items() if key != layer})


def with_factors(of: Expert, layer: str, down: tuple[int, ...], up: tuple[int, ...]) -> Expert:
    return expert(of.name, of.lora.rank, factors={**of.factors, layer: (torch.ones(down), torch.ones(up))})
