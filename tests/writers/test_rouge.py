"""ROUGE-L against values computed by hand, and against the textbook table on random word lists."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.writers.rouge import longest_common_subsequence, nearest_copy, rouge_l, words_of

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
def test_bits_count_what_the_table_counts(first, second):
    assert longest_common_subsequence(first, second) == table(first, second)


@settings(max_examples=60)
@given(WORDS, st.lists(WORDS, max_size=4), st.floats(0.0, 1.0))
def test_the_short_cut_never_changes_the_answer(text, others, limit):
    over = [value for value in (rouge_l(text, other) for other in others) if value > limit]
    assert nearest_copy(" ".join(text), others, limit) == (over[0] if over else 0.0)


def test_long_word_lists_are_exact():
    first = [str(number) for number in range(500)]
    assert longest_common_subsequence(first, first[::2]) == 250
    assert longest_common_subsequence(first, first[::-1]) == 1
