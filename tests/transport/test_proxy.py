"""Proxies of the environment: which is taken, what is refused, and that a proxy's failure costs nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from evolvedirector.errors import UserError
from evolvedirector.records import ImageRequest
from evolvedirector.teachers import OpenAIImagesTeacher
from evolvedirector.transport import proxy as proxies
from evolvedirector.transport import waiting
from evolvedirector.transport.chat.served_models import check_served_model
from evolvedirector.transport.client import Client
from evolvedirector.transport.connection import connection_fault
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.proxy import Proxy, is_exempt, proxy_environment, proxy_for, read_proxy
from tests.transport.little_server import Answer, serving

SECRET = "canary-pass"
FAR = "https://images.example.com/v1"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BACKOFF_S", 0.005)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def listening(*answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Listen on loopback: one answer after what arrives, in turn, then close; no answer closes at once."""
    heard: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                heard.append(connection.recv(4096))
                for answer in answers:
                    connection.sendall(answer)
                    heard.append(connection.recv(4096))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1], heard
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


@pytest.mark.parametrize(
    ("named", "url", "variable"),
    [
        ({"HTTPS_PROXY": "http://a:1"}, "http://a:1", "HTTPS_PROXY"),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:2"}, "http://b:2", "https_proxy"),
        ({"ALL_PROXY": "http://c:3"}, "http://c:3", "ALL_PROXY"),
        ({"all_proxy": "http://c:3", "HTTPS_PROXY": "http://a:1"}, "http://a:1", "HTTPS_PROXY"),
        ({"HTTPS_PROXY": "", "ALL_PROXY": "c:3"}, "http://c:3", "ALL_PROXY"),
        ({"http_proxy": "http://d:4"}, None, None),
        ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "example.com"}, None, None),
        ({"ALL_PROXY": "http://a:1", "no_proxy": "*"}, None, None),
    ],
)
def test_the_variable_is_chosen_as_curl_chooses_it(
    named: dict[str, str], url: str | None, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(FAR)
    assert (url, variable) == (None, None) if found is None else (found.url, found.variable) == (url, variable)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("proxy:3128", "http://proxy:3128"),
        (" //proxy:3128/ ", "http://proxy:3128"),
        ("HTTP://Proxy", "http://proxy:80"),
        ("https://proxy.example.com", "https://proxy.example.com:443"),
        ("http://[::1]:3128", "http://[::1]:3128"),
        ("[fd00::1]:3128", "http://[fd00::1]:3128"),
        ("user:p%40ss%2Fw@proxy:3128", "http://user:p%40ss%2Fw@proxy:3128"),
        ("http://u%C3%A4@proxy:1", "http://u%C3%A4@proxy:1"),
        ("http://u:p@ss@proxy:1", "http://u:p%40ss@proxy:1"),
        ("socks5h://127.0.0.1", "socks5h://127.0.0.1:1080"),
        ("socks4a://me@gate:9", "socks4a://me@gate:9"),
    ],
)
def test_addresses_are_read_as_people_write_them(address: str, url: str) -> None:
    found = read_proxy(address, "HTTPS_PROXY", needs_library=False)
    assert found.url == url
    assert str(found).endswith("(HTTPS_PROXY)") and "@" not in str(found) and "p%40" not in str(found)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:port",
        "http://127.0.0.1:70000",
        "http://127.0.0.1:0",
        "http://",
        "::1:3128",
        f"http://user:{SECRET}/x@proxy:3128",
        f"http://user:{SECRET}#@proxy:3128",
        f"http://user:{SECRET}@pro xy:3128",
        f"http://us%3Aer:{SECRET}@proxy:3128",
        f"ftp://user:{SECRET}@proxy:3128",
        f"socks://user:{SECRET}@proxy:3128",
        "http://proxy:3128/path",
        "http://[::1:3128",
        "http://%zz:3128",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_before_anything_is_sent(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    with pytest.raises(UserError, match=r"^HTTPS_PROXY names .*Allowed are .*Write http://HOST:PORT") as caught:
        proxy_for(FAR)
    assert SECRET not in str(caught.value)
    reply, told = drawn()
    assert "HTTPS_PROXY names" in told and SECRET not in told + reply.reason
    assert (reply.sent, reply.cost_usd) == (False, 0.0)


def test_without_its_library_a_socks_proxy_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "find_spec", lambda name: None)
    monkeypatch.setenv("ALL_PROXY", f"socks5h://user:{SECRET}@127.0.0.1:1080")
    reply, told = drawn()
    for words in (reply.reason, told):
        assert "ALL_PROXY names a socks5h proxy" in words and "evolvedirector[socks]" in words and SECRET not in words
    assert (reply.sent, reply.cost_usd) == (False, 0.0)


