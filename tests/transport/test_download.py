"""Fetching results: allowed public hosts only, checked when connecting; bounded; without any key."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohappyeyeballs
import pytest

from evolvedirector.transport import waiting
from evolvedirector.transport.client import Client
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault
from tests.transport.little_server import Answer, LittleServer, serving


def fetch(server: LittleServer, url: str, hosts: tuple[str, ...] = (), **fields: Any) -> bytes | TransportFault:
    settings = {"timeout_s": 20.0, "deadline_s": 60.0, "attempts": 3, **fields}

    async def one() -> bytes | TransportFault:
        async with Client(Endpoint(server.url, **settings)) as client:
            try:
                return await client.download(url, hosts, max_bytes=1000)
            except TransportFault as fault:
                return fault

    return asyncio.run(one())


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BACKOFF_S", 0.005)


def test_a_result_comes_without_our_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITTLE_KEY", "canary-key")
    with serving(lambda asked: Answer(body=b"image")) as server:
        assert fetch(server, f"{server.url}/a.png?sig=1", api_key_env="LITTLE_KEY") == b"image"
    assert "canary-key" not in str(server.asked) and server.asked[0].target == "/a.png?sig=1"


def test_outages_are_tried_again_and_expired_results_not() -> None:
    answers = [Answer(503), Answer(cut_after=-1), Answer(body=b"image")]
    with serving(lambda asked: answers[asked.number]) as server:
        assert fetch(server, f"{server.url}/a") == b"image"
    for status in (401, 403, 404, 410):
        with serving(lambda asked, status=status: Answer(status)) as server:
            fault = fetch(server, f"{server.url}/secret-path?sig=canary")
        assert (fault.kind, fault.status, len(server.asked)) == ("rejected", status, 1)
        assert "expired" in fault.reason and "canary" not in fault.reason and "secret-path" not in fault.reason


@pytest.mark.parametrize("drip_s", [0.0, 0.001])
def test_results_are_bounded(drip_s: float) -> None:
    with serving(lambda asked: Answer(body=b"x" * 1500, drip_s=drip_s)) as server:
        assert fetch(server, f"{server.url}/a").kind == "too_large"


def test_a_slow_result_ends_at_the_deadline() -> None:
    with serving(lambda asked: Answer(body=b"x" * 900, drip_s=0.05)) as server:
        assert fetch(server, f"{server.url}/a", deadline_s=0.4).kind == "deadline"


def test_one_redirect_is_followed_and_a_second_not() -> None:
    hops = {"/a": "/b", "/b": "/c"}

    def play(asked: Any) -> Answer:
        to = hops.get(asked.target)
        return Answer(302, headers={"Location": to}) if to else Answer(body=b"image")

    with serving(play) as server:
        assert fetch(server, f"{server.url}/b") == b"image"
        fault = fetch(server, f"{server.url}/a")
    assert fault.kind == "forbidden_url" and "redirected" in fault.reason


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest",
        "https://169.254.169.254/latest",
        "https://10.0.0.1/",
        "//[::1]/",
        "file:///etc/passwd",
        "https://evil.example/",
        "http://localhost/",
        "https://cdn.example.com\\@10.0.0.1/",
    ],
)
def test_a_redirect_is_checked_like_a_first_address(target: str) -> None:
    with serving(lambda asked: Answer(302, headers={"Location": target})) as server:
        fault = fetch(server, f"{server.url}/a", ("cdn.example.com",))
    assert fault.kind == "forbidden_url" and len(server.asked) == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fe80::1"])
def test_an_allowed_name_that_resolves_to_a_private_address_is_not_connected(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        entries = {"cdn.example.com": ["93.184.215.14", address]}  # one good address does not help
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, port)) for found in entries[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with serving(lambda asked: Answer(body=b"inside")) as server:
        fault = fetch(server, "https://cdn.example.com/a", ("cdn.example.com",))
    assert fault.kind == "forbidden_url" and "private" in fault.reason and not server.asked


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses, connected = iter(["93.184.215.14", "127.0.0.1"]), []  # a name that changes its address at once

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(addresses), port))]

    async def connect(*_: Any, addr_infos: list[Any], **__: Any) -> None:
        connected.extend(info[4][0] for info in addr_infos)
        raise OSError("far away")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(aiohappyeyeballs, "start_connection", connect)
    with serving(lambda asked: Answer()) as server:
        assert fetch(server, "https://cdn.example.com/a", ("cdn.example.com",), attempts=1).kind == "unreachable"
    assert connected == ["93.184.215.14"]


def test_an_unknown_name_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with serving(lambda asked: Answer()) as server:
        fault = fetch(server, "https://cdn.example.com/a?sig=canary", ("cdn.example.com",), attempts=1)
    assert fault.kind == "unreachable" and "unknown" in fault.reason and "canary" not in str(fault)
