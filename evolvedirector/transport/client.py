"""Ask one remote service: limits, retries, one total deadline, and every failure as a `TransportFault`."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import httpx

from evolvedirector.transport.connection_words import connection_reason
from evolvedirector.transport.download import Downloads
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault, without_secrets
from evolvedirector.transport.key_limits import KeyLimits, key_limits
from evolvedirector.transport.response import Response, inflate
from evolvedirector.transport.url_guard import check_url
from evolvedirector.transport.waiting import asked_wait_s, backoff_s, spread_s

Value = TypeVar("Value")

MAX_RESPONSE_BYTES = 64 * 2**20
"""An image of 32 MiB in base64, and some."""
RETRIED = frozenset({408, 409, 425, 429})
DENIED = frozenset({401, 402, 403})
NO_CREDIT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_USER_AGENT = "evolvedirector"


class Client:
    """Send requests to one endpoint over shared connections; use it with `async with`.

    Retries are a loop of our own: the usual retry package logs the arguments of what it retries (keys and prompts),
    and ends between tries only, while here one deadline covers waits, tries and slow bodies alike.

    Args:
        endpoint: service and limits.
        auth_header: header that carries the key.
        auth_scheme: word before the key; empty for none.
        max_response_bytes: longer answers are cut off and refused.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        auth_header: str = "Authorization",
        auth_scheme: str = "Bearer",
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self.endpoint = endpoint
        self.auth_header, self.auth_scheme = auth_header, auth_scheme
        self.max_response_bytes = max_response_bytes
        self._http: httpx.AsyncClient | None = None
        self._downloads: Downloads | None = None
        self._slots = asyncio.Semaphore(endpoint.max_in_flight)

    async def __aenter__(self) -> Client:
        """Open the connection pool."""
        for name in ("httpx", "httpcore"):  # they log addresses and headers, signed URLs included
            logging.getLogger(name).setLevel(logging.WARNING)
        limit = httpx.Limits(max_connections=self.endpoint.max_in_flight, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(
            timeout=self.endpoint.timeout_s,
            limits=limit,
            follow_redirects=False,
            trust_env=not self.endpoint.is_loopback,  # a proxy of the environment must not catch loopback
        )
        self._downloads = Downloads(self.endpoint.host if self.endpoint.is_loopback else None, self.endpoint.timeout_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.aclose()
        if self._downloads is not None:
            await self._downloads.aclose()

    def give_up_at(self) -> float:
        """Say when work that starts now must end, on the monotonic clock; hand it to every request of that work."""
        return time.monotonic() + self.endpoint.deadline_s

    def deny(self, fault: TransportFault) -> None:
        """Let every later request with this key fail at once, for answers that only their reader can judge."""
        self._limits(self._key()).deny(fault)

    async def request_json(
        self,
        method: str,
        path_or_url: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        give_up_at: float | None = None,
        allowed_hosts: Sequence[str] = (),
    ) -> Any:
        """Send one request and return the parsed JSON of its answer.

        Args:
            method: HTTP method; GET is always repeated when its outcome is unknown, others as the endpoint allows.
            path_or_url: appended to the base URL, or a whole address of the same service or an allowed host.
            body: sent as JSON; None for none.
            headers: added to ours.
            idempotency_key: names the work, so that the service may recognise a repetition; None draws one.
            give_up_at: monotonic time at which the whole work ends; None: the endpoint's deadline from now.
            allowed_hosts: further hosts that the key may be sent to (regional polling addresses).

        Raises:
            TransportFault: no usable answer.
        """
        return await self._work(
            lambda response: response.json(),
            method,
            path_or_url,
            {} if body is None else {"json": body},
            headers,
            idempotency_key,
            give_up_at,
            allowed_hosts,
        )

    async def request(
        self,
        method: str,
        path_or_url: str,
        body: Any = None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        give_up_at: float | None = None,
        allowed_hosts: Sequence[str] = (),
        accept: Callable[[Response], bool] | None = None,
    ) -> Response:
        """Send one request and return its whole answer.

        Args:
            method: see `request_json`.
            path_or_url: see `request_json`.
            body: sent as JSON; None for none.
            form: sent as multipart fields instead.
            headers: see `request_json`.
            idempotency_key: see `request_json`.
            give_up_at: see `request_json`.
            allowed_hosts: see `request_json`.
            accept: says of an answer outside of 200-299 that the caller reads it (a refusal behind a 403, say):
                it is returned instead of being retried or raised.

        Raises:
            TransportFault: no usable answer.
        """
        content: dict[str, Any] = {} if body is None else {"json": body}
        if form is not None:
            content = {"files": {name: (None, value.encode()) for name, value in form.items()}}
        return await self._work(
            lambda response: response,
            method,
            path_or_url,
            content,
            headers,
            idempotency_key,
            give_up_at,
            allowed_hosts,
            accept,
        )

    async def download(
        self,
        url: str,
        allowed_hosts: Sequence[str] = (),
        give_up_at: float | None = None,
        max_bytes: int = MAX_RESPONSE_BYTES,
    ) -> bytes:
        """Fetch a result from a URL that the service handed out, without our key, from allowed public hosts only.

        Args:
            url: https; plain http only back to an endpoint on this machine.
            allowed_hosts: exact names or `*.example.com`.
            give_up_at: see `request_json`.
            max_bytes: more is refused.

        Raises:
            TransportFault: no bytes.
        """
        downloads = self._downloads
        if downloads is None:
            raise RuntimeError("The client is not open. Use it with `async with`.")
        end = self.give_up_at() if give_up_at is None else give_up_at
        async with _until(end):
            return await self._attempts(lambda: downloads.fetch(url, allowed_hosts, max_bytes), end, True)

    async def _work(
        self,
        read: Callable[[Response], Value],
        method: str,
        path_or_url: str,
        content: dict[str, Any],
        headers: Mapping[str, str] | None,
        idempotency_key: str | None,
        give_up_at: float | None,
        allowed_hosts: Sequence[str],
        accept: Callable[[Response], bool] | None = None,
    ) -> Value:
        url = self._url(path_or_url, allowed_hosts)
        all_headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **(headers or {})}
        all_headers["Idempotency-Key"] = idempotency_key or uuid.uuid4().hex
        end = self.give_up_at() if give_up_at is None else give_up_at

        async def attempt() -> Value:
            key = self._key()
            limits = self._limits(key)
            limits.check()
            await asyncio.sleep(limits.wait_s())
            async with self._slots:
                limits.check()
                response = await self._send(method, url, all_headers, content, key)
            if not 200 <= response.status < 300 and not (accept is not None and accept(response)):
                self._refuse(response, key)
            return read(response)

        async with _until(end):
            return await self._attempts(attempt, end, self.endpoint.idempotent or method in ("GET", "HEAD"))
        raise AssertionError  # `_until` raises instead of going on

    async def _attempts(self, attempt: Callable[[], Any], end: float, repeat_unknown: bool) -> Any:
        """Try until it works, the fault is final, the tries are used up or no time is left for the next wait."""
        number = 0
        while True:
            try:
                return await attempt()
            except TransportFault as fault:
                number += 1
                retried = fault.kind in ("busy", "unreachable") or (fault.kind == "ambiguous" and repeat_unknown)
                if not retried or number >= self.endpoint.attempts:
                    raise
                wait = backoff_s(number - 1) if fault.wait_s is None else fault.wait_s + spread_s(fault.wait_s)
                if time.monotonic() + wait >= end:
                    raise
            await asyncio.sleep(wait)

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], content: dict[str, Any], key: str
    ) -> Response:
        if self._http is None:
            raise RuntimeError("The client is not open. Use it with `async with`.")
        sent = dict(headers)
        if key:
            sent[self.auth_header] = f"{self.auth_scheme} {key}".strip()
        try:
            request = self._http.build_request(method, url, headers=sent, **content)
            answer = await self._http.send(request, stream=True)
            try:
                return await self._read(answer)
            finally:
                await answer.aclose()
        except _NOT_SENT as error:
            reason = connection_reason(error, urlsplit(url).hostname or "")
        except httpx.HTTPError as error:
            # The words of the library may hold the address or a header: only its kind is told.
            kind = type(error).__name__
            raise TransportFault("ambiguous", f"the connection failed after the request was sent ({kind})") from None
        raise TransportFault("unreachable", reason)

    async def _read(self, answer: httpx.Response) -> Response:
        parts, size = [], 0
        async for part in answer.aiter_raw():
            size += len(part)
            if size > self.max_response_bytes:
                raise TransportFault("too_large", f"the answer has more than {self.max_response_bytes} bytes")
            parts.append(part)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        body = inflate(b"".join(parts), headers.get("content-encoding", "").strip().lower(), self.max_response_bytes)
        return Response(answer.status_code, headers, body)

    def _refuse(self, response: Response, key: str) -> NoReturn:
        """Turn an answer outside of 200-299 into the fault it means."""
        status = response.status
        code, message, body = response.error()
        code = without_secrets(code, [key])[:80]
        where = f"{self.endpoint.host} answered {status}{f' ({code})' if code else ''}"
        if status in DENIED or code in NO_CREDIT_CODES:
            # The message is not quoted: services repeat parts of a wrong key in it.
            fault = TransportFault("denied", f"{where}: {_denial(status, code, self.endpoint)}", status, code, body)
            self._limits(key).deny(fault)
            raise fault
        words = without_secrets(message, [key])
        reason = f"{where}: {words}" if words else where
        if status in RETRIED or status >= 500:
            raise TransportFault("busy", reason, status, code, body, asked_wait_s(response.headers, response.body))
        if 300 <= status < 400:
            reason = f"{where}, a redirect, which is not followed. Write the final address as base_url"
        raise TransportFault("rejected", reason, status, code, body)

    def _url(self, path_or_url: str, allowed_hosts: Sequence[str]) -> str:
        base = self.endpoint.base_url
        if "://" not in path_or_url:
            return f"{base.rstrip('/')}/{path_or_url.lstrip('/')}"
        parts, own = urlsplit(path_or_url), urlsplit(base)
        if (parts.scheme, parts.netloc) == (own.scheme, own.netloc) and "\\" not in path_or_url:
            return path_or_url
        check_url(path_or_url, [*allowed_hosts, self.endpoint.host])
        return path_or_url

    def _limits(self, key: str) -> KeyLimits:
        return key_limits(self.endpoint.base_url, key, self.endpoint.requests_per_minute)

    def _key(self) -> str:
        return read_key(self.endpoint)


