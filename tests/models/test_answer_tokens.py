"""Which tokens are an answer, and what their probabilities say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.judges.questions.judge_questions import look_of_answer
from evolvedirector.models.answer_tokens import answer_of_masses, answer_tokens, first_tokens, spellings, unread
from evolvedirector.records.looks import reading_of
from evolvedirector.records.questions import LETTERS, YES_NO


class Words:
    """A tokenizer of whole words that keeps a space before a word in its token, as byte-level ones do."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def __call__(self, text: str) -> list[int]:
        pieces, word = [], ""
        for sign in text:
            if sign in " :":
                pieces += [word] if word else []
                word = ""
                if sign == ":":
                    pieces.append(":")
                    continue
            word += sign
        pieces += [word] if word else []
        return [self.ids.setdefault(piece, len(self.ids)) for piece in pieces]


class Metaspace(Words):
    """A tokenizer that adds a space before whatever starts a text and splits further spaces off."""

    def __call__(self, text: str) -> list[int]:
        pieces = [] if not text.startswith(" ") else [" "]
        body = text.lstrip(" ")
        head, colon, rest = body.partition(":")
        pieces += ["_" + head] if head else ["_"]
        pieces += [":"] if colon else []
        if rest:
            pieces.append("_" + rest.strip() if rest.startswith(" ") else rest)
        return [self.ids.setdefault(piece, len(self.ids)) for piece in pieces]


def test_an_answer_counts_in_every_case_with_and_without_a_space() -> None:
    assert set(spellings("yes")) == {"yes", " yes", "Yes", " Yes", "YES", " YES"}
    assert set(spellings("A")) == {"A", " A", "a", " a"}
    words = Words()
    yes, no = answer_tokens(YES_NO, words)
    assert {words.ids[text] for text in spellings("yes")} == yes
    assert {words.ids[text] for text in spellings("no")} == no


def test_a_tokenizer_that_prefixes_a_space_still_shows_both_forms_and_a_lone_space_is_no_answer() -> None:
    words = Metaspace()
    yes, no = answer_tokens(YES_NO, words)
    assert {words.ids[text] for text in ("_yes", "yes", "_Yes", "Yes", "_YES", "YES")} == yes
    assert words.ids[" "] in first_tokens("yes", words)  # it begins both answers,
    assert words.ids[" "] not in yes | no  # so it says neither


def test_answers_that_begin_alike_are_refused() -> None:
    letters = {sign: number for number, sign in enumerate("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ :")}

    def by_letter(text: str) -> list[int]:
        return [letters[sign] for sign in text]

    assert answer_tokens(YES_NO, by_letter)
    with pytest.raises(ValueError, match="begins with the same token"):
        answer_tokens(("two", "three"), by_letter)
    with pytest.raises(ValueError, match="two or more"):
        answer_tokens(("yes",), by_letter)


def test_masses_are_normalised_over_the_answers_and_what_they_cover_is_recorded() -> None:
    answer = answer_of_masses("q", YES_NO, [0.6, 0.2])
    assert answer.probabilities == pytest.approx((0.75, 0.25))
    assert answer.covered_mass == pytest.approx(0.8)
    assert (answer.rung, answer.reason) == ("probability", "")


def test_a_low_mass_is_recorded_as_measured_and_makes_the_verdict_invalid() -> None:
    answer = answer_of_masses("q", YES_NO, [0.3, 0.1])
    assert answer.covered_mass == pytest.approx(0.4)
    assert "40.0% of the probability lies on yes, no" in answer.reason
    assert reading_of(look_of_answer(answer)) == "unreadable"


def test_a_stricter_floor_than_the_round_s_makes_it_invalid_too() -> None:
    answer = answer_of_masses("q", YES_NO, [0.5, 0.1], min_covered_mass=0.9)
    assert reading_of(look_of_answer(answer)) == "unreadable"
    assert "60.0%" in answer.reason


@pytest.mark.parametrize("masses", [[0.0, 0.0], [math.nan, 0.5], [math.inf, 0.1]])
def test_no_finite_mass_is_an_answer_that_says_nothing(masses: list[float]) -> None:
    answer = answer_of_masses("q", LETTERS, masses)
    assert (answer.probabilities, answer.covered_mass) == ((0.5, 0.5), 0.0)
    assert answer.reason


def test_an_unread_answer_prefers_nothing() -> None:
    assert unread("q", ("one", "two", "four"), "damaged").probabilities == pytest.approx((1 / 3,) * 3)


@settings(max_examples=40)
@given(st.lists(st.floats(0.0, 0.5), min_size=2, max_size=4))
def test_probabilities_sum_to_one_and_keep_the_order_of_the_masses(masses: list[float]) -> None:
    total = sum(masses)
    scaled = [mass / total for mass in masses] if total > 1.0 else masses
    answer = answer_of_masses("q", tuple("abcd"[: len(masses)]), scaled)
    assert sum(answer.probabilities) == pytest.approx(1.0)
    assert 0.0 <= answer.covered_mass <= 1.0
    if answer.covered_mass > 0.0:
        assert answer.probabilities.index(max(answer.probabilities)) == scaled.index(max(scaled))
