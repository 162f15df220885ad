"""What each aspect keeps of one pool, and what it says where it cannot choose."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvedirector.policies import Aspect, BestOfN, Policy, RunSize
from evolvedirector.policies.best_of_n import best_of_each, chosen_by, least_score, pool_of
from evolvedirector.policies.policy import NeedsParts
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    Prompt,
    PromptEntry,
    RoundInfo,
    Sample,
)

FREE = Allowance(None, None, None)
INFO = RoundInfo("r", 0, None, 0, 0, "sha", writer="a writer")
BY_COLOUR = Aspect("colour")

pools = st.dictionaries(
    st.sampled_from("pqrst"),
    st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1),
    min_size=1,
)


def scored(pool: Mapping[str, Mapping[str, float]], reward: str = "colour") -> list[Evidence]:
    return [
        Evidence(prompt_id, "score", teacher_sha256=image, scores={reward: value})
        for prompt_id, images in pool.items()
        for image, value in images.items()
    ]


def state_of(*skills: str) -> DatasetState:
    prompts = [Prompt.create(f"{skill} {number}", skill=skill) for number, skill in enumerate(skills)]
    return DatasetState("sha", {p.id: PromptEntry(p, "live", Sample.create(p, "0" * 64, "toy")) for p in prompts})


@given(pools, st.sampled_from([Aspect("c"), Aspect("c", 0.5), Aspect("c", top_share=0.3), Aspect("c", top_share=1.0)]))
def test_at_most_the_best_of_each_prompt_and_nothing_under_the_limit(pool: Any, aspect: Aspect) -> None:
    values = [value for images in pool.values() for value in images.values()]
    least = least_score(values, aspect)
    best = best_of_each(pool, least)
    for prompt_id, images in pool.items():
        if prompt_id in best:
            assert images[best[prompt_id]] == max(images.values()) >= least
        else:
            assert max(images.values()) < least
    if aspect.top_share is not None:
        passed = sum(value >= least for value in values)
        above = sum(value > least for value in values)
        assert above < math.ceil(aspect.top_share * len(values) - 1e-9) <= passed


@pytest.mark.parametrize(
    ("aspect", "least"),
    [
        (Aspect("c"), -math.inf),
        (Aspect("c", threshold=2.5), 2.5),
        (Aspect("c", threshold=0.0), 0.0),
        (Aspect("c", top_share=0.5), 3.0),
        (Aspect("c", top_share=0.51), 2.0),
        (Aspect("c", top_share=0.01), 4.0),
        (Aspect("c", top_share=1.0), 1.0),
    ],
)
def test_the_limit_is_a_score_or_a_share_of_the_pool(aspect: Aspect, least: float) -> None:
    assert least_score([2.0, 4.0, 1.0, 3.0], aspect) == least


def test_equal_images_are_told_apart_by_their_name_whatever_their_order() -> None:
    assert best_of_each({"p": {"b": 1.0, "a": 1.0, "c": 0.0}}, 0.0) == {"p": "a"}
    assert best_of_each({"p": {"a": 1.0, "b": 1.0}}, 0.0) == {"p": "a"}


def test_a_decision_says_the_score_among_how_many_and_the_limit() -> None:
    pool = {"p": {"a": 0.83, "b": 0.4}, "q": {"c": 0.69}}
    assert chosen_by("colourfulness", Aspect("colour", threshold=0.7), pool) == [
        Decision("buy", "p", 1, "colourfulness 0.83, best of 2, at least 0.7", "a", "colourfulness")
    ]
    reasons = [decision.reason for decision in chosen_by("colourfulness", BY_COLOUR, pool)]
    assert reasons == ["colourfulness 0.83, best of 2", "colourfulness 0.69, best of 1"]


def test_one_image_may_serve_two_aspects_and_each_has_its_own_limit() -> None:
    policy = BestOfN({"one": Aspect("x"), "two": Aspect("y", threshold=0.5)})
    evidence = [
        Evidence("p", "score", teacher_sha256="a", scores={"x": 0.9, "y": 0.9}),
        Evidence("p", "score", teacher_sha256="b", scores={"x": 0.1, "y": 0.1}),
        Evidence("q", "score", teacher_sha256="c", scores={"x": 0.2, "y": 0.2}),
        Evidence("q", "score", teacher_sha256="d", scores={"x": 0.3}),  # y could not score it
        Evidence("q", "score", student_sha256="e", scores={"x": 1.0, "y": 1.0}),  # nobody can buy it
    ]
    decided = policy.decide(state_of("s"), evidence, FREE, INFO)
    assert [(d.variant, d.prompt_id, d.image_sha256) for d in decided] == [
        ("one", "p", "a"), ("one", "q", "d"), ("two", "p", "a"),
    ]  # fmt: skip
    assert policy.decide(state_of("s"), evidence[::-1], FREE, INFO) == decided


def test_the_control_chooses_by_chance_the_same_at_every_time_and_no_image_more_often() -> None:
    images = {f"p{number:03}": dict.fromkeys("abcd", 0.0) for number in range(400)}
    control = Aspect(by_chance=True, top_share=0.5)
    pool = pool_of("chance", control, scored(images), seed=0)
    assert pool == pool_of("chance", control, scored(images)[::-1], seed=0)
    chosen = {d.prompt_id: d.image_sha256 for d in chosen_by("chance", control, pool)}
    assert 340 < len(chosen) < 400, "a half of the images, so 15 of 16 prompts"
    counts = Counter(chosen.values())
    assert set(counts) == set("abcd") and min(counts.values()) > 60
    for other in (pool_of("chance", control, scored(images), seed=1), pool_of("luck", control, scored(images), seed=0)):
        assert {d.prompt_id: d.image_sha256 for d in chosen_by("chance", control, other)} != chosen


def test_prompts_are_spread_over_the_skills_under_names_that_outlive_the_settings() -> None:
    policy = BestOfN({"a": BY_COLOUR}, prompts=40, images_per_prompt=4, drawn_by="me")
    plan = policy.plan(state_of("one", "two", "three"), INFO)
    assert (plan.drawn_by, plan.images_per_prompt, plan.screen, plan.score_candidates) == ("me", 4, False, True)
    assert plan.score == () and not plan.compare and not plan.probe
    counts = Counter[str | None]()
    for request in plan.write:
        assert request.operation == "mutation" and request.parent is None and 1 <= request.count <= 16
        counts[request.skill] += request.count
    assert sorted(counts.values()) == [13, 13, 14] and set(counts) == {"one", "two", "three"}
    assert len({request.request_id for request in plan.write}) == len({r.seed for r in plan.write}) == len(plan.write)
    other = BestOfN({"b": Aspect("tone", 0.5)}, prompts=40, images_per_prompt=8)
    again = replace(INFO, round_id="another", revision_sha="another")
    assert other.plan(state_of("one", "two", "three"), again).write == plan.write
    for info in (replace(INFO, index=1), replace(INFO, seed=1), replace(INFO, writer="another writer")):
        named = {request.request_id for request in policy.plan(state_of("one", "two", "three"), info).write}
        assert not named & {request.request_id for request in plan.write}


def test_skills_and_sizes_of_requests_may_be_named() -> None:
    policy = BestOfN({"a": BY_COLOUR}, prompts=30, skills=["two"], texts_per_request=100)
    (request,) = policy.plan(state_of("one"), INFO).write
    assert (request.skill, request.count) == ("two", 30)
    (request,) = BestOfN({"a": BY_COLOUR}, prompts=3).plan(DatasetState("sha", {}), INFO).write
    assert request.skill is None, "no prompt has told a skill: the writer chooses"


def test_without_a_number_the_prompts_of_the_dataset_are_drawn_but_retired_ones() -> None:
    state = state_of("one", "two", "three")
    first, *others = state.entries
    state = replace(state, entries={**state.entries, first: replace(state.entries[first], state="retired")})
    plan = BestOfN({"a": BY_COLOUR}).plan(state, INFO)
    assert plan.score == tuple(sorted(others)) and plan.write == () and not plan.score_candidates


def test_nothing_passes_says_the_best_score() -> None:
    message = r"threshold 0\.9 of the aspect 'colour': the best of 3 images has 0\.7, the median 0\.5\."
    with pytest.raises(ValueError, match=message):
        chosen_by("colour", Aspect("c", threshold=0.9), {"p": {"a": 0.2, "b": 0.7}, "q": {"c": 0.5}})


def test_a_constant_reward_and_an_empty_pool_say_so() -> None:
    with pytest.raises(ValueError, match=r"'colour' cannot choose: the reward 'c' gives all 2 images of the pool 0\.5"):
        chosen_by("colour", Aspect("c"), {"p": {"a": 0.5}, "q": {"b": 0.5}})
    assert len(chosen_by("colour", Aspect("c"), {"p": {"a": 0.5}})) == 1, "one image alone cannot differ from others"
    with pytest.raises(ValueError, match="'colour' has nothing to choose from: no image of this round has a score of"):
        chosen_by("colour", Aspect("c"), {})
    with pytest.raises(ValueError, match="has nothing to choose from"):
        BestOfN({"colour": BY_COLOUR}).decide(state_of("s"), scored({"p": {"a": 1.0}}, "other"), FREE, INFO)


def test_once_the_budget_is_spent_a_round_keeps_nothing_and_fails_nothing() -> None:
    policy = BestOfN({"colour": BY_COLOUR})
    for spent in (Allowance(0, None, None), Allowance(None, None, 0.0)):
        assert policy.decide(state_of("s"), [], spent, INFO) == []
    with pytest.raises(ValueError, match="nothing to choose from"):
        policy.decide(state_of("s"), [], Allowance(5, None, None), INFO)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Aspect("c", 0.5, 0.5), r"threshold 0\.5 and top_share 0\.5\. Allowed is one"),
        (lambda: Aspect(), r"An aspect names no reward\. .*`by_chance: true`"),
        (lambda: Aspect(threshold=0.5), "An aspect names no reward"),
        (lambda: Aspect("c", by_chance=True), "names the reward 'c' and by_chance"),
        (lambda: Aspect("c", math.nan), "threshold is nan"),
        (lambda: Aspect("c", top_share=0.0), r"top_share is 0\.0\. Allowed: over 0 to 1"),
        (lambda: Aspect("c", top_share=1.01), "top_share is 1.01"),
        (lambda: BestOfN({}), r"aspects is \{\}\. Allowed is at least one"),
        (lambda: BestOfN({"": BY_COLOUR}), "each with a name"),
        (lambda: BestOfN({"a": BY_COLOUR}, prompts=0), "prompts is 0"),
        (lambda: BestOfN({"a": BY_COLOUR}, images_per_prompt=0), "images_per_prompt is 0"),
        (lambda: BestOfN({"a": BY_COLOUR}, texts_per_request=0), "texts_per_request is 0"),
        (lambda: BestOfN({"a": {"rewrad": "c"}}), r"aspects\.a has no setting 'rewrad'.*Did you mean 'reward'"),  # type: ignore[dict-item]
    ],
)
def test_settings_that_cannot_hold_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_teacher_or_a_reward_that_takes_no_part_is_named() -> None:
    policy = BestOfN({"a": BY_COLOUR, "chance": Aspect(by_chance=True)}, drawn_by="me")
    policy.check_parts(["me"], ["colour"])
    with pytest.raises(ValueError, match=r"drawn_by is 'me', but no teacher is called so\. Allowed: exact"):
        policy.check_parts(["exact"], ["colour"])
    with pytest.raises(ValueError, match=r"aspect 'a' is chosen by 'colour', but no reward.*Allowed: tone, shape\."):
        policy.check_parts(["me"], ["tone", "shape"])
    with pytest.raises(ValueError, match="none, since `rewards` is empty"):
        policy.check_parts(["me"], [])


def test_it_stands_behind_the_seams_and_its_name_holds_every_setting() -> None:
    policy = BestOfN({"a": BY_COLOUR}, prompts=4)
    assert isinstance(policy, Policy) and isinstance(policy, NeedsParts)
    assert policy.most_looks(RunSize(3, 100)) == 0 and policy.mix(state_of("s"), [], INFO) is None
    assert not policy.checks_seeds
    others = [
        BestOfN({"a": BY_COLOUR}), BestOfN({"b": BY_COLOUR}, 4), BestOfN({"a": Aspect("c")}, 4),
        BestOfN({"a": Aspect("colour", 0.1)}, 4), BestOfN({"a": Aspect("colour", top_share=0.1)}, 4),
        BestOfN({"a": BY_COLOUR}, 4, 2), BestOfN({"a": BY_COLOUR}, 4, drawn_by="x"),
        BestOfN({"a": BY_COLOUR}, 4, skills=["x"]), BestOfN({"a": BY_COLOUR}, 4, texts_per_request=2),
    ]  # fmt: skip
    assert len({policy.fingerprint, *(other.fingerprint for other in others)}) == len(others) + 1
    same = BestOfN({"a": {"reward": "colour", "threshold": None}}, 4)  # type: ignore[dict-item]
    assert same.fingerprint == policy.fingerprint
