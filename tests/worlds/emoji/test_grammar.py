from __future__ import annotations

import itertools

import pytest

from evolvedirector.worlds.emoji.grammar import BACKGROUNDS, PHRASINGS, EmojiGrammar, scene_text
from evolvedirector.worlds.emoji.nouns import noun_phrase
from evolvedirector.worlds.emoji.scene import EmojiScene, EmojiThing

LABELS = ["fox", "owl", "grapes", "fire engine", "picture frame", "skull and crossbones", "four leaf clover", "key"]
TOOLS = ["hammer", "pick", "hammer and pick", "key"]


@pytest.mark.parametrize(
    ("label", "count", "phrase"),
    [
        ("fox", 1, "a fox"),
        ("owl", 1, "an owl"),
        ("unicorn", 1, "a unicorn"),
        ("ewe", 1, "a ewe"),
        ("SOS button", 1, "an SOS button"),
        ("hourglass done", 1, "an hourglass done"),
        ("octopus", 1, "an octopus"),
        ("compass", 1, "a compass"),
        ("grapes", 1, "a bunch of grapes"),
        ("scissors", 1, "a pair of scissors"),
        ("no entry", 1, "a no entry symbol"),
        ("Santa Claus", 1, "Santa Claus"),
        ("fox", 2, "two foxes"),
        ("butterfly", 3, "three butterflies"),
        ("monkey", 3, "three monkeys"),
        ("mosquito", 4, "four mosquitoes"),
        ("avocado", 2, "two avocados"),
        ("fish", 2, "two fish"),
        ("computer mouse", 2, "two computer mice"),
        ("kitchen knife", 2, "two kitchen knives"),
        ("snowman", 2, "two snowmen"),
        ("game die", 2, "two game dice"),
        ("ear of corn", 2, "two ears of corn"),
        ("heart with arrow", 2, "two hearts with arrow"),
        ("bow and arrow", 2, "two bows and arrows"),
        ("litter in bin sign", 2, "two litter in bin signs"),
        ("woman farmer", 2, "two women farmers"),
        ("man mountain biking", 2, "two men mountain biking"),
        ("person: beard", 2, "two people: beard"),
        ("bread", 2, "two loaves of bread"),
        ("scissors", 2, "two pairs of scissors"),
        ("two o’clock", 2, "two two o’clock symbols"),
        ("A button (blood type)", 2, "two A buttons (blood type)"),
    ],
)
def test_articles_and_plurals(label: str, count: int, phrase: str) -> None:
    assert noun_phrase(label, count) == phrase


def _scenes() -> list[EmojiScene]:
    one, two = EmojiThing("skull and crossbones"), EmojiThing("four leaf clover")
    return [
        *(EmojiScene.single(label) for label in LABELS),
        *(EmojiScene((EmojiThing(label, 4),)) for label in LABELS),
        EmojiScene((one, two)),
        EmojiScene((EmojiThing("fox", 2), one, EmojiThing("key", 3))),
        *(EmojiScene((two, one), relation) for relation in ("left of", "right of", "above", "below")),
    ]


@pytest.mark.parametrize("phrasing", range(len(PHRASINGS)))
@pytest.mark.parametrize("background", [None, *BACKGROUNDS])
def test_what_is_printed_is_read_back(background: str | None, phrasing: int) -> None:
    grammar = EmojiGrammar(LABELS)
    for scene in _scenes():
        wanted = EmojiScene(scene.things, scene.relation, background)
        assert grammar.parse(scene_text(wanted, phrasing)) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "FOX",
        "an fox.",
        "the  fox",
        "one fox",
        "fox on light blue background",
        "A picture of the fox",
        "a drawing of foX",
    ],
)
def test_readers_are_lenient(text: str) -> None:
    scene = EmojiGrammar(["fox"]).parse(text)
    assert scene is not None
    assert scene.objects == ("fox",)


def test_a_background_may_be_named_without_its_lightness() -> None:
    scene = EmojiGrammar(["fox"]).parse("two foxes on a blue background")
    assert scene == EmojiScene((EmojiThing("fox", 2),), background="light blue")


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "a dog", "a fox on a mauve background", "foxes", "two fox", "ten foxes", "a fox and a fox"),
        *("two foxes left of a key", "a fox left of a key left of an owl", "nine foxes and a key"),
        *("a fox and a key and an owl and a fire engine", "a fox " * 2000, "<b>a fox</b>", "\u202ea fox"),
    ],
)
def test_anything_else_is_not_understood(text: str) -> None:
    assert EmojiGrammar(LABELS).parse(text) is None


def test_what_is_not_understood_is_explained_with_the_nearest_names() -> None:
    grammar = EmojiGrammar(LABELS)
    assert "'a foxx' is outside of this vocabulary of 8 concepts. Nearest: 'fox', 'fire engine'" in grammar.explain(
        "a foxx left of a fire engin"
    )
    assert "Nearest" not in grammar.explain("zzzzzz")
    assert "20000 characters" in grammar.explain("a" * 20_000)


@pytest.mark.parametrize(
    ("things", "relation", "message"),
    [
        ((), None, "0 things"),
        ((EmojiThing("fox"), EmojiThing("fox")), None, "twice"),
        ((EmojiThing("fox", 10),), None, "10 objects"),
        ((EmojiThing("fox", 0),), None, "0 objects"),
        ((EmojiThing("fox"),), "left of", "Relation 'left of'"),
        ((EmojiThing("fox"), EmojiThing("owl")), "near", "Relation 'near'"),
    ],
)
def test_scenes_that_cannot_be_drawn_are_refused(
    things: tuple[EmojiThing, ...], relation: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        EmojiScene(things, relation)


def test_backgrounds_are_far_enough_apart_to_be_told() -> None:
    for first, second in itertools.combinations(BACKGROUNDS.values(), 2):
        assert sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5 >= 45


def test_the_longest_name_is_meant() -> None:
    grammar = EmojiGrammar(TOOLS)
    both, key = EmojiThing("hammer and pick"), EmojiThing("key", 3)
    for things in ((both, key), (key, both), (both,), (EmojiThing("hammer"), EmojiThing("pick"))):
        assert grammar.parse(scene_text(EmojiScene(things))) == EmojiScene(things)
