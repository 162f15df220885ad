"""The reader reads what the artist drew; without that, no figure of the miniature world means anything."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from evolvedirector.worlds.shapes import SKILLS, World, draw, faithfulness, matches, parse, read
from evolvedirector.worlds.shapes.components import label_components
from evolvedirector.worlds.shapes.grammar import shuffled

SMALL = World()
LARGE = World(
    shapes=("circle", "square", "triangle", "star"),
    colours=("red", "green", "blue", "yellow", "purple", "orange"),
)


def share_read(world, skill, size_px, images, spoil=lambda image, seed: image):
    listed = shuffled(world, skill, 0)
    drawn = [(listed[i % len(listed)], i) for i in range(images)]
    right = [matches(scene, read(spoil(draw(scene, size_px, size_px, i), i), world)) for scene, i in drawn]
    return sum(right) / images


def blurred_and_noisy(image, seed):
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6)), dtype=float)
    noise = np.random.default_rng(seed).normal(0, 10, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("skill", SKILLS)
@pytest.mark.parametrize("world", [SMALL, LARGE], ids=["3x4", "4x6"])
def test_reads_the_artist_at_32_px(world, skill):
    assert share_read(world, skill, 32, 200) >= 0.99


@pytest.mark.parametrize("size_px", [24, 48, 150])
@pytest.mark.parametrize("skill", ["two_objects", "counting"])
def test_reads_other_sizes(skill, size_px):
    assert share_read(LARGE, skill, size_px, 40) >= 0.97


@pytest.mark.parametrize("skill", ["single_object", "counting", "position"])
def test_reads_through_blur_and_noise(skill):
    assert share_read(LARGE, skill, 32, 100, blurred_and_noisy) >= 0.95


def test_wide_images_are_read():
    scene = parse("a red circle left of a blue square")
    assert all(matches(scene, read(draw(scene, 64, 32, seed), SMALL)) for seed in range(20))


@pytest.mark.parametrize(
    "other",
    ["a blue circle and a red square", "a red circle", "a red circle and a green square", "two red circles",
     "a red triangle and a blue square", "a red circle, a blue square and a green triangle"],
)  # fmt: skip
def test_a_picture_of_something_else_does_not_match_and_grades_lower(other):
    asked = parse("a red circle and a blue square")
    right, wrong = read(draw(asked, 32, 32, 1), SMALL), read(draw(parse(other), 32, 32, 1), SMALL)
    assert matches(asked, right) and not matches(asked, wrong)
    assert faithfulness(asked, wrong) < 0.5 <= faithfulness(asked, right)


def test_a_picture_that_is_nearly_right_grades_above_one_that_is_not():
    asked = parse("three green squares")
    grades = [
        faithfulness(asked, read(draw(parse(text), 32, 32, 2), SMALL))
        for text in ("three green squares", "two green squares", "two blue squares", "a red circle")
    ]
    assert grades == sorted(grades, reverse=True) and len(set(grades)) == 4


def test_each_relation_excludes_the_other_three():
    relations = ("left of", "right of", "above", "below")
    for drawn in relations:
        reading = read(draw(parse(f"a red circle {drawn} a blue square"), 32, 32, 5), SMALL)
        told = [name for name in relations if matches(parse(f"a red circle {name} a blue square"), reading)]
        assert told == [drawn]


def test_a_blank_image_shows_nothing():
    assert read(Image.new("RGB", (32, 32), (240, 240, 250)), SMALL).objects == ()


def test_pure_noise_is_read_without_complaint():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert not matches(parse("a red circle"), read(Image.fromarray(noise), SMALL))


def test_components_follow_snakes_and_keep_classes_apart():
    classes = np.full((9, 9), -1)
    classes[::2] = 0  # stripes ...
    classes[1::4, -1] = classes[3::4, 0] = 0  # ... joined at alternating ends into one snake
    assert len(np.unique(label_components(classes))) == 2
    classes[4, 4] = 1
    assert len(np.unique(label_components(classes))) == 4  # background, two halves, the cut


def test_components_agree_with_flood_fill():
    rng = np.random.default_rng(3)
    for _ in range(20):
        classes = rng.integers(-1, 2, (12, 15))
        labels = label_components(classes)
        expected = np.full(classes.shape, -1)
        for start in np.ndindex(classes.shape):
            if classes[start] < 0 or expected[start] >= 0:
                continue
            name, todo = start[0] * 15 + start[1], [start]
            while todo:
                y, x = todo.pop()
                if expected[y, x] >= 0 or classes[y, x] != classes[start]:
                    continue
                expected[y, x] = name
                todo += [
                    (y + dy, x + dx)
                    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))
                    if 0 <= y + dy < 12 and 0 <= x + dx < 15
                ]
        assert np.array_equal(labels, expected)
