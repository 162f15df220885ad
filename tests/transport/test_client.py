"""The client against a misbehaving service on loopback: every fault is a value with a kind, and no secret in it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import logging
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from evolvedirector.transport import waiting
from evolvedirector.transport.breaker import breaker_of
from evolvedirector.transport.client import Client
from evolvedirector.transport.deadline import ends_at
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault, without_secrets
from tests.transport.little_server import Answer, Asked, LittleServer, serving

KEY = "canary-key-0815-4711"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BACKOFF_S", 0.005)
    monkeypatch.setenv("LITTLE_KEY", KEY)


def endpoint(server: LittleServer, **fields: Any) -> Endpoint:
    settings = {"timeout_s": 20.0, "deadline_s": 60.0, "api_key_env": "LITTLE_KEY", **fields}
    return Endpoint(f"{server.url}/v1", **settings)


def ask(
    server: LittleServer,
    method: str = "POST",
    path: str = "things",
    times: int = 1,
    at: Endpoint | None = None,
    **fields: Any,
) -> list[Any]:
    """Ask `times` at once; faults are returned as values."""
    where = at or endpoint(server, **fields)

    async def all_of_them() -> list[Any]:
        async with Client(where) as client:
            calls = [client.request_json(method, path, {"n": n}, idempotency_key=f"work-{n}") for n in range(times)]
            return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(all_of_them())


def in_turn(*answers: Answer) -> Callable[[Asked], Answer]:
    """Give the answers in turn, the last one for ever."""
    return lambda asked: answers[min(asked.number, len(answers) - 1)]


FINE = Answer(body={"fine": True})


def test_a_request_carries_key_and_idempotency_key_and_its_answer_comes_back() -> None:
    with serving(in_turn(FINE)) as server:
        assert ask(server) == [{"fine": True}]
    (asked,) = server.asked
    assert (asked.method, asked.target, asked.json()) == ("POST", "/v1/things", {"n": 0})
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["idempotency-key"] == "work-0"


@pytest.mark.parametrize("status", [425, 429, 503, 529])
def test_what_may_pass_is_tried_again_under_the_same_name(status: int) -> None:
    with serving(in_turn(Answer(status), Answer(status), FINE)) as server:
        assert ask(server) == [{"fine": True}]
    assert [asked.headers["idempotency-key"] for asked in server.asked] == ["work-0"] * 3


@pytest.mark.parametrize("status", [408, 409, 500, 502, 504, 520, 527])
def test_what_a_gateway_says_while_the_work_may_go_on_is_repeated_only_where_that_costs_nothing(status: int) -> None:
    with serving(in_turn(Answer(status), FINE)) as server:
        (fault,) = ask(server)
        assert (fault.kind, fault.status, fault.maybe_paid, len(server.asked)) == ("ambiguous", status, True, 1)
    for method, fields in (("GET", {}), ("POST", {"idempotent": True})):
        with serving(in_turn(Answer(status), FINE)) as server:
            assert ask(server, method, **fields) == [{"fine": True}]


@pytest.mark.parametrize("status", [301, 307, 400, 404, 405, 422])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    play = in_turn(Answer(status, {"error": {"code": "bad_size", "message": "no such size"}}, {"Location": "/v2"}))
    with serving(play) as server:
        (fault,) = ask(server)
    assert (fault.kind, fault.status, fault.code, len(server.asked)) == ("rejected", status, "bad_size", 1)
    assert (not fault.maybe_paid and "no such size" in fault.reason) or status < 400


def test_tries_are_used_up_and_the_last_reason_is_told() -> None:
    with serving(in_turn(Answer(503, {"detail": "out of order"}))) as server:
        (fault,) = ask(server, attempts=3)
    assert fault.kind == "busy" and "503" in fault.reason and "out of order" in fault.reason
    assert len(server.asked) == 3 and not fault.maybe_paid


def test_the_wait_that_is_asked_for_is_kept_and_a_hopeless_one_not_begun() -> None:
    with serving(in_turn(Answer(429, headers={"Retry-After": "0.4"}), FINE)) as server:
        start = time.monotonic()
        assert ask(server) == [{"fine": True}]
        assert time.monotonic() - start >= 0.4
    with serving(in_turn(Answer(429, b"limit resets in ~3600s"))) as server:
        start = time.monotonic()
        (fault,) = ask(server)
        assert fault.kind == "busy" and fault.wait_s == 3600.0 and time.monotonic() - start < 30.0


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_denied_key_closes_the_door_and_the_first_reason_is_kept(status: int) -> None:
    with serving(in_turn(Answer(status, {"error": {"message": f"wrong key {KEY}"}}), FINE)) as server:
        where = endpoint(server)
        (first,) = ask(server, at=where)
        later = ask(server, times=5, at=where)  # another client: rounds open one each
        assert {fault.reason for fault in later} == {first.reason}
        assert first.kind == "denied" and first.status == status and KEY not in first.reason
        assert len(server.asked) == 1
        assert ask(server) == [{"fine": True}]  # another teacher, made later
        breaker_of(where).reset()
        assert ask(server, at=where) == [{"fine": True}]


def test_an_exhausted_quota_behind_a_429_is_no_reason_to_wait() -> None:
    with serving(in_turn(Answer(429, {"error": {"code": "insufficient_quota"}}))) as server:
        (fault,) = ask(server)
    assert fault.kind == "denied" and "credit" in fault.reason and len(server.asked) == 1


def test_a_replaced_key_starts_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(asked: Asked) -> Answer:
        return FINE if asked.headers["authorization"].endswith("good") else Answer(401)

    with serving(play) as server:
        where = endpoint(server)
        assert ask(server, at=where)[0].kind == "denied"
        monkeypatch.setenv("LITTLE_KEY", "good")
        assert ask(server, at=where) == [{"fine": True}]


@pytest.mark.parametrize("key", ["", "two\nlines", "two words", "schlüssel"])
def test_a_key_that_cannot_be_one_is_named_by_its_variable(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITTLE_KEY", key)
    with serving(in_turn(FINE)) as server:
        (fault,) = ask(server)
    assert fault.kind == "denied" and "LITTLE_KEY" in fault.reason and not server.asked
    assert not key or key not in fault.reason


UNKNOWN_OUTCOMES = {
    "no answer in time": (Answer(delay_s=60.0), {"timeout_s": 0.5}),
    "cut before the answer": (Answer(cut_after=-1), {}),
    "cut in the answer": (Answer(body=b'{"fine": true}', cut_after=5), {}),
    "shorter than announced": (Answer(body=b"{}", headers={"Content-Length": "99"}, cut_after=2), {}),
    "no JSON": (Answer(body=b"<html>"), {}),
    "no text": (Answer(body=b"\xff\xfe\x00"), {}),
    "deep JSON": (Answer(body=b"[" * 200_000), {}),
    "unknown encoding": (Answer(body=b"{}", headers={"Content-Encoding": "br"}), {}),
    "damaged encoding": (Answer(body=b"{}", headers={"Content-Encoding": "gzip"}), {}),
}


@pytest.mark.parametrize("name", UNKNOWN_OUTCOMES)
def test_an_unknown_outcome_is_sent_again_only_to_a_service_that_knows_what_it_did(name: str) -> None:
    answer, fields = UNKNOWN_OUTCOMES[name]
    with serving(in_turn(answer, FINE)) as server:
        (fault,) = ask(server, **fields)
        assert fault.kind == "ambiguous" and fault.maybe_paid and len(server.asked) == 1
    with serving(in_turn(answer, FINE)) as server:
        assert ask(server, idempotent=True, **fields) == [{"fine": True}]
        assert len(server.asked) >= 2 and len({asked.headers["idempotency-key"] for asked in server.asked}) == 1
    with serving(in_turn(answer, FINE)) as server:
        assert ask(server, "GET", **fields) == [{"fine": True}]


def test_an_error_with_a_broken_body_is_no_unknown_outcome() -> None:
    with serving(in_turn(Answer(503, b"xxxxx", cut_after=2), FINE)) as server:
        assert ask(server) == [{"fine": True}]


def test_nothing_listens() -> None:
    with serving(in_turn(FINE)) as server:
        pass
    (fault,) = ask(server, attempts=2)
    assert fault.kind == "unreachable" and "refused" in fault.reason and not fault.maybe_paid


@pytest.mark.parametrize("answer", [Answer(body=b" " * 9999, drip_s=0.01), Answer(delay_s=60.0), Answer(503)])
def test_nothing_outlasts_the_deadline(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BACKOFF_S", 0.3)
    with serving(in_turn(answer)) as server:
        start = time.monotonic()
        (fault,) = ask(server, deadline_s=1.0, attempts=99)
        assert time.monotonic() - start < 10.0
    if answer.status == 503:  # the next wait would lead past the end; a slow machine may meet it within a try
        assert fault.kind in ("busy", "deadline")
    else:
        assert fault.kind == "deadline" and fault.maybe_paid


def test_one_end_holds_for_everything_inside() -> None:
    async def two_steps(server: LittleServer) -> None:
        async with Client(endpoint(server)) as client, ends_at(time.monotonic() + 1.5):
            await client.request_json("POST", "submit")
            while True:
                await client.request_json("GET", "poll")
                await asyncio.sleep(0.05)

    with serving(in_turn(FINE)) as server, pytest.raises(TransportFault) as caught:
        asyncio.run(two_steps(server))
    assert caught.value.kind == "deadline" and not caught.value.maybe_paid and len(server.asked) >= 2


def test_answers_are_bounded_packed_or_not() -> None:
    bomb = gzip.compress(b"[" + b" " * 5_000_000 + b"]")
    for answer in (Answer(body=b"x" * 2_000_000), Answer(body=bomb, headers={"Content-Encoding": "gzip"})):

        async def small(server: LittleServer) -> Any:
            async with Client(endpoint(server), max_response_bytes=1_000_000) as client:
                return await client.request_json("POST", "x")

        with serving(in_turn(answer)) as server, pytest.raises(TransportFault) as caught:
            asyncio.run(small(server))
        assert caught.value.kind == "too_large" and caught.value.maybe_paid


def test_packed_answers_are_read() -> None:
    with serving(in_turn(Answer(body=gzip.compress(b'{"fine": 1}'), headers={"Content-Encoding": "gzip"}))) as server:
        assert ask(server) == [{"fine": 1}]


def test_no_more_requests_are_open_than_allowed() -> None:
    with serving(lambda asked: Answer(body={}, delay_s=0.03)) as server:
        assert ask(server, times=20, max_in_flight=3) == [{}] * 20
    assert server.most_open == 3


def test_the_rate_limit_holds_across_clients() -> None:
    with serving(in_turn(FINE)) as server:  # 600 a minute: a burst of 60, then one every 100 ms
        start = time.monotonic()
        ask(server, times=60, requests_per_minute=600.0)
        ask(server, times=5, requests_per_minute=600.0)
        assert time.monotonic() - start >= 0.4


def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else() -> None:
    with serving(in_turn(FINE)) as other:
        with serving(in_turn(Answer(307, headers={"Location": f"{other.url}/steal"}))) as server:
            (fault,) = ask(server)
        assert fault.kind == "rejected" and "redirect" in fault.reason and not other.asked


def test_whole_addresses_are_asked_at_the_service_itself_or_allowed_hosts_only() -> None:
    async def polling(server: LittleServer, url: str) -> Any:
        async with Client(endpoint(server)) as client:
            return await client.request_json("GET", url, allowed_hosts=["*.example.com"])

    with serving(in_turn(FINE)) as server:
        assert asyncio.run(polling(server, f"{server.url}/poll?id=1")) == {"fine": True}
        for url in (f"{server.url}/a b", f"{server.url}/\\evil", f"{server.url}/\u00e4"):
            with pytest.raises(TransportFault, match="backslash, white space"):
                asyncio.run(polling(server, url))
        for url in ("http://eu.example.com/x", "https://evil.example/x", f"http://localhost:{server.port}/x"):
            with pytest.raises(TransportFault) as caught:
                asyncio.run(polling(server, url))
            assert caught.value.kind == "forbidden_url"
        assert len(server.asked) == 1


def test_a_caller_may_read_a_refusal_behind_an_error_status() -> None:
    async def refused(server: LittleServer) -> Any:
        async with Client(endpoint(server), auth_header="x-key", auth_scheme="") as client:
            answer = await client.request("POST", "x", form={"prompt": "a"}, accept=lambda answer: answer.status == 403)
            return answer.status, answer.json(), await client.request_json("GET", "y")

    with serving(in_turn(Answer(403, {"name": "content_moderation"}), FINE)) as server:
        assert asyncio.run(refused(server)) == (403, {"name": "content_moderation"}, {"fine": True})
    assert server.asked[0].headers["x-key"] == KEY
    assert b'name="prompt"' in server.asked[0].body


def test_the_proxy_of_the_environment_is_used_with_its_password_and_never_for_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(lambda asked: Answer(body={"at": asked.target})) as proxy, serving(lambda asked: Answer()) as near:
        monkeypatch.setenv("http_proxy", f"http://user:pass%2Fword@127.0.0.1:{proxy.port}")
        (answer,) = ask(proxy, path="draw?a=%2Fb", at=Endpoint("http://images.internal/v1"))
        assert answer == {"at": "http://images.internal/v1/draw?a=%2Fb"}
        wanted = base64.b64encode(b"user:pass/word").decode()
        assert proxy.asked[0].headers["proxy-authorization"] == f"Basic {wanted}"
        ask(near)
    assert len(near.asked) == 1 and len(proxy.asked) == 1


def test_no_secret_is_in_any_error_log_or_representation(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("aiohttp").setLevel(logging.NOTSET)
    secret = {"error": {"message": f"key {KEY} at https://x.example/a?sig={KEY} Bearer abcdefgh12345 sk-abc***wxyz"}}
    answers = [Answer(status, secret) for status in (302, 400, 401, 429, 500)] + [Answer(cut_after=-1), Answer()]
    for answer in answers:
        with serving(in_turn(answer)) as server:
            (fault,) = ask(server, path="x?sig=canary-query", attempts=1)
            told = f"{fault!r} {fault} {endpoint(server)!r} {Client(endpoint(server))!r}"
            told += "".join(traceback.format_exception(fault))
        for word in (KEY, "canary", "abcdefgh12345", "wxyz"):
            assert word not in told
    assert "canary" not in caplog.text and KEY not in caplog.text


def test_texts_of_others_become_one_short_line() -> None:
    told = without_secrets(f"a\n\x1b[31mb {'c' * 900} https://u:p@h.example/x?sig=1", ["b"])
    assert "\n" not in told and "\x1b" not in told and len(told) <= 300
    assert (
        without_secrets("see https://u:pw@h.example/x?sig=1#f now") == "see https://[hidden]@h.example/x?[hidden] now"
    )
