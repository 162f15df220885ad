"""Answers about parts become one look: strict when they are true, forgiving when some are wrong."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvedirector.judges.faithfulness import exact_probability, look_of, missing, noisy_probability
from evolvedirector.records import AtomAnswer, FaithfulnessLook

PROBABILITIES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=10)


def reading(*probabilities, masses=None, kinds=None):
    masses, kinds = masses or [1.0] * len(probabilities), kinds or ["object"] * len(probabilities)
    answers = [
        AtomAnswer(k, f"q{i}", p, m) for i, (k, p, m) in enumerate(zip(kinds, probabilities, masses, strict=True))
    ]
    return FaithfulnessLook("item", tuple(answers))


@given(PROBABILITIES)
def test_an_image_shows_its_prompt_exactly_when_every_answer_is_yes(probabilities):
    look = look_of(reading(*probabilities))
    assert (look.probability >= 0.5) == all(p >= 0.5 for p in probabilities)
    assert 0.0 <= look.probability <= 1.0 and look.covered_mass == 1.0


@given(PROBABILITIES, st.data())
def test_a_surer_yes_never_lowers_the_look(probabilities, data):
    index = data.draw(st.integers(0, len(probabilities) - 1))
    higher = [*probabilities]
    higher[index] = data.draw(st.floats(probabilities[index], 1.0))
    assert exact_probability(higher) >= exact_probability(probabilities) - 1e-12


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.floats(0.01, 0.49))
def test_the_noisy_combination_is_the_posterior_over_every_set_of_missing_parts(answers, error):
    count = len(answers)

    def likelihood(lost):
        return math.prod(error if is_yes == (i in lost) else 1 - error for i, is_yes in enumerate(answers))

    missing_some = sum(
        sum(likelihood(lost) for lost in itertools.combinations(range(count), k)) / math.comb(count, k)
        for k in range(1, count + 1)
    )
    expected = likelihood(()) / (likelihood(()) + missing_some / count)
    assert noisy_probability([1 if is_yes else -1 for is_yes in answers], error) == pytest.approx(expected)


def test_one_no_among_many_yeses_is_forgiven_only_when_errors_are_expected():
    answers = reading(*[0.95] * 7, 0.1)
    assert look_of(answers).probability < 0.5 < look_of(answers, 0.2).probability
    assert look_of(reading(0.9, 0.1, 0.1, 0.1), 0.2).probability < 0.5


def test_the_answers_to_a_repeated_question_count_together():
    def asked(*probabilities):
        return FaithfulnessLook("item", tuple(AtomAnswer("count", "Is the number two?", p) for p in probabilities))

    assert look_of(asked(1.0), 0.2).probability == pytest.approx(0.8)
    assert look_of(asked(1.0, 1.0), 0.2).probability == pytest.approx(16 / 17)
    assert look_of(asked(1.0, 0.0), 0.2).probability == pytest.approx(0.5)
    assert look_of(asked(0.9, 0.9, 0.0)).probability == pytest.approx(0.6) and missing(asked(0.9, 0.9, 0.0)) == ()
    assert look_of(asked(*[1.0] * 3000), 0.01).probability == pytest.approx(1.0)


def test_unreadable_answers_lower_the_mass_and_too_many_make_the_look_unreadable():
    some = look_of(reading(0.9, 0.9, 0.9, 0.0, masses=[1.0, 0.9, 0.8, 0.1]))
    assert some.probability > 0.5 and some.covered_mass == pytest.approx(2.7 / 4)
    most = look_of(reading(0.9, 0.9, 0.9, 0.9, masses=[1.0, 0.1, 0.1, 0.1]))
    assert most.covered_mass == 0.0 and most.probability == 0.5 and "1 of 4" in most.reason
    assert look_of(reading(float("nan"), 0.9, 0.9)).probability > 0.5
    assert look_of(reading(float("nan"))).covered_mass == 0.0


def test_no_answers_are_an_unreadable_look_with_the_reason():
    look = look_of(FaithfulnessLook("item", (), "refused to answer"))
    assert (look.item_id, look.covered_mass, look.reason) == ("item", 0.0, "refused to answer")


def test_the_missing_kinds_are_named_once_in_the_order_of_the_questions():
    kinds = ["count", "object", "colour", "count", "relation"]
    answers = reading(0.1, 0.9, 0.2, 0.3, 0.0, kinds=kinds, masses=[1, 1, 1, 1, 0.0])
    assert missing(answers) == ("count", "colour")
    assert look_of(answers).reason == "missing: count, colour"
    assert missing(reading(0.9, 0.5)) == ()


@pytest.mark.parametrize("options", [{"expected_error": 0.5}, {"expected_error": -0.1}, {"min_readable_share": 0.0}])
def test_limits_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        look_of(reading(0.9), **options)
