"""Prompts become yes-or-no questions by rule, and no part of a prompt goes unasked."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.judges.questions.english_questions import english_questions
from evolvedirector.worlds.questions import GrammarQuestions
from evolvedirector.worlds.shapes import parse
from evolvedirector.worlds.shapes.atoms import atoms_of


def asked(prompt: str) -> list[str]:
    return [f"{question.kind}: {question.text}" for question in english_questions(prompt)]


@pytest.mark.parametrize(
    ("prompt", "questions"),
    [
        (
            "A fox to the left of a pizza slice.",
            ["object: Is there a fox in the picture?", "object: Is there a pizza slice in the picture?",
             "relation: Is the fox to the left of the pizza slice?"],
        ),
        (
            "a photo of two brown dogs and a black and white cat",
            ["object: Are there dogs in the picture?", "colour: Are the dogs brown?",
             "count: Is the number of brown dogs exactly two?", "object: Is there a cat in the picture?",
             "colour: Is the cat black and white?"],
        ),
        (
            'an oil painting of a sign that says "Open"',
            ["text: Is 'Open' written in the picture?", "style: Is the picture an oil painting?",
             "object: Is there a sign in the picture?"],
        ),
        (
            "a woman holding an umbrella, soft light",
            ["object: Is there a woman in the picture?",
             "detail: Does the picture show this: 'a woman holding an umbrella'?",
             "detail: Does the picture show this: 'soft light'?"],
        ),
        ("red circle", ["object: Is there a circle in the picture?", "colour: Is the circle red?"]),
        ("the", ["detail: Does the picture show this: 'the'?"]),
    ],
)  # fmt: skip
def test_what_is_asked(prompt: str, questions: list[str]) -> None:
    assert asked(prompt) == questions


WORDS = st.sampled_from(
    "a the two red blue dog dogs cat tree running left of on top behind with and , in snow 'yes' quickly between".split(  # noqa: SIM905
        " "
    )
)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=25), st.integers(1, 12))
def test_every_word_that_names_something_is_asked_about(words: list[str], most: int) -> None:
    prompt = " ".join(words)
    questions = english_questions(prompt, most)
    text = " ".join(question.text for question in questions)
    assert 1 <= len(questions) <= most and len(set(questions)) == len(questions)
    assert all(word in text for word in words if word in ("dog", "cat", "tree", "red", "blue", "running", "snow"))


def test_a_long_prompt_is_cut_and_its_whole_asked_last() -> None:
    prompt = ", ".join(f"a red thing{number}" for number in range(20))
    questions = english_questions(prompt, 5)
    assert len(questions) == 5 and questions[-1].kind == "detail" and "thing19" in questions[-1].text


def test_a_prompt_of_the_miniature_world_is_split_exactly() -> None:
    (found,) = GrammarQuestions().questions(["a red circle left of a blue square"])
    scene = parse("a red circle left of a blue square")
    assert [(question.kind, question.text) for question in found] == [(a.kind, a.question) for a in atoms_of(scene)]


def test_questions_come_in_the_order_of_the_prompts_and_depend_on_nothing_else() -> None:
    writer = GrammarQuestions(most=3)
    prompts = ["a red circle", "a dog", "a red circle", "a horse in a field at night"]
    together = list(writer.questions(prompts))
    assert together == [next(writer.questions([prompt])) for prompt in prompts]
    assert all(1 <= len(questions) <= 3 for questions in together)


def test_no_question_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="most is 0"):
        GrammarQuestions(most=0)
