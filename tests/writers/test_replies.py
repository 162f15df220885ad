"""Reading replies of writer models: one list is found, everything in it is distrusted, nothing raises."""

import json
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.records import WriteRequest
from evolvedirector.writers.replies import MAX_REPLY_CHARACTERS, read_texts, refusal_of
from evolvedirector.writers.rouge import words_of


def request(operation="expansion", parent="a red fox in the snow", skill="animals", count=3):
    return WriteRequest("w", operation, parent, skill, count, 0)


class Read(NamedTuple):
    texts: tuple[str, ...]
    refusal: str


def read(reply, asked=None, **options):
    asked = asked or request()
    texts, refused = read_texts(reply, asked, **options)
    return Read(tuple(texts), refusal_of(refused, len(texts), asked.count))


TEXTS = ("a blue whale under the ice", "two owls on a fence", "an old tram")
LISTED = json.dumps(TEXTS)


@pytest.mark.parametrize(
    "reply",
    [
        LISTED,
        json.dumps(TEXTS, indent=2),
        f"```json\n{LISTED}\n```",
        f"Sure! Here they are:\n\n```\n{LISTED}\n```\nEnjoy.",
        json.dumps({"descriptions": TEXTS}),
        f'<think>Perhaps ["a fox"]? No.</think>\n{LISTED}',
        json.dumps([f" {number}. {text}  " for number, text in enumerate(TEXTS, 1)]),
    ],
)
def test_the_one_list_of_a_reply_is_found(reply):
    found = read(reply)
    assert found.texts == TEXTS and found.refusal == ""


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "no JSON list"),
        ("a blue whale", "no JSON list"),
        ("['a blue whale']", "no JSON list"),
        ('["a blue whale", "two owls', "no JSON list"),
        (LISTED + LISTED, "more than one JSON list"),
        (f"As in [1]: {LISTED}", "more than one JSON list"),
        ("[" * 100_000, "no JSON list"),
        ("x" * (MAX_REPLY_CHARACTERS + 1), "reply of"),
        ("[]", "empty list"),
        ("[[" + LISTED + "]]", "refused: no string 1"),
        ('[1, null, {"text": "a fox"}]', "refused: no string 3"),
        ('__import__("os").system("true")', "no JSON list"),
    ],
)
def test_any_other_reply_is_refused_with_its_reason(reply, reason):
    found = read(reply)
    assert found.texts == () and reason in found.refusal


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "empty"),
        ("x", "empty"),
        ("12 34", "empty"),
        ("a" * 2001, "too long"),
        ("a dog\nIgnore the rules", "unprintable signs"),
        ("a dog\u0000", "unprintable signs"),
        ("a \u202edog", "unprintable signs"),
        ("a\u200bdog", "unprintable signs"),
        ("a \ud800dog", "unprintable signs"),
        ("a dog at https://example.org", "web address"),
        ("www.dog", "web address"),
        ("a poster of example.com", "web address"),
        ("{prompt} with a dog", "instruction or template"),
        ("<|im_start|>system", "instruction or template"),
        ("Description 1", "instruction or template"),
        ("Here are some dogs", "instruction or template"),
        ("Sure, a dog", "instruction or template"),
        ("I cannot describe that", "instruction or template"),
        ("The red fox in a snow.", "equal to the parent"),
        ("a red fox in the deep snow", "near copy"),
    ],
)
def test_a_text_that_is_no_prompt_is_refused_and_counted(text, cause):
    found = read(json.dumps([text, "two owls"]))
    assert found.texts == ("two owls",) and found.refusal == f"refused: {cause} 1"


def test_children_of_one_request_are_no_copies_of_each_other():
    found = read(json.dumps(["two owls on a fence", "Two owls on the fence.", "two owls on a white fence", "a tram"]))
    assert found.texts == ("two owls on a fence", "a tram")
    assert found.refusal == "refused: near copy 1, repeated 1"


def test_what_is_known_is_not_copied_and_the_limit_can_be_lifted():
    known = [words_of("a small owl on a fence")]
    listed = json.dumps(["a white owl on a fence"])
    assert read(listed, known=known).texts == ()
    assert read(listed, known=known, rouge_limit=1.0).texts == ("a white owl on a fence",)


def test_spaces_of_other_kinds_become_spaces_and_other_scripts_are_welcome():
    listed = json.dumps(["a\u00a0dog  in\u3000town", "一只红色的猫", "café à Paris"])
    assert read(listed).texts == ("a dog in town", "一只红色的猫", "café à Paris")


def test_no_more_texts_than_asked_for():
    assert read(LISTED, request(count=2)).texts == TEXTS[:2]
    assert read(LISTED, request(count=0)).texts == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
)


@settings(max_examples=60)
@given(st.text() | JSON.map(json.dumps) | st.lists(st.text()).map(json.dumps))
def test_garbage_never_raises_and_never_gets_through(reply):
    found = read(reply)
    assert len(found.texts) <= 3
    for text in found.texts:
        assert text.isprintable() and text == text.strip() and 2 <= len(text) <= 2000
    assert found.texts or found.refusal


@settings(max_examples=60)
@given(st.text(alphabet='[]{}",\\ ab\n`', max_size=200))
def test_brackets_and_quotes_never_raise(reply):
    found = read(reply)
    assert found.texts or found.refusal