def read_key(endpoint: Endpoint) -> str:
    """Read the key of an endpoint from the environment, now.

    Args:
        endpoint: names the variable.

    Returns:
        The key, or an empty text for an endpoint without one.

    Raises:
        TransportFault: `denied` when the variable is missing or cannot be a key.
    """
    if endpoint.api_key_env is None:
        return ""
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise TransportFault(
            "denied",
            f"the environment variable {endpoint.api_key_env} is not set. Write `export {endpoint.api_key_env}=...`",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise TransportFault(
            "denied",
            f"the environment variable {endpoint.api_key_env} holds signs that no key has (spaces, line ends). "
            "Set it to the key alone",
        )
    return key


def _denial(status: int, code: str, endpoint: Endpoint) -> str:
    name = endpoint.api_key_env
    if status == 402 or code in NO_CREDIT_CODES:
        return "no credit is left"
    if status == 403:
        return "the key may not do this (permission, region or account)"
    return "api_key_env is not set, and this service wants a key" if name is None else f"the key in {name} is wrong"


class _until:
    """End what runs inside at a monotonic time, slow bodies and waits included."""

    def __init__(self, end: float) -> None:
        self._timeout = asyncio.timeout_at(asyncio.get_running_loop().time() + end - time.monotonic())

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise TransportFault("deadline", "no answer before the deadline") from None
