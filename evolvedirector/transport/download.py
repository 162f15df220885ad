"""Fetching result images: public hosts only, checked at the moment of connecting, without our key."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from urllib.parse import urljoin, urlsplit

import aiohttp
import aiohttp.abc
from yarl import URL

from evolvedirector.transport.connection import (
    BROKEN,
    connection_fault,
    connection_reason,
    open_session,
    read_body,
    usable_proxy,
)
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.proxy import Proxy
from evolvedirector.transport.url_guard import check_address, check_url, is_address
from evolvedirector.transport.waiting import asked_wait_s

MAX_REDIRECTS = 1


class PublicNames(aiohttp.abc.AbstractResolver):
    """Look names up and give public addresses only.

    The connection goes to the address that was checked, so a name that resolves to something else a moment later
    gains nothing.

    Args:
        loopback_host: one host that is exempt: the endpoint's own when it runs on this machine; None for none.
    """

    def __init__(self, loopback_host: str | None) -> None:
        self.loopback_host = loopback_host
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[aiohttp.abc.ResolveResult]:
        """Return the addresses of a host; a host with any local address is refused."""
        if host == self.loopback_host:
            return await self._system.resolve(host, port, family)
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": numeric,
            }
            for address in await public_addresses(host, port)
        ]

    async def close(self) -> None:
        """Do nothing: the system's look-up holds nothing open."""


async def public_addresses(host: str, port: int) -> list[str]:
    """Resolve a host and refuse it when any of its addresses is not public.

    Args:
        host: name or address.
        port: looked up together with the name.

    Raises:
        TransportFault: `forbidden_url`, or `unreachable` for an unknown name.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = connection_reason(error, host)
    else:
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            check_address(address)
        return addresses
    raise TransportFault("unreachable", reason)


class Downloads:
    """A pool of connections for result images.

    Args:
        loopback_host: see `PublicNetwork`.
        timeout_s: seconds to wait for a connection or for the next bytes.
    """

    def __init__(self, loopback_host: str | None, timeout_s: float) -> None:
        self.loopback_host, self.timeout_s = loopback_host, timeout_s
        self._direct = open_session(timeout_s, PublicNames(loopback_host))
        self._proxied: dict[Proxy, aiohttp.ClientSession] = {}

    async def aclose(self) -> None:
        """Close all connections."""
        async with AsyncExitStack() as closing:  # all of them, even where one fails
            for session in (self._direct, *self._proxied.values()):
                closing.push_async_callback(session.close)

    async def fetch(self, url: str, allowed_hosts: Sequence[str], max_bytes: int) -> bytes:
        """Fetch one URL once, following at most one redirect, which is checked like the first address.

        Args:
            url: where the service put the result.
            allowed_hosts: exact names or `*.example.com`.
            max_bytes: more is refused.

        Raises:
            TransportFault: no bytes.
        """
        for _ in range(MAX_REDIRECTS + 1):
            check_url(url, allowed_hosts, self.loopback_host)
            location, body = await self._get_once(url, max_bytes)
            if not location:
                return body
            url = urljoin(url, location)
        raise TransportFault("forbidden_url", f"a result is redirected more than {MAX_REDIRECTS} time(s)")

    async def _get_once(self, url: str, max_bytes: int) -> tuple[str, bytes]:
        host = urlsplit(url).hostname or ""
        session, proxy = self._way(url, host)
        connected: list[bool] = []
        try:
            return await _get(session, url, max_bytes, lambda: connected.append(True))
        except TransportFault:
            raise
        except Exception as error:
            if connected and not isinstance(error, BROKEN):
                raise
            fault = connection_fault(error, host, proxy, False)
            if connected:
                fault = TransportFault("ambiguous", f"the download was cut off ({type(error).__name__})")
        raise fault  # outside of the handler: no chain to an exception that holds the address

    def _way(self, url: str, host: str) -> tuple[aiohttp.ClientSession, Proxy | None]:
        """Choose a direct connection, or the environment's proxy: names are then resolved there, not here."""
        if host == self.loopback_host:
            return self._direct, None
        if is_address(host):
            check_address(host)  # there is no name to look up
        proxy = usable_proxy(url)
        if proxy is None:
            return self._direct, None
        if proxy not in self._proxied:
            self._proxied[proxy] = open_session(self.timeout_s, proxy=proxy)
        return self._proxied[proxy], proxy


async def _get(
    session: aiohttp.ClientSession, url: str, max_bytes: int, connected: Callable[[], None]
) -> tuple[str, bytes]:
    """Send one GET and return (where it redirects to or an empty text, body)."""
    headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "evolvedirector"}
    host = urlsplit(url).hostname or ""
    async with session.get(
        URL(url, encoded=True), headers=headers, allow_redirects=False, trace_request_ctx=connected
    ) as answer:
        named = {name.lower(): value for name, value in answer.headers.items()}
        if answer.status in (301, 302, 303, 307, 308) and named.get("location"):
            return named["location"], b""
        if answer.status != 200:
            busy = answer.status in (408, 425, 429) or answer.status >= 500
            words = "; it may have expired" if answer.status in (401, 403, 404, 410) else ""
            raise TransportFault(
                "busy" if busy else "rejected",
                f"{host[:100]} answered {answer.status} for a result{words}",
                answer.status,
                wait_s=asked_wait_s(named, b"") if busy else None,
            )
        return "", await read_body(answer, named, max_bytes)
