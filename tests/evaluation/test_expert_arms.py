"""Arms against the base: every figure by hand."""

from __future__ import annotations

import json
import math

import pytest

from evolvedirector.evaluation.expert_arms import (
    Difference,
    compare_arms,
    conflicts,
    paired_difference,
    split_by_skill,
    worst_aspect,
)

PROMPTS = {"a0": "a", "a1": "a", "b0": "b", "c0": "c"}
BASE = {"sharp": {"a0": 0.2, "a1": 0.4, "b0": 0.5, "c0": 0.6}, "bright": {"a0": 1.0, "a1": 1.0, "b0": 1.0, "c0": 1.0}}


def test_a_difference_is_paired_by_image_and_rests_on_prompts() -> None:
    arm = {"a0": 0.3, "a1": 0.5, "b0": 0.8, "c0": 0.8}
    found = paired_difference(arm, BASE["sharp"], PROMPTS)
    # by prompt .1, .3, .2: mean .2, s = .1, standard error .1 / sqrt(3)
    assert found is not None and found.prompts == 3
    assert found.mean == pytest.approx(0.2) and found.effect == pytest.approx(2.0)
    assert found.t == pytest.approx(2 * math.sqrt(3)) and found.interval is not None
    assert found.interval == pytest.approx((0.2 - 0.196 / math.sqrt(3), 0.2 + 0.196 / math.sqrt(3)))


def test_unscored_images_leave_both_arms_and_an_empty_comparison_is_none() -> None:
    arm = {"a0": None, "a1": 0.5, "b0": 0.5, "c0": 0.9}
    base = {**BASE["sharp"], "c0": None}
    found = paired_difference(arm, base, PROMPTS)
    assert found is not None and (found.mean, found.prompts) == (pytest.approx(0.05), 2)
    assert paired_difference({"a0": None}, base, PROMPTS) is None


@pytest.mark.parametrize(
    ("shift", "t", "effect"), [(0.0, 0.0, 0.0), (0.25, None, None)], ids=["nothing changed", "no spread"]
)
def test_differences_without_spread(shift: float, t: float | None, effect: float | None) -> None:
    arm = {image: value + shift for image, value in BASE["bright"].items()}
    found = paired_difference(arm, BASE["bright"], PROMPTS)
    assert found is not None and (found.mean, found.t, found.effect) == (shift, t, effect)
    one = paired_difference({"b0": 1.0 + shift}, BASE["bright"], PROMPTS)
    assert one == Difference(shift, t, effect, None, 1)


def test_arms_are_compared_with_the_base() -> None:
    up = {"sharp": {"a0": 0.3, "a1": 0.5, "b0": 0.8, "c0": 0.8}, "bright": {**BASE["bright"], "b0": 0.7, "c0": 0.6}}
    steady = {"sharp": {**BASE["sharp"], "b0": None}, "bright": dict(BASE["bright"])}
    figures = compare_arms({"base": BASE, "sharp": up, "merge": steady}, PROMPTS)
    assert figures["base"].means == {"sharp": pytest.approx((0.3 + 0.5 + 0.6) / 3), "bright": 1.0}
    assert figures["base"].differences == {} and figures["base"].worst is None
    assert not figures["base"].is_nowhere_below, "nothing was compared"
    assert figures["sharp"].worst == "bright" and not figures["sharp"].is_nowhere_below
    assert figures["merge"].is_nowhere_below and figures["merge"].unscored == 1
    plain = figures["sharp"].to_plain()
    assert json.loads(json.dumps(plain)) == plain and plain["nowhere_below"] is False


def test_the_worst_aspect_has_the_smallest_t_whatever_its_unit() -> None:
    large = Difference(-50.0, -1.0, -0.1, (-150.0, 50.0), 100)
    small = Difference(-0.01, -3.0, -0.3, (-0.017, -0.003), 100)
    certain = Difference(-1e-6, None, None, (-1e-6, -1e-6), 100)
    assert worst_aspect({"large": large, "small": small}) == "small"
    assert worst_aspect({"small": small, "certain": certain}) == "certain"
    assert worst_aspect({}) is None


def test_a_conflict_is_an_interval_wholly_below_the_base() -> None:
    drop = {"a0": 0.7, "a1": 0.7, "b0": 0.71, "c0": 0.69}
    unsure = {"a0": 0.5, "a1": 0.5, "b0": 1.4, "c0": 1.0}
    arms = {
        "base": BASE,
        "sharp": {"sharp": BASE["sharp"], "bright": drop},
        "other": {"sharp": BASE["sharp"], "bright": unsure},
    }
    assert conflicts(compare_arms(arms, PROMPTS), ["sharp", "other"]) == [("sharp", "bright")]


def test_skills_become_columns() -> None:
    skills = {"a0": "count", "a1": "count", "b0": "colour", "c0": "count"}
    alone = split_by_skill({"reader": BASE["sharp"]}, skills)
    assert alone == {"colour": {"b0": 0.5}, "count": {"a0": 0.2, "a1": 0.4, "c0": 0.6}}
    assert list(split_by_skill(BASE, skills)) == ["sharp: colour", "sharp: count", "bright: colour", "bright: count"]
