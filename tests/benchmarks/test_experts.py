"""The benchmark of experts: what changes in the recipes, and tables that show nothing but what was run."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from benchmarks import experts
from benchmarks.expert_tables import report
from benchmarks.experts import CONFIGS, SOURCES, jobs_of, recipe_of


def given_of(tree: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [part["init_args"] for part in tree["trainer"]["callbacks"] if part["class_path"].endswith(name)]
    return found


def test_of_the_shipped_recipes_only_seeds_and_sources_change() -> None:
    for name in ("versat2i", "selma"):
        shipped = yaml.safe_load((CONFIGS / "experiment" / f"{name}_miniature.yaml").read_text("utf-8"))
        changed = recipe_of(name, "exact", 0)
        assert (
            changed["model"] == shipped["model"] and changed["trainer"]["max_steps"] == shipped["trainer"]["max_steps"]
        )
        for callback in ("ExpertStages", "ExpertTable"):
            assert given_of(changed, callback) | {"seed": 0} == given_of(shipped, callback) | {"seed": 0}
        other = recipe_of(name, "exact", 2)
        assert other["seed_everything"] == shipped["seed_everything"] + 2
        assert other["data"]["init_args"]["seed"] == given_of(other, "EvolutionCallback")["seed"] == 2


@pytest.mark.parametrize("source", [name for name, change in SOURCES.items() if change is not None])
def test_another_source_draws_for_selma(source: str) -> None:
    evolution = given_of(recipe_of("selma", source, 0), "EvolutionCallback")
    (teacher,) = evolution["teachers"].values()
    assert evolution["policy"]["init_args"]["bought_from"] in evolution["teachers"]
    assert teacher["class_path"].endswith("SelfTeacher") == (source != "imperfect")
    assert evolution["policy"]["init_args"].get("check_teacher", False) == (source == "self, filtered")
    assert evolution["judge"]["class_path"].endswith("NoJudge") == (source != "self, filtered")


def figures(**arms: dict[str, float]) -> dict[str, Any]:
    base = dict.fromkeys(next(iter(arms.values())), 0.5)
    told = {"base": {"means": base, "differences": {}, "nowhere_below": False}}
    for arm, differences in arms.items():
        told[arm] = {
            "means": {key: 0.5 + value for key, value in differences.items()},
            "differences": {key: {"mean": value, "t": value * 10} for key, value in differences.items()},
            "nowhere_below": all(value >= 0 for value in differences.values()),
        }
    return told


def versat2i(uniform: float, seed: int = 0) -> dict[str, Any]:
    aspects = ("faithfulness", "colourfulness", "symmetry", "background_noise")
    singles = {name: {aspect: 0.3 if aspect == name else -0.2 for aspect in aspects} for name in aspects}
    others = {"chance": dict.fromkeys(aspects, -0.1), "joint": dict.fromkeys(aspects, -0.1)}
    arms = singles | others | {"uniform": dict.fromkeys(aspects, uniform), "gate": dict.fromkeys(aspects, 0.1)}
    return {"recipe": "versat2i", "source": "self", "seed": seed, "figures": figures(**arms)}


def selma(sum_of: float) -> dict[str, Any]:
    arms = {"count": {"count": 0.3}, "uniform": {"count": 0.1}, "sum": {"count": sum_of}}
    return {"recipe": "selma", "source": "exact", "seed": 0, "figures": figures(**arms)}


def test_bars_count_the_seeds_in_which_they_held() -> None:
    said = report([versat2i(-0.05), versat2i(-0.15, 1)], jobs_of(["versat2i"], []))
    assert "- the expert of symmetry raises its own evaluator: in 2 of 2 seeds" in said
    assert "- the worst aspect of the uniform merge is better than the joint one's: in 1 of 2 seeds" in said
    assert "- and than that of every single expert: in 2 of 2 seeds" in said
    assert "- (reported) the gate is nowhere below the base: in 2 of 2 seeds" in said
    assert "- (reported) the uniform merge is nowhere below the base: in 0 of 2 seeds" in said
    assert "| chance | 0.400 (-1.0 -1.0) |" in said
    assert "1 of 3 runs were not made:\n- versat2i, images of: self, seed 2" in said
    assert "the sum with weights of 1 is worse than the base: in 1 of 1 seeds" in report([selma(-0.1)], [])
    assert "the sum with weights of 1 is worse than the base: in 0 of 1 seeds" in report([selma(0.1)], [])


def test_nothing_is_shown_of_what_was_not_run() -> None:
    jobs = jobs_of(["versat2i", "selma"], list(SOURCES))
    assert len(jobs) == len(experts.SEEDS) * (1 + len(SOURCES))
    assert report([], jobs).startswith("18 of 18 runs were not made:") and "|" not in report([], jobs)
