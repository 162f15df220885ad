"""The artist keeps its promises: same seed, same pixels; objects apart and inside."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.worlds.shapes import SKILLS, Weaknesses, World, draw, parse
from evolvedirector.worlds.shapes.grammar import shuffled
from evolvedirector.worlds.shapes.layout import layout
from evolvedirector.worlds.shapes.shapes import reach

WORLD = World(shapes=("circle", "square", "triangle", "star"), max_count=6)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SKILLS), st.integers(0, 10**6), st.sampled_from([(1.0, 1.0), (2.0, 1.0), (1.0, 1.5)]))
def test_objects_never_touch_nor_leave_the_image(skill, seed, extent):
    scene = shuffled(WORLD, skill, seed)[0]
    centres, radii = layout(scene, extent, np.random.default_rng(seed))
    circles = radii * [reach(thing.shape) for thing in scene.things for _ in range(thing.count)]
    assert (centres - circles[:, None] >= 0).all() and (centres + circles[:, None] <= extent).all()
    for i in range(len(circles)):
        for j in range(i):
            assert np.linalg.norm(centres[i] - centres[j]) - circles[i] - circles[j] > 0.05


def test_a_seed_fixes_every_pixel_and_another_moves_the_object():
    scene = parse("a red star")
    assert draw(scene, 32, 32, 7).tobytes() == draw(scene, 32, 32, 7).tobytes()
    assert draw(scene, 32, 32, 7).tobytes() != draw(scene, 32, 32, 8).tobytes()


def test_sizes_outside_of_the_limits_are_refused():
    with pytest.raises(ValueError, match="16x32"):
        draw(parse("a red star"), 16, 32, 0)


@pytest.mark.parametrize(
    ("weakness", "asked", "kept"),
    [
        ("miscount", "three red circles", "a red circle"),
        ("swap_colours", "a red circle and a blue square", "a red circle and a blue circle"),
        ("confuse_relations", "a red circle above a blue square", "a red circle and a blue square"),
    ],
)
def test_a_weakness_changes_what_it_is_about_and_nothing_else(weakness, asked, kept):
    rng = np.random.default_rng(0)
    weak = Weaknesses(**{weakness: 1.0})
    assert all(weak.distort(parse(asked), WORLD, rng) != parse(asked) for _ in range(30))
    assert all(weak.distort(parse(kept), WORLD, rng) == parse(kept) for _ in range(30))


@settings(deadline=None)
@given(st.sampled_from(SKILLS), st.integers(0, 10**6))
def test_a_hopeless_artist_still_draws_a_scene(skill, seed):
    scene = shuffled(WORLD, skill, seed)[0]
    distorted = Weaknesses(1.0, 1.0, 1.0, 1.0).distort(scene, WORLD, np.random.default_rng(seed))
    assert distorted.total >= 1
