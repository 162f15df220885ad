"""ReplyRead chat replies rung by rung; nothing a server may send raises."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.records.questions import LETTERS, YES_NO, Question
from evolvedirector.transport.chat.answer_ladder import (
    RUNGS,
    answer_of_text,
    answer_of_tokens,
    read_reply,
    rung_fields,
    spelled,
)
from evolvedirector.transport.chat.errors import error_kind

CHECK = Question("q", (b"image",), "Does it?", YES_NO)
PAIR = Question("q", (b"one", b"two"), "Which?", LETTERS)


def reply(text, finish_reason="stop", logprobs=None, **message):
    return {
        "choices": [{"message": {"content": text, **message}, "finish_reason": finish_reason, "logprobs": logprobs}]
    }


def with_logprobs(tokens, text="Yes"):
    top = [{"token": token, "logprob": math.log(share), "bytes": None} for token, share in tokens]
    return reply(text, "length", {"content": [{**top[0], "top_logprobs": top}]})


def test_probabilities_of_all_spellings_are_summed_and_their_mass_kept():
    tokens = [("Yes", 0.5), (" yes", 0.1), ("YES", 0.1), ("No", 0.1), ("Perhaps", 0.15)]
    answer = read_reply(with_logprobs(tokens), "logprobs", CHECK).answer
    assert answer.probabilities == pytest.approx((7 / 8, 1 / 8)) and answer.covered_mass == pytest.approx(0.8)
    assert answer.rung == "logprobs" and answer.reason == ""


def test_a_low_mass_says_what_the_model_wanted_to_say():
    answer = read_reply(with_logprobs([("The", 0.9), ("A", 0.05), ("B", 0.02)], "The"), "logprobs", PAIR).answer
    assert answer.covered_mass == pytest.approx(0.07) and "'The'" in answer.reason
    nothing = answer_of_tokens([("The", -0.1), ("It", -3.0)], PAIR)
    assert nothing.covered_mass == 0.0 and nothing.probabilities == (0.5, 0.5)


def test_a_token_listed_twice_counts_once():
    answer = answer_of_tokens([("A", math.log(0.6)), ("A", math.log(0.6)), ("B", math.log(0.3))], PAIR)
    assert answer.covered_mass == pytest.approx(0.9) and answer.probabilities[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"content": [{"token": "Yes"}]},
        {"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": []}]},
        {"content": [{"token": "Yes", "logprob": math.nan, "top_logprobs": []}]},
        "yes",
    ],
)
def test_missing_logprobs_are_seen_and_the_paid_word_is_still_read(logprobs):
    reading = read_reply(reply("Yes", "length", logprobs), "logprobs", CHECK)
    assert not reading.obeyed and reading.answer.probabilities == (1.0, 0.0) and reading.answer.rung == "text"


def test_one_letter_that_was_cut_off_is_no_answer():
    cut = read_reply(reply("A", "length"), "logprobs", PAIR)
    assert cut.answer is None and not cut.obeyed and cut.reason == "no token probabilities"
    assert read_reply(reply("A", "stop"), "logprobs", PAIR).answer.probabilities == (1.0, 0.0)


@pytest.mark.parametrize(
    ("rung", "text", "read_as"),
    [
        ("choice", "B", "choice"),
        ("choice", " B\n", "choice"),
        ("choice", "The answer is B.", "text"),
        ("schema", '{"answer": "B"}', "schema"),
        ("schema", '{"answer": "b"}', "schema"),
        ("schema", "B", "text"),
        ("text", "**B**", "text"),
        ("text", "(B)", "text"),
    ],
)
def test_the_rung_that_was_read_is_told(rung, text, read_as):
    reading = read_reply(reply(text), rung, PAIR)
    assert reading.answer.probabilities == (0.0, 1.0) and reading.answer.covered_mass == 1.0
    assert reading.answer.rung == read_as and reading.obeyed == (rung == read_as)


@pytest.mark.parametrize(
    ("text", "answers", "place"),
    [
        ("yes", YES_NO, 0),
        ("No.", YES_NO, 1),
        ("Answer: **No**", YES_NO, 1),
        ("The final answer is yes", YES_NO, 0),
        ("Yes, it shows a red fox.", YES_NO, 0),
        ("Yes, there is no doubt.", YES_NO, None),
        ("yes and no", YES_NO, None),
        ("It does.", YES_NO, None),
        ("", YES_NO, None),
        ("yesterday", YES_NO, None),
        ("A", LETTERS, 0),
        ("Answer: B.", LETTERS, 1),
        ("A cat is in both.", LETTERS, None),
        ("A. B.", LETTERS, None),
        ("A or B", LETTERS, None),
        ("Neither", LETTERS, None),
    ],
)
def test_free_text_must_be_exactly_one_of_the_answers(text, answers, place):
    assert answer_of_text(text, answers) == place


@pytest.mark.parametrize(
    ("body", "rung", "reason", "error"),
    [
        (reply(None, refusal="I cannot judge people."), "text", "refused: I cannot judge people.", "refusal"),
        (reply("Yes", "content_filter"), "text", "refused by the content filter", "refusal"),
        (reply("Yes, I thi", "length"), "text", "cut off; raise max_answer_tokens", None),
        (reply("I am not sure."), "text", "none of yes, no: 'I am not sure.'", None),
        (reply(None), "logprobs", "none of yes, no: ''", None),
        ({"error": {"message": "top_logprobs is not allowed"}}, "logprobs", "top_logprobs is not", "parameter"),
        ({"error": {"message": "no image input here"}}, "text", "no image input", "image"),
        ({"error": {"code": "content_policy_violation", "message": "no"}}, "text", "content_policy", "refusal"),
        ({"error": "overloaded"}, "text", "overloaded", "other"),
        ({"choices": []}, "text", "no chat completion", "other"),
        ([], "text", "no chat completion", "other"),
        (None, "text", "no chat completion", "other"),
        ({"choices": [{"message": None}]}, "text", "no chat completion", "other"),
    ],
)
def test_what_cannot_be_read_has_a_reason(body, rung, reason, error):
    reading = read_reply(body, rung, CHECK)
    assert reading.answer is None and reason in reading.reason and reading.error == error


def test_words_in_parts_are_joined():
    body = reply([{"type": "text", "text": "y"}, {"type": "text", "text": "es"}])
    assert read_reply(body, "text", CHECK).answer.probabilities == (1.0, 0.0)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Unrecognized request argument supplied: structured_outputs", "parameter"),
        ("Unsupported parameter: 'max_tokens' is not supported with this model.", "parameter"),
        ("body.logprobs Extra inputs are not permitted", "parameter"),
        ("Invalid content type. image_url is only supported by certain models.", "image"),
        ("tiny-llm is not a multimodal model", "image"),
        ("The response was filtered due to Azure's content management policy", "refusal"),
        ("At most 1 image(s) may be provided in one prompt.", "image"),
        ("image input is not supported - hint: you may need to provide the mmproj", "image"),
        ("No endpoints found that support image input", "image"),
        ("messages.0.content: Input should be a valid string", "image"),
        ("This model does not support images", "image"),
        ("The image could not be decoded", "other"),
        ("prompt is too long", "other"),
    ],
)
def test_errors_are_told_apart_by_their_words(message, kind):
    assert error_kind(message) == kind


def test_each_rung_asks_for_its_form():
    assert rung_fields("logprobs", YES_NO, 9) == {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
    assert rung_fields("choice", YES_NO, 9) == {"max_tokens": 9, "structured_outputs": {"choice": ["yes", "no"]}}
    schema = rung_fields("schema", YES_NO, 9)["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer"]["enum"] == ["yes", "no"] and schema["additionalProperties"] is False
    assert rung_fields("text", YES_NO, 9) == {"max_tokens": 9}


def test_spellings():
    assert [spelled(token, YES_NO) for token in ("▁Yes", "Ġno", '"yes"', "NO!", "yep", "")] == [0, 1, 0, 1, None, None]


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "logprobs", "top_logprobs", "token", "error"]), parts
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60)
@given(VALUES, st.sampled_from(RUNGS))
def test_garbage_never_raises(body, rung):
    reading = read_reply(body, rung, CHECK)
    assert reading.answer is None and reading.reason


@settings(max_examples=60)
@given(st.text(max_size=30) | st.sampled_from(["yes", "No", '{"answer": "no"}']), VALUES, st.sampled_from(RUNGS))
def test_any_content_is_one_answer_or_a_reason(text, logprobs, rung):
    reading = read_reply(reply(text, logprobs=logprobs), rung, CHECK)
    assert (reading.answer is None) == bool(reading.reason)
    if reading.answer is not None:
        assert sum(reading.answer.probabilities) == pytest.approx(1.0)
        json.dumps(reading.answer.probabilities, allow_nan=False)
