"""A tidy artist: objects apart and inside whatever their shapes, in reading order, and read without mistakes."""

import numpy as np
import pytest

from evolvedirector.records import ImageRequest
from evolvedirector.worlds.shapes import SKILLS, MiniatureTeacher, Scene, Thing, World, draw, matches, parse, read
from evolvedirector.worlds.shapes.grammar import shuffled
from evolvedirector.worlds.shapes.layout import GAP, layout
from evolvedirector.worlds.shapes.palette import COLOURS
from evolvedirector.worlds.shapes.shapes import PLURALS, reach

WORLD = World(("circle", "square", "triangle", "star"), tuple(COLOURS)[:6])
SHAPES = tuple(PLURALS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("extent", [(1.0, 1.0), (2.0, 1.0), (1.0, 1.5)])
def test_tidy_objects_keep_the_gap_and_stay_inside_whatever_shape_and_number(shape, extent):
    other = SHAPES[SHAPES.index(shape) - 1]
    mixed = [Scene((Thing(shape, "red"), Thing(other, "blue"))), Scene((Thing(shape, "red", 4), Thing(other, "blue")))]
    for scene in [Scene((Thing(shape, "red", count),)) for count in range(1, 10)] + mixed:
        reaches = np.array([reach(thing.shape) for thing in scene.things for _ in range(thing.count)])
        for seed in range(20):
            centres, radii = layout(scene, extent, np.random.default_rng(seed), tidy=True)
            circles = radii * reaches
            assert (centres - circles[:, None] >= -1e-9).all() and (centres + circles[:, None] <= extent).all()
            apart = np.linalg.norm(centres[:, None] - centres, axis=-1) - circles[:, None] - circles
            assert (apart[np.triu_indices(scene.total, 1)] >= GAP - 1e-9).all()


@pytest.mark.parametrize("size_px", [32, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_two_tidy_objects_share_a_pixel(shape, size_px):
    # above four objects the world asks for images larger than 32 px
    world = World((shape,), ("red",), ("single_object", "counting"), max_count=9)
    for count in range(1, 10 if size_px == 64 else 5):
        for seed in range(3):
            seen = read(draw(Scene((Thing(shape, "red", count),)), size_px, size_px, seed, tidy=True), world)
            assert len(seen.objects) == count


@pytest.mark.parametrize("skill", SKILLS)
def test_tidy_images_are_read_correctly(skill):
    drawn = shuffled(WORLD, skill, 1)[:60]
    right = [matches(scene, read(draw(scene, 32, 32, i, tidy=True), WORLD)) for i, scene in enumerate(drawn)]
    assert sum(right) >= 0.98 * len(drawn)


@pytest.mark.parametrize(
    ("text", "axis", "order"),
    [
        ("a red circle left of a blue star", 0, 1),
        ("a red circle right of a blue star", 0, -1),
        ("a red circle above a blue star", 1, 1),
        ("a red circle below a blue star", 1, -1),
        ("a red circle and a blue star", 0, 1),
    ],
)
def test_tidy_pairs_follow_the_relation_and_else_the_text(text, axis, order):
    for extent in [(1.0, 1.0), (2.0, 1.0), (1.0, 1.5)]:
        centres, _ = layout(parse(text), extent, np.random.default_rng(3), tidy=True)
        offset = centres[1] - centres[0]
        assert offset[axis] * order > 3 * abs(offset[1 - axis])


def test_tidy_varies_less_than_free():
    def spread(tidy):
        placed = [layout(parse("three red stars"), (1.0, 1.0), np.random.default_rng(s), tidy)[0] for s in range(30)]
        return np.std(placed, axis=0).mean()

    assert 0 < spread(True) < 0.2 * spread(False)


def test_the_layout_is_part_of_the_fingerprint_and_of_the_images():
    request = ImageRequest("r", "two red circles", 0, 32, 32)
    free, tidy = MiniatureTeacher(), MiniatureTeacher(layout="tidy")
    assert free.fingerprint != tidy.fingerprint
    (a,), (b,) = free.generate([request]), tidy.generate([request])
    assert a.image != b.image and b.status == "image"


def test_an_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="layout='neat'"):
        MiniatureTeacher(layout="neat")
