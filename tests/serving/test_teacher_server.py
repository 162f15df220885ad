"""A served teacher over a real socket: the same images, refusals as errors, nothing drawn twice."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.serving import http_front
from evolvedirector.serving.images_protocol import CallLimits
from evolvedirector.serving.teacher_server import TeacherServer
from evolvedirector.worlds.shapes import MiniatureTeacher
from tests.toys import ToyTeacher, flat_png

CALL = {"prompt": "a red circle", "size": "32x32", "seed": 7, "response_format": "b64_json"}


class Gated:
    """Draws flat pictures once `gate` is open, and remembers the size of each batch."""

    fingerprint = "gated"

    def __init__(self, status: str = "image", error: Exception | None = None) -> None:
        self.gate, self.begun, self.batches, self.closed = threading.Event(), threading.Event(), [], False
        self.status, self.error = status, error

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        self.batches.append([request.prompt for request in requests])
        self.begun.set()
        assert self.gate.wait(20)
        if self.error:
            raise self.error
        for request in requests:
            image = flat_png(len(request.prompt)) if self.status == "image" else None
            yield ImageReply(request.request_id, self.status, image, "the reason")  # type: ignore[arg-type]

    def close(self) -> None:
        self.closed = True


def ask(
    server: TeacherServer,
    call: dict[str, Any] | bytes,
    path: str = "/v1/images/generations",
    **headers: str,
) -> tuple[int, dict[str, Any]]:
    """POST a call and return status and answer."""
    body = call if isinstance(call, bytes) else json.dumps(call).encode()
    fields = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    return exchange(server, "POST", path, body, fields)


def exchange(
    server: TeacherServer, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    host, port = server.address.removeprefix("http://").removesuffix("/v1").split(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def images_of(answer: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(item["b64_json"]) for item in answer["data"]]


@pytest.fixture(scope="module")
def served() -> Iterator[TeacherServer]:
    with TeacherServer(MiniatureTeacher(), "mini", limits=CallLimits(32, 64, 3)) as server:
        yield server


def direct(prompt: str, seed: int, side_px: int = 32) -> bytes:
    (reply,) = MiniatureTeacher().generate([ImageRequest("r", prompt, seed, side_px, side_px)])
    assert reply.image is not None
    return reply.image


def test_images_are_those_of_the_teacher_to_the_bit(served: TeacherServer) -> None:
    status, answer = ask(served, CALL | {"n": 2, "model": "mini", "user": "me", "quality": "auto"})
    assert status == 200
    assert images_of(answer) == [direct("a red circle", 7), direct("a red circle", 8)]


def test_without_a_size_and_seed_the_servers_own_are_taken(served: TeacherServer) -> None:
    from evolvedirector.store.images import image_size

    first, second = (images_of(ask(served, {"prompt": "a red circle"})[1])[0] for _ in range(2))
    assert image_size(first) == (32, 32) and first != second


def test_a_refusal_is_an_error_of_the_protocol(served: TeacherServer) -> None:
    status, answer = ask(served, CALL | {"prompt": "a red unicorn"})
    assert status == 400 and answer["error"]["code"] == "content_policy_violation"
    assert "outside of the grammar" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": 3}, 400, "prompt"),
        ({"prompt": "x" * 2001}, 400, "prompt"),
        ({"prompt": "\ud800"}, 400, "prompt"),
        ({"n": 4}, 400, "n"),
        ({"n": True}, 400, "n"),
        ({"n": 1.0}, 400, "n"),
        ({"seed": -1}, 400, "seed"),
        ({"seed": 2**63}, 400, "seed"),
        ({"size": "65x32"}, 400, "size"),
        ({"size": "0x32"}, 400, "size"),
        ({"size": "32"}, 400, "size"),
        ({"size": [32, 32]}, 400, "size"),
        ({"response_format": "url"}, 400, "response_format"),
        ({"stream": True}, 400, "stream"),
        ({"negative_prompt": "blue"}, 400, "negative_prompt"),
        ({"stream": 0}, 400, "stream"),
        ({"partial_images": False}, 400, "partial_images"),
        ({"partial_images": 2}, 400, "partial_images"),
        ({"background": "transparent"}, 400, "background"),
        ({"quality": "high"}, 400, "quality"),
        ({"quality": 1}, 400, "quality"),
        ({"style": "vivid"}, 400, "style"),
        ({"moderation": "low"}, 400, "moderation"),
        ({"output_format": "webp"}, 400, "output_format"),
        ({"output_compression": 50}, 400, "output_compression"),
        ({"input_fidelity": "high"}, 400, "input_fidelity"),
        ({"user": 7}, 400, "user"),
        ({"model": ["mini"]}, 400, "model"),
        ({"prompt": ["a"]}, 400, "prompt"),
        ({"n": "1"}, 400, "n"),
        ({"model": "other"}, 404, "model"),
    ],
)
def test_a_call_that_cannot_be_met_names_its_field(
    served: TeacherServer, change: dict[str, Any], status: int, param: str
) -> None:
    found, answer = ask(served, CALL | change)
    assert (found, answer["error"]["param"]) == (status, param)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b"[" * 60_000, 400, "invalid_json"),
        (b" " * 70_000, 413, "too_large"),
    ],
)
def test_a_body_that_is_no_call_is_refused(served: TeacherServer, body: bytes, status: int, code: str) -> None:
    found, answer = ask(served, body)
    assert (found, answer["error"]["code"]) == (status, code)


def test_other_paths_methods_types_and_names_are_refused(served: TeacherServer) -> None:
    assert exchange(served, "GET", "/v1/models")[1]["data"][0]["id"] == "mini"
    assert exchange(served, "GET", "/health") == (200, {"status": "ok", "waiting": 0})
    assert exchange(served, "GET", "/v1/images/generations")[0] == 405
    assert exchange(served, "GET", "/etc/passwd")[0] == 404
    assert ask(served, CALL, "/v1/images/edits")[0] == 404
    assert ask(served, CALL, Content_Type="text/plain")[0] == 415
    assert ask(served, CALL, Host="teacher.example.com")[0] == 403
    assert ask(served, CALL, Content_Type="application/x-www-form-urlencoded")[0] == 415
    for method in ("PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
        assert status_of(raw(served, f"{method} /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())) == 405


def raw(server: TeacherServer, *parts: bytes) -> bytes:
    """Send bytes as they are, and return all that comes back until the server closes or a moment passes."""
    host, port = server.address.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        answer = connection.recv(65536)
        connection.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            while more := connection.recv(65536):
                answer += more
        return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


HEAD = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_body_in_chunks_is_a_body(served: TeacherServer) -> None:
    body = json.dumps(CALL).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:9], body[9:])) + b"0\r\n\r\n"
    answer = raw(served, HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks)
    assert status_of(answer) == 200 and images_of(json.loads(answer.partition(b"\r\n\r\n")[2])) == [
        direct("a red circle", 7)
    ]
    large = b"".join([b"8000\r\n" + b" " * 0x8000 + b"\r\n"] * 3) + b"0\r\n\r\n"
    assert status_of(raw(served, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + large)) == 413


def test_a_client_that_waits_for_leave_gets_it(served: TeacherServer) -> None:
    body = json.dumps(CALL).encode()
    head = HEAD + b"Content-Length: %d\r\nExpect: %s\r\n\r\n"
    answer = raw(served, head % (len(body), b"100-continue"), body)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
    assert status_of(raw(served, head % (10**6, b"100-continue"))) == 413
    assert status_of(raw(served, head % (len(body), b"a-miracle"))) == 417


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        HEAD + b"Content-Length: minus\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nnot-a-size\r\n",
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk",
        HEAD + b"Content-Length: 0\r\n\r\n",
    ],
)
def test_a_broken_call_is_the_clients_mistake(
    served: TeacherServer, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert 400 <= status_of(raw(served, sent)) < 500
    assert ask(served, CALL)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_connection_that_says_too_little_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_front, "READ_S", 0.2)
    monkeypatch.setattr(http_front, "MAX_CONNECTIONS", 2)
    with TeacherServer(ToyTeacher()) as server:
        host, port = server.address.removeprefix("http://").removesuffix("/v1").split(":")
        slow = [socket.create_connection((host, int(port)), timeout=20) for _ in range(2)]
        slow[1].sendall(b"GET /hea")
        with socket.create_connection((host, int(port)), timeout=20) as third:
            assert third.recv(10) == b""  # one too many
        assert [each.recv(1) for each in slow] == [b"", b""]
        for each in slow:
            each.close()
        assert status_of(raw(server, HEAD + b"Content-Length: 50\r\n\r\n{")) == 408
        assert ask(server, {"prompt": "tone 1"})[0] == 200


def test_one_connection_serves_many_calls(served: TeacherServer) -> None:
    host, port = served.address.removeprefix("http://").removesuffix("/v1").split(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
        sockets = set()
        for seed in range(3):
            body = json.dumps(CALL | {"seed": seed})
            connection.request("POST", "/v1/images/generations", body, {"Content-Type": "application/json"})
            assert images_of(json.loads(connection.getresponse().read())) == [direct("a red circle", seed)]
            sockets.add(id(connection.sock))
        assert len(sockets) == 1


def test_a_cut_connection_harms_nobody(served: TeacherServer) -> None:
    host, port = served.address.removeprefix("http://").removesuffix("/v1").split(":")
    for sent in (b"", b"POST /v1/images", b"POST /v1/images/generations HTTP/1.1\r\nContent-Length: 50\r\n\r\n{"):
        with socket.create_connection((host, int(port)), timeout=20) as cut:
            cut.sendall(sent)
    assert ask(served, CALL)[0] == 200


def test_calls_that_arrive_together_are_drawn_together() -> None:
    teacher = Gated()
    with TeacherServer(teacher, batch_size=4) as server, ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, server, {"prompt": "first"})
        assert teacher.begun.wait(20)
        others = [pool.submit(ask, server, {"prompt": "x" * number}) for number in range(1, 6)]
        while exchange(server, "GET", "/health")[1]["waiting"] < 5:
            pass
        teacher.gate.set()
        assert images_of(first.result()[1]) == [flat_png(5)]
        assert [images_of(other.result()[1]) for other in others] == [[flat_png(number)] for number in range(1, 6)]
        assert server.counts()["images"] == 6
    assert [len(batch) for batch in teacher.batches] == [1, 4, 1]
    assert teacher.closed


def test_an_idempotency_key_draws_once_even_while_it_is_drawn() -> None:
    teacher = Gated()
    with TeacherServer(teacher) as server, ThreadPoolExecutor(4) as pool:
        both = [pool.submit(ask, server, {"prompt": "one"}, Idempotency_Key="k") for _ in range(2)]
        assert teacher.begun.wait(20)
        while not server.counts()["replayed"]:
            pass
        teacher.gate.set()
        answers = [future.result() for future in both]
        assert answers[0] == answers[1] == ask(server, {"prompt": "one"}, Idempotency_Key="k")
        status, answer = ask(server, {"prompt": "two"}, Idempotency_Key="k")
        assert (status, answer["error"]["code"]) == (422, "idempotency_key_reused")
        assert ask(server, {"prompt": "one"}, Idempotency_Key="k" * 256)[0] == 400
        assert server.counts()["replayed"] == 2
    assert teacher.batches == [["one"]]


@pytest.mark.parametrize("teacher", [Gated("failure"), Gated(error=OSError("/secret/path"))])
def test_a_failure_is_502_and_is_drawn_again(teacher: Gated, capsys: pytest.CaptureFixture[str]) -> None:
    teacher.gate.set()
    with TeacherServer(teacher) as server:
        for _ in range(2):
            status, answer = ask(server, {"prompt": "one"}, Idempotency_Key="k")
            assert status == 502 and answer["error"]["type"] == "server_error"
            assert "secret" not in answer["error"]["message"]
    assert len(teacher.batches) == 2
    assert ("/secret/path" in capsys.readouterr().err) == (teacher.error is not None)


def test_a_silent_teacher_is_a_failure() -> None:
    class Silent(ToyTeacher):
        def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
            yield ImageReply("of somebody else", "image", flat_png(1))

    with TeacherServer(Silent()) as server:
        assert ask(server, {"prompt": "tone 1"})[0] == 502


def test_stopping_finishes_what_was_begun_and_turns_the_rest_away() -> None:
    teacher = Gated()
    server = TeacherServer(teacher, batch_size=1).start()
    with ThreadPoolExecutor(4) as pool:
        begun = pool.submit(ask, server, {"prompt": "one"})
        assert teacher.begun.wait(20)
        waiting = pool.submit(ask, server, {"prompt": "two"})
        while exchange(server, "GET", "/health")[1]["waiting"] < 1:
            pass
        stopped = pool.submit(server.stop)
        while ask(server, {"prompt": "three"})[0] != 503:
            pass
        teacher.gate.set()
        assert begun.result()[0] == 200 and waiting.result()[0] == 503
        assert stopped.result()["images"] == 1
    assert teacher.closed
    with pytest.raises(OSError):
        exchange(server, "GET", "/health")


def test_too_many_waiting_and_too_slow_are_503() -> None:
    teacher = Gated()
    with TeacherServer(teacher, batch_size=1, timeout_s=0.1, limits=CallLimits(max_images=256)) as server:
        assert ask(server, {"prompt": "one"}, Idempotency_Key="k")[1]["error"]["code"] == "still_drawing"
        with ThreadPoolExecutor(1) as pool:
            many = pool.submit(ask, server, {"prompt": "two", "n": 256})
            while exchange(server, "GET", "/health")[1]["waiting"] < 256:
                pass
            assert ask(server, {"prompt": "three"})[1]["error"]["code"] == "overloaded"
            assert many.result()[0] == 503
            teacher.gate.set()
        while ask(server, {"prompt": "one"}, Idempotency_Key="k")[0] != 200:
            pass
    assert teacher.batches[0] == ["one"] and ["one"] not in teacher.batches[1:]


def test_a_key_is_asked_for_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"TEACHER_KEY.*is empty"):
        TeacherServer(ToyTeacher(), api_key_env="TEACHER_KEY")
    monkeypatch.setenv("TEACHER_KEY", "canary-0123456789")
    with TeacherServer(ToyTeacher(), api_key_env="TEACHER_KEY") as server:
        assert "canary" not in repr(vars(server))
        assert exchange(server, "GET", "/health")[0] == 200
        assert exchange(server, "GET", "/v1/models")[0] == 401
        for given in ("", "Bearer", "Bearer wrong", "Basic canary-0123456789", "Bearer canary-012345678é"):
            status, answer = ask(server, {"prompt": "tone 1"}, Authorization=given)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key") and "canary" not in repr(answer)
        answer = ask(server, {"prompt": "tone 1"}, Authorization="Bearer canary-0123456789", Host="gpu.example.com")
        assert answer[0] == 200


def test_a_port_that_is_taken_is_told() -> None:
    with TeacherServer(ToyTeacher()) as server:
        port = int(server.address.removesuffix("/v1").rpartition(":")[2])
        with pytest.raises(ValueError, match=f"port {port} cannot be listened on"):
            TeacherServer(ToyTeacher(), port=port)
    with pytest.raises(ValueError, match="port 70000"):
        TeacherServer(ToyTeacher(), port=70000)
