"""The grammar says what it means: text and scene are two forms of one thing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.records import normalise_prompt
from evolvedirector.worlds.shapes import SKILLS, World, parse, phrase, scenes, skill_of
from evolvedirector.worlds.shapes.grammar import shuffled
from evolvedirector.worlds.shapes.palette import COLOURS
from evolvedirector.worlds.shapes.shapes import PLURALS

LARGE = World(shapes=tuple(PLURALS)[:4], colours=tuple(COLOURS)[:6])
EVERY_WORD = World(shapes=tuple(PLURALS), colours=tuple(COLOURS)[2:], max_count=9)


@settings(deadline=None)  # the first example lists all scenes of a skill
@given(st.sampled_from(SKILLS), st.integers(min_value=0))
def test_every_scene_survives_being_written_and_read(skill, index):
    every = scenes(EVERY_WORD, skill)
    scene = every[index % len(every)]
    assert parse(phrase(scene)) == scene
    assert skill_of(scene) == skill
    assert EVERY_WORD.contains(scene)


@pytest.mark.parametrize("skill", SKILLS)
def test_texts_of_a_skill_stay_distinct_when_normalised(skill):
    texts = {normalise_prompt(phrase(scene)) for scene in scenes(LARGE, skill)}
    assert len(texts) == len(scenes(LARGE, skill))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("A  red circle.", "a red circle"),
        ("an orange star", "an orange star"),
        ("Three green crosses", "three green crosses"),
        ("a red circle to the left of a blue square", "a red circle left of a blue square"),
        ("a red circle, a blue square, and a green star", "a red circle, a blue square and a green star"),
        ("two red circles and a blue square", "two red circles and a blue square"),
    ],
)
def test_free_spelling_is_read(text, written):
    assert phrase(parse(text)) == written


@pytest.mark.parametrize(
    "text",
    ["", "a fox", "a mauve circle", "three green star", "a red circles", "a red circle and a red circle",
     "two red circles left of a blue square", "a red circle above a blue star above a green star",
     "nine red circles and a blue square"],
)  # fmt: skip
def test_other_text_is_refused_with_what_is_allowed(text):
    with pytest.raises(ValueError, match=r"Allowed|grammar"):
        parse(text)


def test_a_seed_draws_the_same_order_and_another_seed_another():
    assert shuffled(LARGE, "position", 1) == shuffled(LARGE, "position", 1)
    assert shuffled(LARGE, "position", 1) != shuffled(LARGE, "position", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": ("circle", "squre")}, "Write 'square'"),
        ({"colours": ()}, "empty"),
        ({"skills": ("counting", "counting")}, "repeats"),
        ({"max_count": 10}, "max_count=10"),
        ({"shapes": ("circle",)}, "It needs 2 shapes"),
    ],
)
def test_a_world_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        World(**change)
