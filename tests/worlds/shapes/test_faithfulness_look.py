"""The miniature judge says which part of a prompt is missing, and by atoms stays as reliable as by whole images."""

import random
from functools import cache

import numpy as np
import pytest

from evolvedirector.judges.faithfulness import AtomJudge, look_of, missing
from evolvedirector.records import ImageAndPrompt
from evolvedirector.worlds.shapes import MiniatureJudge, Weaknesses, World, draw, parse
from evolvedirector.worlds.shapes.artist import to_png
from evolvedirector.worlds.shapes.grammar import phrase, shuffled

WORLD = World()


def item(prompt, shown, seed=0):
    return ImageAndPrompt(f"{prompt}/{shown}/{seed}", to_png(draw(parse(shown), 32, 32, seed)), prompt)


def test_the_judge_offers_the_seam():
    assert isinstance(MiniatureJudge(), AtomJudge)


@pytest.mark.parametrize(
    ("prompt", "shown", "lacks"),
    [
        ("a red circle", "a red circle", ()),
        ("a red circle", "a blue circle", ("colour", "count")),
        ("a red circle", "a red square", ("object", "colour", "count")),
        ("three red circles", "two red circles", ("count",)),
        ("a red circle and a blue square", "a blue circle and a red square", ("colour", "count")),
        ("a red circle above a blue square", "a red circle below a blue square", ("relation",)),
    ],
)
def test_what_is_missing_is_named(prompt, shown, lacks):
    (look,) = MiniatureJudge().ask_atoms([item(prompt, shown)])
    assert missing(look) == lacks and (look_of(look).probability >= 0.5) == (lacks == ())


@cache
def asked():
    """Half of the images show their prompt; the others have one mistake."""
    weak = [Weaknesses(1, 0, 0, 0), Weaknesses(0, 1, 0, 0), Weaknesses(0, 0, 1, 0), Weaknesses(0, 0, 0, 1)]
    items, truth = [], []
    rng = np.random.default_rng(0)
    for skill in WORLD.skills:
        for number, scene in enumerate(shuffled(WORLD, skill, 3)[:6]):
            wrong = [other for kind in weak if (other := kind.distort(scene, WORLD, rng)) != scene]
            items += [item(phrase(scene), phrase(scene), number)]
            image = to_png(draw(wrong[number % len(wrong)], 32, 32, number))
            items += [ImageAndPrompt(f"{skill}{number}", image, phrase(scene))]
            truth += [True, False]
    return items, truth


def accuracy(seeds=2, **options):
    items, truth = asked()
    right = [
        (look.probability >= 0.5) == shows
        for seed in range(seeds)
        for look, shows in zip(MiniatureJudge(seed=seed, **options).check(items), truth, strict=True)
    ]
    return sum(right) / len(right)


def test_an_exact_judge_agrees_with_itself_whichever_way_it_is_asked():
    assert accuracy(1) == accuracy(1, by_atoms=True) == accuracy(1, by_atoms=True, asks_per_atom=2) == 1.0


@pytest.mark.parametrize("error", [0.1, 0.3])
def test_expecting_errors_keeps_the_look_by_atoms_at_least_as_accurate_as_one_look(error):
    atoms = {"error_rate": error, "by_atoms": True}
    taken_for_true = accuracy(**atoms)
    weighed = accuracy(**atoms, expected_error=error, asks_per_atom=3)
    assert weighed >= 1.0 - error and weighed > taken_for_true + 0.1


def test_errors_and_unreadable_replies_are_drawn_per_question_and_refusals_per_image():
    items = asked()[0][:48]
    true = [answer for look in MiniatureJudge().ask_atoms(items) for answer in look.answers]
    wrong = [answer for look in MiniatureJudge(error_rate=0.3).ask_atoms(items) for answer in look.answers]
    flipped = sum((a.probability >= 0.5) != (b.probability >= 0.5) for a, b in zip(true, wrong, strict=True))
    assert 0.2 < flipped / len(true) < 0.4
    unread = [a.covered_mass == 0.0 for look in MiniatureJudge(invalid_rate=0.3).ask_atoms(items) for a in look.answers]
    assert 0.2 < sum(unread) / len(true) < 0.4
    refused = [look.reason for look in MiniatureJudge(refusal_rate=0.3).ask_atoms(items) if not look.answers]
    assert 0.15 < len(refused) / len(items) < 0.45 and set(refused) == {"refused to answer"}


def test_the_same_questions_have_the_same_answers_in_any_order():
    items = asked()[0][:24]
    turned = random.Random(0).sample(items, len(items))
    judge = MiniatureJudge(error_rate=0.3, invalid_rate=0.2, refusal_rate=0.1, by_atoms=True)
    looks = {look.item_id: look for look in judge.check(items)}
    assert all(looks[look.item_id] == look for look in judge.check(turned))


def test_what_cannot_be_judged_has_no_answers_and_an_unreadable_look():
    items = [
        ImageAndPrompt("bytes", b"no image", "a red circle"),
        ImageAndPrompt("prompt", item("a red circle", "a red circle").image, "a fox"),
        ImageAndPrompt("word", item("a red circle", "a red circle").image, "a red star"),
    ]
    for look, by_atoms in zip(
        MiniatureJudge().ask_atoms(items), MiniatureJudge(by_atoms=True).check(items), strict=True
    ):
        assert look.answers == () and look.reason == by_atoms.reason != "" and by_atoms.covered_mass == 0.0


def test_options_of_asking_by_atoms_are_named_in_the_fingerprint_and_checked():
    options = [
        {},
        {"by_atoms": True},
        {"by_atoms": True, "expected_error": 0.1},
        {"by_atoms": True, "asks_per_atom": 2},
    ]
    assert len({MiniatureJudge(**option).fingerprint for option in options}) == len(options)
    with pytest.raises(ValueError, match=r"expected_error=0\.5"):
        MiniatureJudge(expected_error=0.5)
    with pytest.raises(ValueError, match="asks_per_atom=0"):
        MiniatureJudge(asks_per_atom=0)
