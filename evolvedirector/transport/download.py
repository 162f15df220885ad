"""Fetching result images: public hosts only, checked at the moment of connecting, without our key."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from evolvedirector.transport.connection import BROKEN, NOT_SENT, proxy_for, read_body, trusted_certificates
from evolvedirector.transport.connection_words import connection_reason
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.url_guard import check_address, check_url
from evolvedirector.transport.waiting import asked_wait_s

MAX_REDIRECTS = 1


class PublicNetwork(httpcore.AsyncNetworkBackend):
    """Open connections to public addresses only.

    A name is resolved here and the connection goes to the address that was checked, so a name that resolves to
    something else a moment later gains nothing.

    Args:
        loopback_host: one host that is exempt: the endpoint's own when it runs on this machine; None for none.
    """

    def __init__(self, loopback_host: str | None) -> None:
        self.loopback_host = loopback_host
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of a host that answers; a host with any local address is refused."""
        addresses = [host] if host == self.loopback_host else await public_addresses(host, port)
        last: Exception | None = None
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last or httpcore.ConnectError("no address")


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
        self.loopback_host = loopback_host
        self._timeouts = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
        self._direct = httpcore.AsyncConnectionPool(
            trusted_certificates(), network_backend=PublicNetwork(loopback_host), max_connections=None
        )
        self._proxied: httpcore.AsyncHTTPProxy | None = None

    async def aclose(self) -> None:
        """Close all connections."""
        await self._direct.aclose()
        if self._proxied is not None:
            await self._proxied.aclose()

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
            try:
                location, body = await self._get(url, max_bytes)
            except NOT_SENT as error:
                fault = TransportFault("unreachable", connection_reason(error, urlsplit(url).hostname or ""))
            except BROKEN as error:
                fault = TransportFault("ambiguous", f"the download was cut off ({type(error).__name__})")
            else:
                if not location:
                    return body
                url = urljoin(url, location)
                continue
            raise fault
        raise TransportFault("forbidden_url", f"a result is redirected more than {MAX_REDIRECTS} time(s)")

    async def _get(self, url: str, max_bytes: int) -> tuple[str, bytes]:
        """Send one GET and return (where it redirects to or an empty text, body)."""
        headers = [("Accept-Encoding", "identity"), ("User-Agent", "evolvedirector")]
        host = urlsplit(url).hostname or ""
        async with self._pool(url).stream("GET", url, headers=headers, extensions={"timeout": self._timeouts}) as got:
            named = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in got.headers}
            if got.status in (301, 302, 303, 307, 308) and named.get("location"):
                return named["location"], b""
            if got.status != 200:
                busy = got.status in (408, 425, 429) or got.status >= 500
                words = "; it may have expired" if got.status in (401, 403, 404, 410) else ""
                raise TransportFault(
                    "busy" if busy else "rejected",
                    f"{host[:100]} answered {got.status} for a result{words}",
                    got.status,
                    wait_s=asked_wait_s(named, b"") if busy else None,
                )
            return "", await read_body(got, named, max_bytes)

    def _pool(self, url: str) -> httpcore.AsyncConnectionPool:
        """Choose a direct connection, or the environment's proxy: names are then resolved there, not here."""
        if urlsplit(url).hostname == self.loopback_host:
            return self._direct
        self._proxied = self._proxied or proxy_for(url)
        return self._proxied or self._direct
