"""A chat model that splits prompts, over real sockets: replies in order, and none where something went wrong."""

import json

import pytest

from evolvedirector.judges.questions.model_questions import ModelQuestions
from evolvedirector.transport.chat.chat_completer import ChatCompleter
from evolvedirector.transport.chat.text_completer import TextCompleter
from tests.chat_server import chat_server, completion, error


def model(server, **options):
    return ChatCompleter(server.endpoint(), "writer", **options)


def echo(body):
    return completion(body["messages"][-1]["content"].upper())


def test_replies_come_in_the_order_of_the_instructions():
    with chat_server(echo, ("writer",)) as server:
        completer = model(server, max_output_tokens=7)
        assert isinstance(completer, TextCompleter)
        assert list(completer.complete([f"say {place}" for place in range(20)])) == [f"SAY {n}" for n in range(20)]
        completer.verify()
        assert list(completer.complete([])) == []
    assert {(body["temperature"], body["max_tokens"]) for body in server.asked} == {(0.0, 7)} and len(
        server.asked
    ) == 20


def test_what_went_wrong_is_an_empty_reply():
    wrong = {"refused": error(400, "no"), "garbage": {"choices": []}}

    def reply(body):
        return wrong.get(body["messages"][-1]["content"]) or completion("fine")

    with chat_server(reply, ("writer",)) as server:
        assert list(model(server).complete(["refused", "fine", "garbage"])) == ["", "fine", ""]


def test_a_faithfulness_judge_gets_its_questions_over_the_network():
    with chat_server(lambda body: completion(json.dumps(["object: Is there a fox?"])), ("writer",)) as server:
        (found,) = ModelQuestions(model(server, cost_usd_per_reply=0.5)).questions(["a fox"])
    assert [(question.kind, question.text) for question in found] == [("object", "Is there a fox?")]
    assert '"a fox"' in server.texts()[0]


@pytest.mark.parametrize(
    "wrong",
    [{"model": " "}, {"max_output_tokens": 0}, {"cost_usd_per_reply": -1.0}, {"cost_usd_per_reply": float("nan")}],
)
def test_settings_that_cannot_be_meant_are_refused(wrong):
    from evolvedirector.transport.endpoint import Endpoint

    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is .*Allowed.*Write"):
        ChatCompleter(**{"endpoint": Endpoint("http://127.0.0.1:9/v1"), "model": "m", **wrong})