@pytest.mark.parametrize(
    ("entry", "host", "port", "exempt"),
    [
        ("*", "a.com", 443, True),
        ("a.com", "a.com", 443, True),
        (".a.com", "b.a.com", 443, True),
        ("*.a.com", "b.a.com", 443, True),
        ("a.com", "ba.com", 443, False),
        ("A.com:8443", "a.com", 8443, True),
        ("a.com:8443", "a.com", 443, False),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("[::1]:443", "::1", 443, True),
        ("fd00::/8", "fd00::7", 443, True),
        ("", "a.com", 443, False),
    ],
)
def test_no_proxy_lists_names_addresses_and_networks(entry: str, host: str, port: int, exempt: bool) -> None:
    assert is_exempt(host, port, ["other.example", f" {entry} "]) is exempt


def test_a_program_that_knows_no_all_proxy_is_led_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "gate:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://other:1")
    found = proxy_environment()
    assert {found["https_proxy"], found["HTTPS_PROXY"]} == {"http://gate:3128"}
    assert {found["http_proxy"], found["HTTP_PROXY"]} == {"http://other:1"}


def drawn(**fields: Any) -> tuple[Any, str]:
    """Verify a teacher far away and draw with it; returns its reply and what `verify` said."""
    endpoint = Endpoint(FAR, **{"attempts": 2, "timeout_s": 5.0, "deadline_s": 20.0, **fields})
    teacher = OpenAIImagesTeacher(endpoint, "m", cost_usd_per_image=0.04)
    with pytest.raises(ValueError) as caught:
        teacher.verify()
    (reply,) = teacher.generate([ImageRequest("r", "a dog", 1, 8, 8)])
    assert reply.status == "failure"
    return reply, str(caught.value)


