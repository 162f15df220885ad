"""Merges as settings: each method gets its numbers, and no others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evolvedirector.errors import UserError
from evolvedirector.experts import Expert, LoRA
from evolvedirector.experts.merge_settings import Merge, check_merges, check_scales_are_chosen


def expert(name: str, seed: int) -> Expert:
    torch.manual_seed(seed)
    return Expert(name, LoRA(2), {"layer": (torch.randn(2, 6), torch.randn(5, 2))}, "toy", "digest")


ALL = {name: expert(name, seed) for seed, name in enumerate(("one", "two", "three"))}


def test_a_merge_takes_the_experts_that_it_names() -> None:
    found = Merge(experts=["one", "three"]).of(ALL, "both")
    expected = (ALL["one"].update("layer") + ALL["three"].update("layer")) / 2
    torch.testing.assert_close(found.update("layer"), expected)
    assert found.name == "both" and found.provenance["merge"]["method"] == "product_mean"
    assert Merge().of(ALL, "all").lora.rank == 6


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "factor_mean"},
        {"method": "svd", "rank": 2},
        {"method": "task_arithmetic", "scale": 0.5, "rank": 2},
        {"method": "ties", "rank": 2, "density": 0.5},
        {"method": "dare_linear", "rank": 2, "density": 0.5, "seed": 3},
        {"method": "dare_ties", "rank": 2, "density": 0.5, "scale": 0.5},
    ],
)
def test_each_method_is_called_with_its_numbers(settings: dict[str, Any]) -> None:
    found = Merge(**settings).of(ALL, "merged")
    assert found.lora.rank == 2 and found.provenance["merge"]["method"] == settings["method"]


def test_a_score_chooses_the_scale_and_all_scores_are_kept() -> None:
    settings = Merge("task_arithmetic", experts=["one", "two"], scales=[0.5, 1.0, 2.0])
    wanted = 1.1 * sum(ALL[name].update("layer") for name in ("one", "two"))
    taken = settings.taken(ALL, "best")
    found = settings.chosen(taken, "best", lambda merged: -float((merged.update("layer") - wanted).norm()))
    assert found.provenance["merge"]["scale"] == 1.0 and found.name == "best"
    scores = found.provenance["validation"]["scores"]
    assert list(scores) == ["0.5", "1", "2"] and max(scores, key=scores.get) == "1"
    torch.testing.assert_close(
        found.update("layer"), Merge("task_arithmetic", scale=1.0).of_all(taken, "x").update("layer")
    )


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (lambda: Merge("mean"), "method of a merge is 'mean'"),  # type: ignore[arg-type]
        (lambda: Merge("svd"), "rank of the merge by svd is null"),
        (lambda: Merge("product_mean", scale=2.0), "scale of the merge by product_mean is 2, which is not read"),
        (lambda: Merge("product_mean", scales=[1.0]), "scales of the merge by product_mean"),
        (lambda: Merge("task_arithmetic", scale=1.0, scales=[1.0]), "beside scale: 1.0"),
        (lambda: Merge("task_arithmetic", scales=[0.0]), "scale is 0"),
        (lambda: Merge("task_arithmetic", scales=[1.0]).of(ALL, "merged"), "no validation split chooses"),
        (lambda: check_scales_are_chosen({"a": Merge("task_arithmetic", scales=[1.0])}, False), "Merge 'a' has scales"),
        (lambda: check_scales_are_chosen({"a": Merge()}, True), "no merge has scales"),
        (lambda: Merge(experts=["four"]).of(ALL, "merged"), "takes the expert 'four'"),
        (lambda: check_merges({"one": Merge()}, {"one": "expert", "two": "expert"}), "no name of a stage"),
        (lambda: check_merges({"a/b": Merge()}, {"one": "expert", "two": "expert"}), "called 'a/b'"),
        (lambda: check_merges({"all": Merge()}, {"one": "expert", "gate": "gate"}), "takes 1 of them"),
        (lambda: check_merges({"all": Merge(experts=["one", "gate"])}, {"one": "expert", "gate": "gate"}), "'gate'"),
    ],
)
def test_what_cannot_be_merged_is_told_before_training(check: Any, line: str) -> None:
    with pytest.raises(UserError) as refused:
        check()
    assert line in str(refused.value)
