"""The writer behind a chat endpoint, over real sockets: what it asks, what it takes, what it refuses."""

import json
import logging
import re

import pytest

from evolvedirector.records import WriteRequest
from evolvedirector.writers.openai_chat_writer import OpenAIChatWriter
from evolvedirector.writers.prompt_writer import PromptWriter
from tests.chat_server import KEY, KEY_NAME, chat_server, completion, error

TEXTS = [
    "a blue whale under the ice",
    "two owls on a fence",
    "an old tram in the rain",
    "green apples",
    "a lonely pier",
]


def asked_for(operation="expansion", parent="a red fox in the snow", skill="animals", count=3, seed=0, name="w"):
    return WriteRequest(name, operation, parent, skill, count, seed)


def writer(server, endpoint=None, **options):
    return OpenAIChatWriter(server.endpoint(**(endpoint or {})), "writer", **options)


def listed(*texts):
    return completion(json.dumps({"descriptions": texts}))


def write_once(reply, request=None, **options):
    with chat_server(reply, ("writer",)) as server:
        (written,) = writer(server, **options).write([request or asked_for()])
        return written, server


def test_an_expansion_asks_for_variations_of_its_parent_as_strict_json():
    written, server = write_once(lambda body: listed(*TEXTS[:3]))
    (body,) = server.asked
    assert isinstance(writer(server), PromptWriter)
    assert written.texts == tuple(TEXTS[:3]) and written.refusal == "" and written.skills == ()
    assert '"a red fox in the snow"' in server.texts()[0] and body["response_format"]["type"] == "json_schema"
    assert body["temperature"] == 1.0 and body["max_tokens"] == 3072 and 0 <= body["seed"] < 2**31


def test_the_same_request_is_asked_alike_and_another_seed_differently():
    with chat_server(lambda body: listed(*TEXTS[:3])) as server:
        for seed in (5, 5, 6):
            list(writer(server).write([asked_for(seed=seed)]))
    assert server.asked[0] == server.asked[1] and server.asked[0]["seed"] != server.asked[2]["seed"]


def test_a_large_request_is_cut_and_texts_are_not_repeated_across_its_parts():
    replies = iter([TEXTS[:2], [TEXTS[0], TEXTS[2]], TEXTS[3:]])
    written, server = write_once(
        lambda body: listed(*next(replies)), asked_for(count=5), texts_per_chat=2, extra_chats=1
    )
    assert written.texts == tuple(TEXTS) and written.refusal == "refused: near copy 1"
    assert [re.search(r"Write (\d)", text)[1] for text in server.texts()] == ["2", "2", "2"]
    assert len({body["seed"] for body in server.asked}) == 3


def test_a_shortfall_is_asked_for_again_within_its_bound():
    replies = iter([completion("no list"), listed("a red fox in the snow", TEXTS[0])])
    written, server = write_once(lambda body: next(replies))
    assert written.texts == (TEXTS[0],) and len(server.asked) == 2
    assert written.refusal == "refused: equal to the parent 1, no JSON list 1"


def test_examples_come_from_a_pool_that_grows():
    news = iter(TEXTS)
    given = {"animals": ["seven grey mice"]}
    with chat_server(lambda body: listed(next(news))) as server:
        made = writer(server, examples=given, extra_chats=0)
        for seed in range(4):
            list(made.write([asked_for("seed", None, count=1, seed=seed)]))
        list(made.write([asked_for("seed", None, "vehicles", count=1)]))
        shown = [re.findall(r'^- "(.*)"$', text, re.MULTILINE) for text in server.texts()]
    assert [len(examples) for examples in shown] == [1, 2, 3, 3, 0]
    assert shown[0] == ["seven grey mice"] and set(shown[3]) <= {"seven grey mice", *TEXTS[:3]}


def test_a_parent_needs_no_examples_and_its_children_are_none():
    with chat_server(lambda body: listed(*TEXTS[:3])) as server:
        made = writer(server, examples={"animals": ["seven grey mice"]})
        list(made.write([asked_for()]))
        list(made.write([asked_for("seed", None, count=1)]))
    assert "mice" not in server.texts()[0] and "whale" not in server.texts()[1] and "mice" in server.texts()[1]


def test_near_copies_of_examples_and_of_other_requests_are_refused():
    with chat_server(lambda body: listed("a small owl on a fence", "seven very grey mice")) as server:
        made = writer(server, examples={"animals": ["seven grey mice"]}, extra_chats=0, rouge_limit=0.8)
        replies = list(made.write([asked_for("seed", None, count=2, name=name) for name in ("first", "second")]))
        again = list(made.write([asked_for("mutation", None, count=2)]))
    assert [reply.texts for reply in replies] == [("a small owl on a fence",), ()]
    assert replies[1].refusal == "refused: near copy 2" and again[0].texts == ()


def test_a_mutation_is_asked_to_be_unrelated():
    written, server = write_once(lambda body: listed(TEXTS[0]), asked_for("mutation", count=1))
    assert written.texts == (TEXTS[0],) and "nothing to do with" in server.texts()[0]


def test_an_expansion_without_a_parent_is_refused_without_asking():
    written, server = write_once(lambda body: listed(*TEXTS), asked_for(parent=None))
    assert written.texts == () and "without a parent" in written.refusal and server.asked == []


@pytest.mark.parametrize("complaint", ["response_format is not supported", "Bad grammar backend"])
def test_a_server_without_json_mode_is_asked_in_words_alone(complaint):
    def reply(body):
        return (
            error(400, complaint) if "response_format" in body else completion(f"```json\n{json.dumps(TEXTS[:3])}\n```")
        )

    with chat_server(reply) as server:
        made = writer(server)
        replies = [*made.write([asked_for()]), *made.write([asked_for()])]
    assert [written.texts for written in replies] == [tuple(TEXTS[:3])] * 2 and len(server.asked) == 3


