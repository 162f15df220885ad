"""One request on the wire, once: what comes back whole is a `Response`, everything else a `TransportFault`."""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import secrets
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import aiohttp.abc
import certifi
from yarl import URL

from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.response import Response, inflate

MAX_ERROR_BYTES = 2**20
KEEP_ALIVE_S = 4.0
"""Below the 5 s after which common servers close a quiet connection: a request must not meet that moment."""
NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
BROKEN = (aiohttp.ClientError, TimeoutError, OSError)
_LARGE_BODY_BYTES = 2**20
"""The HTTP library sends more only from a file, piece by piece, so that the loop goes on meanwhile."""


@functools.cache
def trusted_certificates() -> ssl.SSLContext:
    """Load the certificates that are trusted, once per process: it takes longer than many a request.

    `SSL_CERT_FILE` and `SSL_CERT_DIR` name those of a company's own network, as everywhere else.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    return ssl.create_default_context(cafile=file or (None if folder else certifi.where()), capath=folder)


def proxy_for(url: str) -> dict[str, Any]:
    """Return the arguments that lead a request through the proxy that the environment names; none where it names none.

    Args:
        url: whole address.
    """
    parts = urlsplit(url)
    address = urllib.request.getproxies().get(parts.scheme)
    if address is None or urllib.request.proxy_bypass(parts.hostname or ""):
        return {}
    return {"proxy": address if "://" in address else f"http://{address}"}  # with its user name and password


def open_session(timeout_s: float, resolver: aiohttp.abc.AbstractResolver | None = None) -> aiohttp.ClientSession:
    """Make a pool of connections that adds nothing of its own: no cookie, no netrc, no proxy, no unpacking.

    Args:
        timeout_s: seconds to wait for a connection or for the next bytes.
        resolver: looks names up; None for the system's.
    """
    logging.getLogger("aiohttp").setLevel(max(logging.WARNING, logging.getLogger("aiohttp").level))
    connector = aiohttp.TCPConnector(
        limit=0,
        keepalive_timeout=KEEP_ALIVE_S,
        ssl=trusted_certificates(),
        resolver=resolver or aiohttp.ThreadedResolver(),
        use_dns_cache=resolver is None,  # what looks names up itself decides anew for each connection
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # `inflate` does, without ever holding more than allowed
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s),
    )


class Connection:
    """Keep connections to one service open and send requests over them; made within a running event loop.

    Args:
        endpoint: service and timeouts.
        max_response_bytes: longer answers are cut off and refused.
    """

    def __init__(self, endpoint: Endpoint, max_response_bytes: int) -> None:
        self.max_response_bytes = max_response_bytes
        self._session = open_session(endpoint.timeout_s)
        # A proxy of the environment must not catch loopback.
        self._through = {} if endpoint.is_loopback else proxy_for(endpoint.base_url)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()

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
        data = io.BytesIO(body) if body is not None and len(body) > _LARGE_BODY_BYTES else body
        try:
            async with self._session.request(
                method, URL(url, encoded=True), headers=headers, data=data, allow_redirects=False, **self._through
            ) as answer:
                return await self._read(answer)
        except NOT_SENT as error:
            fault = TransportFault("unreachable", connection_reason(error, urlsplit(url).hostname or ""))
        except BROKEN as error:
            # The words of the library may hold the address or a header: only the kind of its error is told.
            fault = TransportFault(
                "ambiguous", f"the connection failed after the request was sent ({type(error).__name__})"
            )
        raise fault  # outside of the handler: no chain to an exception that holds the request

    async def _read(self, answer: aiohttp.ClientResponse) -> Response:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        failed = not 200 <= answer.status < 300
        try:
            body = await read_body(answer, headers, MAX_ERROR_BYTES if failed else self.max_response_bytes)
        except (TransportFault, *BROKEN):
            answer.close()  # what is left of the body would be taken for the next answer
            if not failed:
                raise
            body = b""  # the status alone says what happened
        return Response(answer.status, headers, body)


async def read_body(answer: aiohttp.ClientResponse, headers: Mapping[str, str], max_bytes: int) -> bytes:
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
    async for part in answer.content.iter_any():
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


def connection_reason(error: BaseException, host: str) -> str:
    """Say why nothing could be sent to a host.

    Args:
        error: what the network library raised; its causes are searched for the operating system's own.
        host: where it should have gone.
    """
    seen: BaseException | None = error
    why = "no connection"
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted ({seen.verify_message})"
            break
        if isinstance(seen, ssl.SSLError):
            why = "encryption failed; is it really an https address?"
            break
        if isinstance(seen, socket.gaierror):
            why = "its name is unknown"
            break
        if isinstance(seen, ConnectionRefusedError):
            why = "it refused the connection; is the server running, and the port right?"
            break
        if isinstance(seen, TimeoutError) or "Timeout" in type(seen).__name__:
            why = "it did not take the connection in time"
        elif "Proxy" in type(seen).__name__:
            why = "the proxy of the environment would not connect"
        seen = seen.__cause__ or seen.__context__
    return f"{host} cannot be reached: {why}"
