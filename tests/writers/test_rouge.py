"""ROUGE-L against values computed by hand, and against two other ways to align random word lists."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.writers.rouge import nearest_copy, rouge_l, words_of

WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


def table(first, second):
    row = [0] * (len(second) + 1)
    for word in first:
        above = row
        row = [0]
        for position, other in enumerate(second):
            row.append(above[position] + 1 if word == other else max(row[-1], above[position + 1]))
    return row[-1]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a red fox in the snow", "a red fox in the snow", 1.0),
        ("A red fox, in the snow!", "a RED fox in the snow", 1.0),
        ("a red fox", "two blue whales", 0.0),
        ("police killed the gunman", "police kill the gunman", 0.75),  # 3 of 4 and 4 words
        ("a photo of a cat", "a photo of a dog", 0.8),
        ("a cat", "a cat on a mat", 4 / 7),
        ("the gunman kill police", "police kill the gunman", 0.5),  # order counts: `the gunman`
        ("", "a cat", 0.0),
        ("", "", 0.0),
        ("一只红色的猫", "一只黑色的猫", 10 / 12),
    ],
)
def test_values_by_hand(first, second, expected):
    assert rouge_l(words_of(first), words_of(second)) == pytest.approx(expected)


@settings(max_examples=60)
@given(WORDS, WORDS)
def test_it_counts_what_the_table_counts(first, second):
    both = len(first) + len(second)
    assert rouge_l(first, second) == (2 * table(first, second) / both if both else 0.0)


@settings(max_examples=60)
@given(WORDS, st.lists(WORDS, max_size=4), st.floats(0.0, 1.0))
def test_the_first_over_the_limit_is_the_copy(text, others, limit):
    over = [value for value in (rouge_l(text, other) for other in others) if value > limit]
    assert nearest_copy(" ".join(text), others, limit) == (over[0] if over else 0.0)


def crochemore(first, second):
    """Return ROUGE-L from a bit-parallel longest common subsequence (Crochemore et al., 2001)."""
    places = {}
    for position, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << position
    every = (1 << len(first)) - 1
    row = every  # a zero bit: the subsequence grows at this word
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & every
    both = len(first) + len(second)
    return 2 * (len(first) - row.bit_count()) / both if both else 0.0


@pytest.mark.parametrize("vocabulary", [2, 30, 2000])
def test_equal_to_the_last_bit_on_long_word_lists_and_on_the_limit_itself(vocabulary):
    draw = random.Random(vocabulary)
    for _ in range(1500):
        first, second = ([f"w{draw.randrange(vocabulary)}" for _ in range(draw.randrange(90))] for _ in range(2))
        if draw.random() < 0.5:  # a near copy: some words of the first replaced
            second = [word if draw.random() < 0.8 else f"w{draw.randrange(vocabulary)}" for word in first]
        expected = crochemore(first, second)
        assert rouge_l(first, second) == expected
        for limit in (0.0, 0.5, 0.7, 0.8, 0.9, 1.0, expected, draw.random()):
            assert nearest_copy(" ".join(first), [second], limit) == (expected if expected > limit else 0.0)


def test_long_word_lists_are_exact():
    first = [str(number) for number in range(500)]
    assert rouge_l(first, first[::2]) == 2 * 250 / 750
    assert rouge_l(first, first[::-1]) == 2 * 1 / 1000
