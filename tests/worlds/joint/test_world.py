"""The joint world: kinds that no prior trains on, and pictures that say more than their text."""

from __future__ import annotations

import numpy as np
import pytest

from evolvedirector.errors import UserError
from evolvedirector.records import ImageRequest
from evolvedirector.worlds.joint import SceneArtist, SceneNegatives, ScenePrompts
from evolvedirector.worlds.joint.picture import picture
from evolvedirector.worlds.joint.world import JOINT_WORLD, WITHHELD, drawn_scenes, scenes_of, split_of
from evolvedirector.worlds.shapes import matches, parse, read, scenes

SPLITS = ("train", "validation", "test")


def kinds_of(split: str) -> set[tuple[str, str]]:
    every = [scene for skill in JOINT_WORLD.skills for scene in scenes_of(split, skill)]  # type: ignore[arg-type]
    return {thing.kind for scene in every for thing in scene.things}


def test_a_splits_own_kinds_are_in_no_other_split_in_any_skill() -> None:
    kinds = {split: kinds_of(split) for split in SPLITS}
    assert len(kinds["train"]) == 16 and len(WITHHELD["test"]) == len(WITHHELD["validation"]) == 4
    for split in ("validation", "test"):
        assert WITHHELD[split] <= kinds[split]
        assert not any(WITHHELD[split] & kinds[other] for other in SPLITS if other != split)


def test_every_shape_and_every_colour_is_known_from_training() -> None:
    shapes, colours = zip(*kinds_of("train"), strict=True)
    assert set(shapes) == set(JOINT_WORLD.shapes) and set(colours) == set(JOINT_WORLD.colours)


def test_every_skill_has_scenes_in_every_split_and_mixtures_are_in_none() -> None:
    assert all(next(iter(scenes_of(split, skill)), None) for split in SPLITS for skill in JOINT_WORLD.skills)  # type: ignore[arg-type]
    mixed = parse("a red circle and a purple square")  # one of validation, one of test
    assert mixed in scenes(JOINT_WORLD, "two_objects") and split_of(mixed) is None


def test_the_same_seed_draws_the_same_scenes_and_a_larger_draw_begins_with_them() -> None:
    assert drawn_scenes("test", 12, 3) == drawn_scenes("test", 30, 3)[:12] != drawn_scenes("test", 12, 4)


def test_pictures_of_one_text_differ_and_all_are_read_right() -> None:
    pairs = [*drawn_scenes("test", 36, 0), *drawn_scenes("train", 24, 0)]
    right = [matches(scene, read(picture(scene, seed), JOINT_WORLD)) for scene, seed in pairs]
    assert np.mean(right) >= 0.97
    scene = parse("a purple square")
    first, second, again = (np.asarray(picture(scene, seed), dtype=int) for seed in (0, 1, 0))
    assert (first == again).all() and abs(first - second).mean() > 4


def test_prompts_come_from_their_split_and_repeat_as_prompts_of_their_own() -> None:
    prompts = ScenePrompts("test", 60).prompts()
    assert {split_of(parse(prompt.text)) for prompt in prompts} == {"test"}
    assert {prompt.skill for prompt in prompts} == set(JOINT_WORLD.skills)
    assert len({prompt.id for prompt in prompts}) == 60 > len({prompt.text for prompt in prompts})
    once = ScenePrompts("test", 60, repeats=False).prompts()
    assert len(once) == len({prompt.text for prompt in once}) == len({prompt.text for prompt in prompts})
    with pytest.raises(UserError, match="count=0"):
        ScenePrompts(count=0)


def test_the_artist_draws_by_seed_and_refuses_other_words_and_sizes() -> None:
    asked = [("a red cross", 32), ("a red cross", 64), ("a red heart", 32), ("a dog", 32)]
    requests = [ImageRequest(str(n), text, n, size, size) for n, (text, size) in enumerate(asked)]
    replies = list(SceneArtist().generate(requests))
    assert [reply.status for reply in replies] == ["image", "failure", "refusal", "refusal"]


@pytest.mark.parametrize(
    ("text", "has", "has_not"),
    [
        ("a red circle", "a red square", "a red circle"),
        ("three green crosses", "two green crosses", "a green cross"),
        ("a red circle and a blue square", "a blue circle and a red square", "a blue square and a red circle"),
        ("a red star and a blue star", "a green star and a blue star", "a blue star and a red star"),
        ("a red cross left of a blue cross", "a red cross right of a blue cross", "a red cross above a blue cross"),
    ],
)
def test_a_hard_negative_has_one_attribute_swapped_and_another_meaning(text: str, has: str, has_not: str) -> None:
    negatives = SceneNegatives().negatives(text)
    assert has in negatives and has_not not in negatives and text not in negatives
    assert len(negatives) == len(set(negatives)) and all(parse(other) != parse(text) for other in negatives)
