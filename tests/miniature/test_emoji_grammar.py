from __future__ import annotations

import itertools

import pytest

from evolvedirector.miniature.emoji_grammar import (
    BACKGROUNDS,
    PHRASINGS,
    EmojiScene,
    noun_phrase,
    parse_scene,
    scene_text,
)


@pytest.mark.parametrize(
    ("label", "phrase"),
    [
        ("fox", "a fox"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("hourglass done", "an hourglass done"),
        ("grapes", "grapes"),
        ("octopus", "an octopus"),
        ("compass", "a compass"),
        ("ice cream", "an ice cream"),
        ("T-Rex", "a T-Rex"),
    ],
)
def test_articles(label: str, phrase: str) -> None:
    assert noun_phrase(label) == phrase


@pytest.mark.parametrize("phrasing", range(len(PHRASINGS)))
@pytest.mark.parametrize("background", [None, *BACKGROUNDS])
@pytest.mark.parametrize("label", ["fox", "owl", "grapes", "fire engine", "picture"])
def test_what_is_printed_is_read_back(label: str, background: str | None, phrasing: int) -> None:
    scene = EmojiScene(label, background)
    assert parse_scene(scene_text(scene, phrasing), [label]) == scene


@pytest.mark.parametrize("text", ["FOX", "an fox.", "the  fox", "fox on light blue background", "A picture of the fox"])
def test_readers_are_lenient(text: str) -> None:
    scene = parse_scene(text, ["fox"])
    assert scene is not None
    assert scene.label == "fox"


@pytest.mark.parametrize("text", ["", "a", "a dog", "a fox on a mauve background", "a fox left of a key", "foxes"])
def test_anything_else_is_not_understood(text: str) -> None:
    assert parse_scene(text, ["fox", "key"]) is None


def test_backgrounds_are_far_enough_apart_to_be_told() -> None:
    for first, second in itertools.combinations(BACKGROUNDS.values(), 2):
        assert sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5 >= 45
