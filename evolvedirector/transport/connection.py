"""One request on the wire, once: what comes back whole is a `Response`, everything else a `TransportFault`."""

from __future__ import annotations

import functools
import logging
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from evolvedirector.transport.connection_words import connection_reason
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.response import Response, inflate

MAX_ERROR_BYTES = 2**20
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


@functools.cache
def trusted_certificates() -> ssl.SSLContext:
    """Load the certificates that are trusted, once per process: it takes longer than many a request."""
    return httpx.create_ssl_context()


def silence_http_logs() -> None:
    """Keep the HTTP libraries from logging addresses and headers: signed URLs are as good as keys."""
    for name in ("httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logging.WARNING, logger.level))


class Connection:
    """Keep connections to one service open and send requests over them.

    Args:
        endpoint: service and timeouts.
        max_response_bytes: longer answers are cut off and refused.
    """

    def __init__(self, endpoint: Endpoint, max_response_bytes: int) -> None:
        silence_http_logs()
        self.max_response_bytes = max_response_bytes
        self._http = httpx.AsyncClient(
            timeout=endpoint.timeout_s,
            limits=httpx.Limits(max_connections=endpoint.max_in_flight, max_keepalive_connections=None),
            follow_redirects=False,
            trust_env=not endpoint.is_loopback,  # a proxy of the environment must not catch loopback
            verify=trusted_certificates(),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def send(self, method: str, url: str, headers: Mapping[str, str], content: Mapping[str, Any]) -> Response:
        """Send one request and read its answer to the end.

        Args:
            method: HTTP method.
            url: whole address.
            headers: all of them.
            content: `json`, `files` or nothing.

        Raises:
            TransportFault: `unreachable` when nothing was sent, `ambiguous` when the outcome is unknown, `too_large`.
        """
        try:
            request = self._http.build_request(method, url, headers=headers, **content)
            answer = await self._http.send(request, stream=True)
            try:
                return await self._read(answer)
            finally:
                await answer.aclose()
        except _NOT_SENT as error:
            fault = TransportFault("unreachable", connection_reason(error, urlsplit(url).hostname or ""))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            # The words of the library may hold the address or a header: only the kind of its error is told.
            fault = TransportFault(
                "ambiguous", f"the connection failed after the request was sent ({type(error).__name__})"
            )
        raise fault  # outside of the handler: no chain to an exception that holds the request

    async def _read(self, answer: httpx.Response) -> Response:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        failed = not 200 <= answer.status_code < 300
        try:
            body = await self._body(answer, headers, MAX_ERROR_BYTES if failed else self.max_response_bytes)
        except (TransportFault, httpx.HTTPError):
            if not failed:
                raise
            body = b""  # the status alone says what happened
        return Response(answer.status_code, headers, body)

    async def _body(self, answer: httpx.Response, headers: Mapping[str, str], max_bytes: int) -> bytes:
        parts, size = [], 0
        async for part in answer.aiter_raw():
            size += len(part)
            if size > max_bytes:
                raise TransportFault("too_large", f"the answer has more than {max_bytes} bytes")
            parts.append(part)
        return inflate(b"".join(parts), headers.get("content-encoding", "").strip().lower(), max_bytes)
