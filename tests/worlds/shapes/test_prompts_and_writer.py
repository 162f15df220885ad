"""Prompts, held-out prompts and writer agree on what may be trained on."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.errors import UserError
from evolvedirector.records import Prompt, WriteRequest
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.worlds.shapes import (
    SKILLS,
    HeldOutPrompts,
    MiniaturePrompts,
    MiniatureWriter,
    OpenPrompts,
    World,
    parse,
    scenes,
    skill_of,
)
from evolvedirector.worlds.shapes.grammar import phrase, shuffled
from evolvedirector.worlds.shapes.prompts import apportion
from evolvedirector.writers.prompt_writer import PromptWriter

WORLD = World()
HELD_OUT = HeldOutPrompts(WORLD, per_skill=8)


def write(operation, parent=None, skill=None, count=6, seed=0, held_out=HELD_OUT, world=WORLD):
    (reply,) = MiniatureWriter(world, held_out).write([WriteRequest("w", operation, parent, skill, count, seed)])
    return reply


def test_they_fit_their_seams():
    assert isinstance(MiniaturePrompts(), PromptSource) and isinstance(HELD_OUT, PromptSource)
    assert isinstance(MiniatureWriter(), PromptWriter)


def test_seeds_are_distinct_repeatable_and_spread_over_skills():
    source = MiniaturePrompts(WORLD, 60, held_out=HELD_OUT)
    listed = source.prompts()
    assert len({prompt.id for prompt in listed}) == 60 and listed == source.prompts()
    counts = {skill: sum(prompt.skill == skill for prompt in listed) for skill in SKILLS}
    assert set(counts.values()) == {10}
    assert all(skill_of(parse(prompt.text)) == prompt.skill for prompt in listed)


def test_a_full_skill_leaves_its_part_to_the_others():
    listed = MiniaturePrompts(WORLD, 120).prompts()
    assert sum(prompt.skill == "single_object" for prompt in listed) == 12 and len(listed) == 120


def test_shares_skew_the_start():
    listed = MiniaturePrompts(WORLD, 20, shares={"counting": 0.9, "position": 0.1}).prompts()
    assert [sum(p.skill == s for p in listed) for s in ("counting", "position")] == [18, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count=0"),
        ({"count": 5000}, "count=5000"),
        ({"count": 30, "shares": {"single_object": 1.0}}, "There are 12"),
        ({"shares": {"singles": 1.0}}, "singles"),
        ({"shares": {}}, "at least one weight"),
    ],
)
def test_impossible_seeds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MiniaturePrompts(WORLD, **options).prompts()


def test_held_out_combinations_are_whole_and_few():
    held = HELD_OUT.prompts()
    assert all(HELD_OUT.holds(parse(prompt.text)) for prompt in held)
    for skill in SKILLS:
        out = [scene for scene in scenes(WORLD, skill) if HELD_OUT.holds(scene)]
        assert 0 < len(out) <= 0.21 * len(scenes(WORLD, skill))
        combinations = {scene.combination for scene in out}
        assert all(scene.combination not in combinations for scene in scenes(WORLD, skill) if scene not in out)


def test_no_seed_and_no_written_text_is_held_out():
    held = {prompt.id for prompt in HELD_OUT.prompts()}
    free = {skill: sum(not HELD_OUT.holds(scene) for scene in scenes(WORLD, skill)) for skill in SKILLS}
    limit = sum(free.values())
    listed = MiniaturePrompts(WORLD, limit, held_out=HELD_OUT).prompts()
    assert len(listed) == limit and held.isdisjoint(prompt.id for prompt in listed)
    for skill in SKILLS:
        texts = write("seed", skill=skill, count=10_000).texts
        assert len(texts) == free[skill]
        assert not any(HELD_OUT.holds(parse(text)) for text in texts)


def test_a_plain_list_is_held_out_by_its_texts():
    class Listed:
        def prompts(self):
            return [Prompt.create("a red circle"), Prompt.create("A fox")]

    assert "a red circle" not in write("seed", skill="single_object", count=99, held_out=Listed()).texts


def test_expansion_keeps_the_structure_and_never_repeats_the_parent():
    parent = "a red circle left of a blue square"
    reply = write("expansion", parent, count=40)
    assert len(set(reply.texts)) == 40 and parent not in reply.texts
    assert {parse(text).relation for text in reply.texts} == {"left of"}
    assert set(reply.skills) == {"position"}


def test_mutation_has_another_structure():
    reply = write("mutation", "a red circle", count=10)
    assert "single_object" not in reply.skills and len(set(reply.skills)) == 5
    assert all(skill_of(parse(text)) == skill for text, skill in zip(reply.texts, reply.skills, strict=True))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(SKILLS), st.integers(0, 10**6))
def test_children_relate_to_any_parent_as_their_operation_says_and_are_never_held_out(skill, seed):
    parent = shuffled(WORLD, skill, seed)[0]
    expanded, mutated = (
        write(operation, phrase(parent), count=8, seed=seed) for operation in ("expansion", "mutation")
    )
    assert {(skill_of(parse(text)), parse(text).relation) for text in expanded.texts} == {(skill, parent.relation)}
    assert skill not in {skill_of(parse(text)) for text in mutated.texts}
    for reply in (expanded, mutated):
        assert len(set(reply.texts)) == 8 and phrase(parent) not in reply.texts
        assert not any(HELD_OUT.holds(parse(text)) for text in reply.texts)
        assert [skill_of(parse(text)) for text in reply.texts] == list(reply.skills)


def test_expansion_changes_nouns_colours_and_counts():
    children = [parse(text) for text in write("expansion", "two red circles", count=30, held_out=None).texts]
    things = [scene.things[0] for scene in children]
    assert {thing.shape for thing in things} == set(WORLD.shapes)
    assert {thing.colour for thing in things} == set(WORLD.colours) and {thing.count for thing in things} == {2, 3, 4}


def test_a_request_without_a_skill_finds_all_skills_within_a_few_requests():
    few = {skill for seed in range(3) for skill in write("seed", count=4, seed=seed).skills}
    assert few == set(SKILLS)
    mutated = {skill for seed in range(4) for skill in write("mutation", "a red circle", count=3, seed=seed).skills}
    assert mutated == set(SKILLS) - {"single_object"}


def test_the_skill_asked_for_wins():
    assert set(write("mutation", "a red circle", skill="counting").skills) == {"counting"}
    assert set(write("expansion", "a red circle", skill="colours").skills) == {"colours"}


def test_the_same_request_has_the_same_reply_and_another_seed_another():
    assert write("seed", seed=1) == write("seed", seed=1)
    assert write("seed", seed=1).texts != write("seed", seed=2).texts


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"operation": "expansion", "parent": "a fox"}, "outside of the grammar"),
        ({"operation": "expansion"}, "without a parent"),
        ({"operation": "seed", "skill": "texture"}, "no skill"),
        ({"operation": "expansion", "parent": "two red circles and a blue square"}, "no skill"),
    ],
)
def test_what_cannot_be_written_is_refused(options, reason):
    reply = write(**options)
    assert reply.texts == () and reason in reply.refusal


def test_apportion_follows_shares_and_limits():
    assert apportion(10, [0.9, 0.1], [10, 10]) == [9, 1]
    assert apportion(10, [1, 1], [2, 10]) == [2, 8]
    assert apportion(10, [1, 1], [2, 3]) == [2, 3]


def test_repeats_ask_for_the_same_text_again_with_an_image_of_its_own() -> None:
    shares = {"single_object": 0.9, "counting": 0.1}
    listed = MiniaturePrompts(World(), count=60, shares=shares, repeats=True).prompts()
    single = [prompt for prompt in listed if prompt.skill == "single_object"]
    assert (len(listed), len(single), len({p.id for p in listed}), len({p.text for p in single})) == (60, 54, 60, 12)
    assert all(prompt.lineage_id == prompt.id for prompt in listed)
    with pytest.raises(ValueError, match="needs 54 prompts of single_object"):
        MiniaturePrompts(World(), count=60, shares=shares).prompts()


def test_small_skills_open_all_that_is_not_held_out() -> None:
    world = World(skills=("single_object", "two_objects", "counting"))
    held_out = HeldOutPrompts(world)
    opened = OpenPrompts(world, held_out).prompts()
    counts = Counter(prompt.skill for prompt in [*opened, *held_out.prompts()])
    assert {p.skill for p in opened} == {"single_object", "counting"}, "two_objects has 16 held-out prompts"
    assert counts["single_object"] == len(scenes(world, "single_object")) == 12
    assert counts["counting"] == len(scenes(world, "counting"))
    assert not {p.text for p in opened} & {p.text for p in held_out.prompts()}
    assert {p.skill for p in OpenPrompts(world, held_out, fewest=3).prompts()} == {"single_object"}
    with pytest.raises(UserError, match="Write 12"):
        OpenPrompts(world, fewest=0)
