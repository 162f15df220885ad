"""One request on the wire, once: what comes back whole is a `Response`, everything else a `TransportFault`."""

from __future__ import annotations

import functools
import json
import logging
import secrets
import ssl
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from evolvedirector.transport.connection_words import connection_reason
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.response import Response, inflate

MAX_ERROR_BYTES = 2**20
KEEP_ALIVE_S = 4.0
"""Below the 5 s after which common servers close a quiet connection: a request must not meet that moment."""
NOT_SENT = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout, httpcore.ProxyError)
BROKEN = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError)


@functools.cache
def trusted_certificates() -> ssl.SSLContext:
    """Load the certificates that are trusted, once per process: it takes longer than many a request."""
    return httpx.create_ssl_context()


def silence_http_logs() -> None:
    """Keep the HTTP libraries from logging addresses and headers: signed URLs are as good as keys."""
    for name in ("httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logging.WARNING, logger.level))


def proxy_for(url: str) -> httpcore.AsyncHTTPProxy | None:
    """Make a connection pool over the proxy that the environment names for an address; None where it names none.

    Args:
        url: whole address.
    """
    parts = urlsplit(url)
    address = urllib.request.getproxies().get(parts.scheme)
    if address is None or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
    return httpcore.AsyncHTTPProxy(
        str(proxy.url), proxy.raw_auth, ssl_context=trusted_certificates(), max_connections=None
    )


class Connection:
    """Keep connections to one service open and send requests over them.

    Connections wait in a stack of our own: the pool of the HTTP library looks at every connection for every request,
    which at 64 connections takes longer than the request itself.

    Args:
        endpoint: service and timeouts.
        max_response_bytes: longer answers are cut off and refused.
    """

    def __init__(self, endpoint: Endpoint, max_response_bytes: int) -> None:
        silence_http_logs()
        self.max_response_bytes = max_response_bytes
        self._timeouts = dict.fromkeys(("connect", "read", "write", "pool"), endpoint.timeout_s)
        self._idle: defaultdict[str, list[httpcore.AsyncHTTPConnection]] = defaultdict(list)
        # A proxy of the environment must not catch loopback.
        self._proxy = None if endpoint.is_loopback else proxy_for(endpoint.base_url)

    async def aclose(self) -> None:
        """Close all connections."""
        for lines in self._idle.values():
            for line in lines:
                await line.aclose()
        self._idle.clear()
        if self._proxy is not None:
            await self._proxy.aclose()

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        """Send one request and read its answer to the end; redirects are answers like others.

        Args:
            method: HTTP method.
            url: whole address.
            headers: all of them but Host and Content-Length.
            body: None for none.

        Raises:
            TransportFault: `unreachable` when nothing was sent, `ambiguous` when the outcome is unknown, `too_large`.
        """
        try:
            return await self._send(method, httpcore.URL(url), list(headers.items()), body)
        except NOT_SENT as error:
            fault = TransportFault("unreachable", connection_reason(error, urlsplit(url).hostname or ""))
        except BROKEN as error:
            # The words of the library may hold the address or a header: only the kind of its error is told.
            fault = TransportFault(
                "ambiguous", f"the connection failed after the request was sent ({type(error).__name__})"
            )
        raise fault  # outside of the handler: no chain to an exception that holds the request

    async def _send(self, method: str, url: httpcore.URL, headers: list[Any], body: bytes | None) -> Response:
        line = self._proxy or await self._take(url.origin)
        try:
            async with line.stream(
                method, url, headers=headers, content=body, extensions={"timeout": self._timeouts}
            ) as answer:
                return await self._read(answer)
        finally:
            if isinstance(line, httpcore.AsyncHTTPConnection):
                if line.is_idle():
                    self._idle[str(url.origin)].append(line)
                else:
                    await line.aclose()

    async def _take(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        """Take the connection used last that is still open, else a new one."""
        lines = self._idle[str(origin)]
        while lines:
            line = lines.pop()
            if not line.has_expired():
                return line
            await line.aclose()
        return httpcore.AsyncHTTPConnection(origin, trusted_certificates(), keepalive_expiry=KEEP_ALIVE_S)

    async def _read(self, answer: httpcore.Response) -> Response:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
        failed = not 200 <= answer.status < 300
        try:
            body = await read_body(answer, headers, MAX_ERROR_BYTES if failed else self.max_response_bytes)
        except (TransportFault, *BROKEN):
            if not failed:
                raise
            body = b""  # the status alone says what happened
        return Response(answer.status, headers, body)


async def read_body(answer: httpcore.Response, headers: Mapping[str, str], max_bytes: int) -> bytes:
    """Read a body to its end, bounded as it is sent and as it unfolds.

    Args:
        answer: open.
        headers: names in lower case.
        max_bytes: more is refused.

    Raises:
        TransportFault: `too_large`, or `ambiguous` for an encoding that cannot be undone.
    """
    parts, size = [], 0
    length = headers.get("content-length", "")
    async for part in answer.aiter_stream():
        size += len(part)
        if size > max_bytes or (length.isdigit() and int(length[:15]) > max_bytes):
            raise TransportFault("too_large", f"the answer has more than {max_bytes} bytes")
        parts.append(part)
    return inflate(b"".join(parts), headers.get("content-encoding", "").strip().lower(), max_bytes)


def json_body(body: Any) -> tuple[str, bytes] | None:
    """Encode a body as JSON.

    Args:
        body: plain values; None for no body.

    Returns:
        (content type, body), or None.
    """
    return None if body is None else ("application/json", json.dumps(body).encode())


def multipart(form: Mapping[str, str]) -> tuple[str, bytes]:
    """Encode text fields as a multipart form.

    Args:
        form: names (plain words) and texts.

    Returns:
        (content type, body).
    """
    boundary = secrets.token_hex(16)  # so long that no text holds it
    fields = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in form.items()
    )
    body = "".join(fields).encode() + f"--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", body
