"""Whatever a chat endpoint does, it becomes an answer or a reason, in time, and no more is billed than was asked."""

import time

import pytest

from evolvedirector.judges.openai_vision_judge import OpenAIVisionJudge
from evolvedirector.records import ImageAndPrompt, WriteRequest
from evolvedirector.records.questions import CHECK_QUESTION
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.writers.instructions import instruction_for
from evolvedirector.writers.openai_chat_writer import OpenAIChatWriter
from tests.chaos.chat import Answer
from tests.chaos.script import BILLED, Script, always
from tests.chaos.server import ChaosServer
from tests.toys import flat_png

RETRIED = ("busy", "busy_silent", "error_503")
READ = ("", "wrong_type", *RETRIED)
UNREAD = (*BILLED, "error_500", "error_502", "timeout_408", "cut_early", "moderated", "unknown")
YES = Answer("yes", (("yes", 0.8), (" No", 0.2)))


def question(fault):
    return CHECK_QUESTION.replace("{prompt}", f"{fault} day")


def items(faults):
    return [ImageAndPrompt(fault, flat_png(90), f"{fault} day") for fault in faults]


def judge(server, **options):
    options = {"attempts": 3, "timeout_s": 20.0, "deadline_s": 30.0, **options}
    return OpenAIVisionJudge(Endpoint(f"{server.url}/v1", **options), "toy-vlm", image_size_px=16)


def looks_at(faults, made):
    looks = list(made.check(items(faults)))
    assert sorted(look.item_id for look in looks) == sorted(faults)
    return {look.item_id: look for look in looks}


def test_every_fault_is_an_answer_or_a_reason_and_is_billed_once_at_most():
    faults = (*READ, *UNREAD)
    script = Script(by_prompt={question(fault): [fault] for fault in faults})
    with ChaosServer(script, answer=lambda body: YES) as server:
        looks = looks_at(faults, judge(server, max_in_flight=32))
        assert server.billed <= len(faults)
    assert all(looks[fault].probability == pytest.approx(0.8) for fault in READ)
    assert {(looks[fault].probability, looks[fault].covered_mass) for fault in UNREAD} == {(0.5, 0.0)}
    assert all(looks[fault].reason for fault in UNREAD)


@pytest.mark.parametrize("fault", ["bad_key", "no_credit", "forbidden"])
def test_a_closed_door_is_knocked_at_once(fault):
    with ChaosServer(Script(submit=always(fault))) as server:
        looks = looks_at([str(number) for number in range(9)], judge(server, max_in_flight=1))
        assert len(server.sent("/v1/chat")) == 1 and server.billed == 0
    assert all(look.covered_mass == 0.0 and look.reason for look in looks.values())


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "slow", "endless", "busy"])
def test_nothing_hangs_past_the_deadline(fault):
    with ChaosServer(Script(submit=always(fault)), answer=lambda body: YES, retry_after_s=3600) as server:
        started = time.monotonic()
        looks = looks_at([str(number) for number in range(4)], judge(server, deadline_s=1.0, timeout_s=0.8))
        assert time.monotonic() - started < 20.0  # a hang would end at the server's hour
    assert all(look.covered_mass == 0.0 and look.reason for look in looks.values())


@pytest.mark.slow
def test_no_more_is_billed_than_asked_when_a_fifth_of_all_answers_fail():
    shares = {fault: 0.025 for fault in ("busy", "error_503", "cut_early", *BILLED[:5])}
    with ChaosServer(Script(shares=shares, seed=3), answer=lambda body: YES) as server:
        names = [str(number) for number in range(120)]
        looks = looks_at(names, judge(server, max_in_flight=16, attempts=4))
        assert server.billed <= len(names)
        read = sum(look.covered_mass == 1.0 for look in looks.values())
    assert 90 <= read < 120


def test_a_writer_turns_every_fault_into_texts_or_a_reason():
    texts = ["a blue whale", "two owls on a fence", "an old tram in the rain"]
    requests = [WriteRequest(fault, "expansion", f"a {fault} day", None, 3, 0) for fault in (*READ, *UNREAD)]
    script = Script(by_prompt={instruction_for(request, ()): [request.request_id] for request in requests})
    with ChaosServer(script, answer=lambda body: Answer(document={"descriptions": texts})) as server:
        endpoint = Endpoint(f"{server.url}/v1", attempts=3, timeout_s=20.0, deadline_s=30.0, max_in_flight=32)
        writer = OpenAIChatWriter(endpoint, "toy-vlm", extra_chats=0)
        replies = {reply.request_id: reply for reply in writer.write(requests)}
        assert server.billed <= len(requests)
    assert all(replies[fault].texts == tuple(texts) and not replies[fault].refusal for fault in READ)
    assert all(replies[fault].texts == () and replies[fault].refusal for fault in UNREAD)
