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
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import aiohttp.abc
import certifi
from yarl import URL

from evolvedirector.errors import UserError
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault, without_secrets
from evolvedirector.transport.proxy import Proxy, proxy_for
from evolvedirector.transport.response import Response, inflate

MAX_ERROR_BYTES = 2**20
KEEP_ALIVE_S = 4.0
"""Below the 5 s after which common servers close a quiet connection: a request must not meet that moment."""
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


def open_session(
    timeout_s: float, resolver: aiohttp.abc.AbstractResolver | None = None, proxy: Proxy | None = None
) -> aiohttp.ClientSession:
    """Make a pool of connections that adds nothing of its own: no cookie, no netrc, no unpacking.

    A request tells when it has a connection by calling what it got as `trace_request_ctx`: before that, nothing of it
    was sent, whatever went wrong with name servers, proxies and encryption.

    Args:
        timeout_s: seconds to wait for a connection or for the next bytes.
        resolver: looks names up; None for the system's.
        proxy: leads all connections; None for none.
    """
    logging.getLogger("aiohttp").setLevel(max(logging.WARNING, logging.getLogger("aiohttp").level))
    common: dict[str, Any] = {"limit": 0, "keepalive_timeout": KEEP_ALIVE_S, "ssl": trusted_certificates()}
    if proxy is not None and proxy.is_socks:
        connector = _socks_connector(proxy, common)
    else:
        connector = aiohttp.TCPConnector(
            **common,
            resolver=resolver or aiohttp.ThreadedResolver(),
            use_dns_cache=resolver is None,  # what looks names up itself decides anew for each connection
        )
    told = aiohttp.TraceConfig()
    told.on_connection_create_end.append(_tell_connected)
    told.on_connection_reuseconn.append(_tell_connected)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # `inflate` does, without ever holding more than allowed
        trust_env=False,
        proxy=None if proxy is None or proxy.is_socks else URL(proxy.url, encoded=True),
        trace_configs=[told],
        # `connect` bounds what `sock_connect` does not: the words with a proxy, and encryption
        timeout=aiohttp.ClientTimeout(total=None, connect=timeout_s, sock_connect=timeout_s, sock_read=timeout_s),
    )


def _socks_connector(proxy: Proxy, common: Mapping[str, Any]) -> aiohttp.TCPConnector:
    from aiohttp_socks import ProxyConnector, ProxyType  # optional; `read_proxy` has seen that it is there

    kind = ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else ProxyType.SOCKS5
    who: dict[str, Any] = {} if proxy.user is None else {"username": proxy.user, "password": proxy.password or ""}
    return ProxyConnector(proxy.host, proxy.port, kind, **who, rdns=proxy.looks_names_up, **common)


async def _tell_connected(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx()


class Connection:
    """Keep connections to one service open and send requests over them; made within a running event loop.

    Args:
        endpoint: service and timeouts.
        max_response_bytes: longer answers are cut off and refused.
    """

    def __init__(self, endpoint: Endpoint, max_response_bytes: int) -> None:
        self.max_response_bytes = max_response_bytes
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None
        self._proxy: Proxy | None = None

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        connected: Callable[[], None] = lambda: None,
    ) -> Response:
        """Send one request and read its answer to the end; redirects are answers like others.

        Args:
            method: HTTP method.
            url: whole address.
            headers: all of them but Host and Content-Length.
            body: None for none.
            connected: called when there is a connection: from then on something may have been sent.

        Raises:
            TransportFault: `unreachable` when nothing was sent, `ambiguous` when the outcome is unknown, `too_large`.
        """
        session, host = self._opened(), urlsplit(url).hostname or ""
        sent: list[bool] = []

        def tell() -> None:
            sent.append(True)
            connected()

        data = io.BytesIO(body) if body is not None and len(body) > _LARGE_BODY_BYTES else body
        try:
            async with session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=data,
                allow_redirects=False,
                trace_request_ctx=tell,
            ) as answer:
                if answer.status != 407:
                    return await self._read(answer)
                # of a proxy that reads plain http: a service itself never asks for this
                fault = TransportFault("unreachable", f"{host} cannot be reached: {self._proxy} {_WANTS_A_NAME}")
        except TransportFault:
            raise
        except Exception as error:
            if sent and not isinstance(error, BROKEN):
                raise
            fault = connection_fault(error, host, self._proxy, bool(sent))
        raise fault  # outside of the handler: no chain to an exception that holds the request

    def _opened(self) -> aiohttp.ClientSession:
        """Open the pool with the first request: a proxy that cannot be used is a fault of each one."""
        if self._session is None:
            self._proxy = proxy_of(self._endpoint)
            self._session = open_session(self._endpoint.timeout_s, proxy=self._proxy)
        return self._session

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


