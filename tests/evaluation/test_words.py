"""Words are named for what they do themselves: not for their skill, not for a neighbour, not for chance."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from evolvedirector.evaluation.words import (
    Contrast,
    SeenPrompt,
    comparisons,
    contrast_of,
    corrected_contrast,
    terms_of,
    upper_tail,
    word_findings,
)
from evolvedirector.records import JudgeAccuracy

COLOURS, SHAPES = ("red", "blue", "green", "amber"), ("circle", "square", "star")


def prompts(fails: str | None, error: float = 0.0, seed: int = 0, count: int = 160) -> list[SeenPrompt]:
    """Two skills, one of which is hard in itself; prompts with one term fail, and looks err."""
    rng = random.Random(seed)
    seen = []
    for number in range(count):
        one, other = (f"a {rng.choice(COLOURS)} {rng.choice(SHAPES)}" for _ in range(2))
        hard = number % 2 == 0
        text = f"{one} {rng.choice(('above', 'left of', 'right of'))} {other}" if hard else f"{one} and {other}"
        failed = (fails is not None and fails in terms_of(text)) or (hard and rng.random() < 0.3)
        seen.append(SeenPrompt(text, "hard" if hard else "easy", failed != (rng.random() < error), str(number)))
    return seen


def named(seen: list[SeenPrompt]) -> list[str]:
    return [finding.word for finding in word_findings(seen) if finding.named]


def test_words_and_pairs_of_neighbours() -> None:
    assert list(terms_of("A Red fox, left of it.")) == ["a", "red", "fox", "a red", "red fox", "left", "of", "it",
                                                       "left of", "of it"]  # fmt: skip
    assert "don't" in terms_of("DON'T") and "blue green" in terms_of("blue-green") and not terms_of(" ... _ ")


@pytest.mark.parametrize("error", [0.0, 0.2])
@pytest.mark.parametrize("hidden", ["above", "amber", "left of", "blue circle"])
def test_what_fails_is_named_and_nothing_else(hidden: str, error: float) -> None:
    found = [named(prompts(hidden, error, seed, 400)) for seed in range(3)]
    said = "left" if hidden == "left of" else hidden  # `of` stands in `right of`, too
    assert all(words[:1] == [said] for words in found), found
    assert sum(len(words) > 1 for words in found) <= 1


def test_words_that_cannot_be_told_apart_are_one() -> None:
    first = word_findings(prompts("left of"))[0]
    assert (first.word, first.same, first.named) == ("left", ("left of",), True)


def test_a_hard_skill_is_no_fault_of_its_words() -> None:
    assert [named(prompts(None, 0.1, seed)) for seed in range(4)].count([]) >= 3
    hard = word_findings(prompts(None))
    assert all(finding.contrast is None or finding.contrast.excess < 0.3 for finding in hard if " " not in finding.word)


def test_one_family_says_nothing_of_a_word() -> None:
    plain = [SeenPrompt(f"a thing {number}", "s", False, f"f{number}") for number in range(40)]
    children = [SeenPrompt(f"an owl {number}", "s", True, "one") for number in range(12)]
    assert named([*plain, *children]) == []
    spread = [SeenPrompt(f"an owl {number}", "s", True, f"o{number % 3}") for number in range(12)]
    assert named([*plain, *spread])[0] in ("an owl", "owl")


def test_the_tail_is_exact() -> None:
    """Against counting every way in which the failures could have fallen, in two strata."""
    tables = [(5, 2, 3, 2), (4, 2, 2, 1)]
    ways = [
        sum(place < n for place in fell)
        for N, F, n, _ in tables[:1]
        for fell in itertools.combinations(range(N), F)
    ]  # fmt: skip
    others = [sum(place < 2 for place in fell) for fell in itertools.combinations(range(4), 2)]
    sums = [one + other for one in ways for other in others]
    p, least = upper_tail(tables)
    assert p == pytest.approx(sum(total >= 3 for total in sums) / len(sums))
    assert least == pytest.approx(sums.count(max(sums)) / len(sums))
    assert upper_tail([]) == (1.0, 1.0)


def test_rare_words_cost_the_others_nothing() -> None:
    assert comparisons([0.001, 0.02, 0.5, 0.5, 0.5], 0.05) == 2
    assert comparisons([0.5] * 1000, 0.05) == 1 and comparisons([], 0.05) == 1
    assert comparisons([1e-9] * 40, 0.05) == 40


def test_a_contrast_is_made_inside_skills_and_corrected() -> None:
    made = contrast_of([(40, 22, 20, 20), (10, 0, 10, 0)])
    assert made is not None and (made.share, made.without) == (1.0, 0.1) and made.low < 0.9 < made.high
    assert contrast_of([(10, 3, 10, 3)]) is None, "a word that stands everywhere has no contrast"
    judge = JudgeAccuracy(0.8, 0.9, 20, 20)
    true = corrected_contrast(Contrast(0.8, 0.1, 0.7, 0.5, 0.9), judge)
    assert true is not None and math.isclose(true.share, 1.0) and math.isclose(true.without, 0.0, abs_tol=1e-9)
    assert true.excess == pytest.approx(1.0) and true.low == pytest.approx(0.5 / 0.7) and true.high == 1.0
    assert corrected_contrast(made, JudgeAccuracy(0.5, 0.5, 9, 9)) is None