needs_socks = pytest.mark.skipif(importlib.util.find_spec("aiohttp_socks") is None, reason="aiohttp-socks is missing")
REFUSES = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
BLOCKS = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
OPENS = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("scheme", "answers", "words"),
    [
        ("http", [], "broke the connection off .* an HTTP proxy"),
        ("http", [REFUSES], "answered 407: it wants a user name"),
        ("http", [BLOCKS], "answered 502 and did not connect"),
        ("http", [b"\x05\x01junk\r\n\r\n"], "an HTTP proxy"),
        ("http", [OPENS], ""),  # cut in the middle of encryption
        ("http", [OPENS, b"no encryption at all"], "encryption failed"),
        ("https", [b"no encryption at all"], "encryption failed .* an HTTPS proxy"),
        pytest.param("socks5h", [], "broke the connection off .* a SOCKS5 proxy", marks=needs_socks),
        pytest.param("socks5h", [REFUSES], "did not connect", marks=needs_socks),
        pytest.param("socks5h", [b"\x05\x00", b"\x05\x05\x00\x01\0\0\0\0\0\0"], "did not connect", marks=needs_socks),
        pytest.param("socks4a", [b"\x00\x5b\0\0\0\0\0\0"], "did not connect", marks=needs_socks),
    ],
)
def test_what_a_proxy_does_instead_of_connecting_is_not_booked_and_names_it(
    scheme: str, answers: list[bytes], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(*answers) as (port, _):
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://user:{SECRET}@127.0.0.1:{port}")
        reply, told = drawn(attempts=1)
        with pytest.raises(ValueError) as caught:
            check_served_model(Endpoint(FAR, attempts=1, timeout_s=5.0, deadline_s=20.0), "m")
        fault = downloaded()
    for said in (reply.reason, told, str(caught.value), fault.reason):
        assert f"the proxy {scheme}://127.0.0.1:{port} (HTTPS_PROXY)" in said and SECRET not in said, said
    assert fault.kind == "unreachable"
    assert (reply.sent, reply.cost_usd) == (False, 0.0)
    assert re.search(words, reply.reason)


def downloaded() -> TransportFault:
    async def one() -> None:
        async with Client(Endpoint("http://127.0.0.1:9", attempts=1, timeout_s=5.0, deadline_s=20.0)) as client:
            await client.download("https://cdn.example.com/a?sig=canary", ("cdn.example.com",))

    with pytest.raises(TransportFault) as caught:
        asyncio.run(one())
    return caught.value


def test_a_proxy_that_never_answers_ends_in_time_and_is_not_booked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{silent.getsockname()[1]}")
        reply, told = drawn(timeout_s=0.1, attempts=1)
        assert "did not connect in time" in reply.reason and "did not connect in time" in told
        assert (reply.sent, reply.cost_usd) == (False, 0.0)
        reply, _ = drawn(timeout_s=5.0, deadline_s=0.1, attempts=1)  # the deadline comes first
        assert reply.reason.startswith("deadline") and reply.cost_usd == 0.0


def test_a_plain_http_proxy_that_wants_a_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda asked: Answer(407)) as gate:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{gate.port}")
        teacher = OpenAIImagesTeacher(Endpoint("http://images.internal/v1", attempts=1), "m", cost_usd_per_image=0.04)
        (reply,) = teacher.generate([ImageRequest("r", "a dog", 1, 8, 8)])
    assert "the proxy http://127.0.0.1" in reply.reason and "407" in reply.reason
    assert (reply.sent, reply.cost_usd) == (False, 0.0)


@needs_socks
@pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks4", "socks4a"])
def test_a_socks_proxy_leads_to_the_service(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The little server behind it says plain http, so an address of a private network is asked for."""
    body = b'{"fine": true}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    hello = [b"\x05\x02", b"\x01\x00", b"\x05\x00\x00\x01\0\0\0\0\0\0"] if "5" in scheme else [b"\0\x5a\0\0\0\0\0\0"]
    with listening(*hello, answer) as (port, heard):
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://us%40er:{SECRET}@127.0.0.1:{port}")
        by_name = scheme in ("socks5h", "socks4a")
        host = "images.internal" if by_name else "10.1.2.3"

        async def one() -> Any:
            async with Client(Endpoint(f"http://{host}/v1", attempts=1, timeout_s=5.0, deadline_s=20.0)) as client:
                return await client.request_json("POST", "draw", {"a": 1})

        assert asyncio.run(one()) == {"fine": True}
    said = b"".join(heard)
    assert b"us@er" in said and (b"images.internal" in said.partition(b"POST")[0]) is by_name
    assert b"POST /v1/draw" in said


@pytest.mark.parametrize("proxy", [None, Proxy("http", "h", 1, "HTTPS_PROXY", "u", SECRET)])
def test_a_certificate_that_is_not_trusted_is_named_with_or_without_a_proxy(proxy: Proxy | None) -> None:
    inner = ssl.SSLCertVerificationError(1, "verify failed")
    inner.verify_message = "self-signed certificate"
    outer = aiohttp.ClientConnectorCertificateError(SimpleNamespace(host="h", port=1, is_ssl=True, ssl=True), inner)
    fault = connection_fault(outer, "images.example.com", proxy, False)
    assert fault.kind == "unreachable" and "not trusted (self-signed certificate)" in fault.reason
    assert SECRET not in fault.reason and ("the proxy http://h:1" in fault.reason) is (proxy is not None)


def test_a_proxy_shows_no_password_as_an_object() -> None:
    assert SECRET not in repr(Proxy("http", "h", 1, "HTTPS_PROXY", "u", SECRET))