_WANTS_A_NAME = (
    "answered 407: it wants a user name and a password that it accepts. Write them in front of its host, as "
    "http://NAME:PASSWORD@HOST:PORT"
)


def proxy_of(endpoint: Endpoint) -> Proxy | None:
    """Find the proxy for a service; one on this machine is never asked through a proxy.

    Args:
        endpoint: the service.

    Raises:
        TransportFault: `unreachable`, for good, where the environment names a proxy that cannot be used.
    """
    return None if endpoint.is_loopback else usable_proxy(endpoint.base_url)


def usable_proxy(url: str) -> Proxy | None:
    """Find the proxy for an address.

    Args:
        url: whole address.

    Raises:
        TransportFault: `unreachable`, for good, where the environment names a proxy that cannot be used.
    """
    try:
        return proxy_for(url)
    except UserError as error:
        raise TransportFault("unreachable", str(error), lasting=True) from None


def connection_fault(error: BaseException, host: str, proxy: Proxy | None, sent: bool) -> TransportFault:
    """Turn what the network library raised into a fault.

    The words of the library may hold the address, a header or a password: only the kind of its error is told.

    Args:
        error: what it raised.
        host: where the request should have gone.
        proxy: through which; None for none.
        sent: there was a connection, so the request may have arrived.
    """
    if sent:
        by = f" through {proxy}" if proxy is not None else ""
        kind = type(error).__name__
        return TransportFault("ambiguous", f"the connection{by} failed after the request was sent ({kind})")
    if proxy is None:
        return TransportFault("unreachable", connection_reason(error, host))
    return TransportFault("unreachable", f"{host} cannot be reached: {_proxy_reason(error, proxy)}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        # that class is a certificate error by name, and holds the real one
        yield error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
        error = error.__cause__ or error.__context__


def _proxy_reason(error: BaseException, proxy: Proxy) -> str:
    """Say what a proxy did in place of connecting."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"{proxy} {_WANTS_A_NAME if error.status == 407 else f'answered {error.status} and did not connect'}"
    for seen in _causes(error):
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"a certificate behind {proxy} is not trusted ({seen.verify_message})"
        if isinstance(seen, ssl.SSLError):
            return f"encryption failed behind {proxy}; is it really {_kind(proxy)}?"
        if isinstance(seen, socket.gaierror):
            whose = "its name" if proxy.looks_names_up else "its name, or that of the service,"
            return f"{proxy} cannot be reached: {whose} is unknown"
        if isinstance(seen, ConnectionRefusedError):
            return f"{proxy} refused the connection; is it running, and the port right?"
        if isinstance(seen, TimeoutError) or "Timeout" in type(seen).__name__:
            return f"{proxy} did not connect in time"
        if type(seen).__name__ == "ProxyError":  # of the SOCKS library: what the proxy answered
            return f"{proxy} did not connect ({without_secrets(str(seen), [proxy.password or ''])[:100]})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{proxy} cannot be reached: no connection"
    return f"{proxy} broke the connection off before anything was sent; is it really {_kind(proxy)}?"


def _kind(proxy: Proxy) -> str:
    return {"http": "an HTTP", "https": "an HTTPS"}.get(proxy.scheme, f"a {proxy.scheme[:6].upper()}") + " proxy"


def connection_reason(error: BaseException, host: str) -> str:
    """Say why nothing could be sent to a host.

    Args:
        error: what the network library raised; its causes are searched for the operating system's own.
        host: where it should have gone.
    """
    why = "no connection"
    for seen in _causes(error):
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
    return f"{host} cannot be reached: {why}"