def test_fields_a_server_does_not_know_are_left_out():
    def reply(body):
        unknown = [name for name in ("seed", "temperature") if name in body]
        return error(422, f"Extra inputs are not permitted: {unknown[0]}") if unknown else listed(*TEXTS[:3])

    written, server = write_once(reply)
    assert written.texts == tuple(TEXTS[:3]) and len(server.asked) == 3 and "response_format" in server.asked[-1]


@pytest.mark.parametrize(
    ("reply", "reason", "requests"),
    [
        (lambda body: completion(None, refusal="I cannot."), "refused by the model: I cannot. 2", 2),
        (lambda body: completion("", "content_filter"), "content filter 2", 2),
        (lambda body: completion('["a blue wh', "length"), "cut off; raise max_output_tokens 2", 2),
        (lambda body: completion("I would rather talk."), "no JSON list 2", 2),
        (lambda body: completion("[1, 2, 3]"), "no string 6", 2),
        (lambda body: (200, {"error": {"message": "overloaded"}}), "overloaded 2", 2),
        (lambda body: (200, []), "no chat completion 2", 2),
        (lambda body: (200, b"<html>"), "no JSON that can be read", 1),
        (lambda body: error(400, "flagged", "content_policy_violation"), "content_policy_violation", 1),
        (lambda body: error(404, "no such model"), "no such model", 1),
        (lambda body: error(503, "overloaded"), "503", 2),
    ],
)
def test_what_goes_wrong_is_a_reply_without_texts_and_with_a_reason(reply, reason, requests):
    written, server = write_once(reply)
    assert written.texts == () and reason in written.refusal and len(server.asked) == requests


def test_what_was_written_before_a_fault_is_kept():
    replies = iter([listed(*TEXTS[:2]), error(503, "down"), error(503, "down")])
    written, _ = write_once(lambda body: next(replies))
    assert written.texts == tuple(TEXTS[:2]) and "503" in written.refusal and written.answered


@pytest.mark.parametrize(
    ("replies", "answered"),
    [
        ([error(503, "overloaded")] * 2, False),
        ([error(401, "who are you?")], False),
        ([error(404, "no such model")], False),
        ([(200, b"<html>")], False),
        ([(200, {"error": {"message": "overloaded"}})] * 2, False),
        ([completion("no list"), error(503, "down"), error(503, "down")], False),
        ([error(400, "flagged", "content_policy_violation")], True),
        ([completion("no list")] * 2, True),
        ([completion(None, refusal="I cannot.")] * 2, True),
        ([(200, {"error": {"message": "overloaded"}}), completion("[]")], True),
    ],
)
def test_an_outage_is_told_from_a_model_that_writes_nothing_of_use(replies, answered):
    left = iter(replies)
    written, _ = write_once(lambda body: next(left))
    assert written.texts == () and written.refusal and written.answered is answered


def test_a_service_that_cannot_be_reached_has_not_answered():
    with chat_server(lambda body: listed(*TEXTS)) as server:
        endpoint = server.endpoint()
    (written,) = OpenAIChatWriter(endpoint, "writer").write([asked_for()])
    assert written.texts == () and not written.answered


def test_many_requests_at_once_keep_their_names_and_own_texts():
    words = ["fox", "owl", "tram", "whale", "pier", "apple", "lamp", "chair", "boat", "tree", "kite", "drum"]

    def reply(body):
        name = next(word for word in words if f'"a {word}"' in body["messages"][0]["content"])
        return listed(f"one very large {name}", f"{name} soup for dinner")

    requests = [asked_for(parent=f"a {word}", count=2, name=word) for word in words]
    with chat_server(reply) as server:
        replies = {
            written.request_id: written.texts for written in writer(server, {"max_in_flight": 6}).write(requests)
        }
    assert replies == {word: (f"one very large {word}", f"{word} soup for dinner") for word in words}


def test_the_key_appears_nowhere(monkeypatch, caplog):
    monkeypatch.setenv(KEY_NAME, KEY)
    caplog.set_level(logging.DEBUG)
    bad = iter([listed(f"a sign that says {KEY}"), completion(None, refusal=f"no {KEY}"), error(400, f"bad {KEY}")])
    with chat_server(lambda body: next(bad)) as server:
        made = writer(server, {"api_key_env": KEY_NAME}, extra_chats=2)
        (written,) = made.write([asked_for()])
        assert server.keys == [f"Bearer {KEY}"] * 3
    assert written.texts == () and "repeats the key" in written.refusal
    assert KEY not in repr((written, made, vars(made))) + caplog.text


def test_a_wrong_key_and_a_wrong_model_are_one_error_each(monkeypatch):
    monkeypatch.setenv(KEY_NAME, KEY)
    with chat_server(lambda body: error(401, f"Incorrect key {KEY}"), ("writer-large",)) as server:
        made = writer(server, {"api_key_env": KEY_NAME})
        with pytest.raises(ValueError, match=r"no model called 'writer'.*Write `model: writer-large`"):
            made.verify()
        replies = list(made.write([asked_for(name="a"), asked_for(name="b")]))
        assert len(server.asked) == 1
    assert all(KEY_NAME in written.refusal and KEY not in written.refusal for written in replies)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 3.0}, "temperature is 3"),
        ({"rouge_limit": -0.1}, "rouge_limit is -0.1"),
        ({"texts_per_chat": 0}, "texts_per_chat is 0"),
        ({"extra_chats": -1}, "extra_chats is -1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
    with chat_server(lambda body: listed()) as server, pytest.raises(ValueError, match=re.escape(message)):
        writer(server, **options)
