"""Ask one remote service: limits, retries, one total deadline, and every failure as a `TransportFault`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urljoin

from evolvedirector.store.images import MAX_IMAGE_BYTES
from evolvedirector.transport.answer_fault import fault_of
from evolvedirector.transport.api_key import read_key
from evolvedirector.transport.breaker import breaker_of
from evolvedirector.transport.connection import Connection, json_body, multipart, proxy_of
from evolvedirector.transport.deadline import Work, end_of_work, ends_at
from evolvedirector.transport.download import Downloads
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.key_limits import wait_for_slot_s
from evolvedirector.transport.response import Response
from evolvedirector.transport.url_guard import service_url
from evolvedirector.transport.waiting import backoff_s, spread_s

Value = TypeVar("Value")

MAX_RESPONSE_BYTES = 64 * 2**20
"""An image of 32 MiB in base64, and some."""
_SAFE_METHODS = ("GET", "HEAD")


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
        self._connection: Connection | None = None
        self._downloads: Downloads | None = None
        self._breaker = breaker_of(endpoint)
        self._slots = asyncio.Semaphore(endpoint.max_in_flight)

    async def __aenter__(self) -> Client:
        """Open the connection pools."""
        self._connection = Connection(self.endpoint, self.max_response_bytes)
        self._downloads = Downloads(self.endpoint.host if self.endpoint.is_loopback else None, self.endpoint.timeout_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        connection, downloads = _opened(self._connection), _opened(self._downloads)
        self._connection = self._downloads = None
        try:
            await connection.aclose()
        finally:  # the caller may lose patience in the middle of the first
            await downloads.aclose()

    def give_up_at(self) -> float:
        """Say when work that starts now must end, on the monotonic clock; inside of `ends_at`, no later than that."""
        return min(time.monotonic() + self.endpoint.deadline_s, end_of_work())

    def check_environment(self) -> None:
        """See that the key can be read from the environment, and that a proxy that it names can be used.

        Raises:
            TransportFault: with what to set.
        """
        read_key(self.endpoint)
        proxy_of(self.endpoint)

    async def request_json(
        self,
        method: str,
        path_or_url: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        give_up_at: float | None = None,
        allowed_hosts: Sequence[str] = (),
        accept: Callable[[Response], bool] | None = None,
        read: Callable[[Response], Any] = Response.json,
    ) -> Any:
        """Send one request and return the parsed JSON of its answer.

        Args:
            method: HTTP method; GET is always repeated when its outcome is unknown, others as the endpoint allows.
            path_or_url: appended to the base URL, or a whole address of the same service or an allowed host.
            body: sent as JSON; None for none.
            headers: added to ours.
            idempotency_key: names the work, so that the service may recognise a repetition; None draws one.
            give_up_at: monotonic time at which this must end; None: the endpoint's deadline from now.
            allowed_hosts: further hosts that the key may be sent to (regional polling addresses).
            accept: says of an answer outside of 200-299 that it is a refusal of this one request: it comes back as
                `{"error": {"code": ..., "message": ...}}` instead of being retried or raised.
            read: makes the returned value of an answer with status 200 to 299; a fault that it raises is treated as
                one of the request.

        Raises:
            TransportFault: no usable answer.
        """
        content = json_body(body)

        def parsed(response: Response) -> Any:
            if 200 <= response.status < 300:
                return read(response)
            code, message, _ = response.error()
            return {"error": {"code": code, "message": message}}

        attempt = self._attempt(
            method,
            path_or_url,
            content,
            headers,
            idempotency_key,
            allowed_hosts,
            accept,
            parsed,
        )
        return await self._until_it_works(attempt, give_up_at, self.endpoint.idempotent or method in _SAFE_METHODS)

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
            method: HTTP method; GET is always repeated when its outcome is unknown, others as the endpoint allows.
            path_or_url: appended to the base URL, or a whole address of the same service or an allowed host.
            body: sent as JSON; None for none.
            form: sent as multipart fields instead.
            headers: added to ours.
            idempotency_key: names the work, so that the service may recognise a repetition; None draws one.
            give_up_at: monotonic time at which this must end; None: the endpoint's deadline from now.
            allowed_hosts: further hosts that the key may be sent to (regional polling addresses).
            accept: says of an answer outside of 200-299 that the caller reads it (a refusal behind a 403, say):
                it is returned instead of being retried or raised.

        Raises:
            TransportFault: no usable answer.
        """
        content = json_body(body) if form is None else multipart(form)
        attempt = self._attempt(method, path_or_url, content, headers, idempotency_key, allowed_hosts, accept, _whole)
        return await self._until_it_works(attempt, give_up_at, self.endpoint.idempotent or method in _SAFE_METHODS)

    async def download(
        self,
        url: str,
        allowed_hosts: Sequence[str] = (),
        give_up_at: float | None = None,
        max_bytes: int = MAX_IMAGE_BYTES,
    ) -> bytes:
        """Fetch a result from a URL that the service handed out, without our key, from allowed public hosts only.

        Args:
            url: https; plain http only back to an endpoint on this machine; a path is one of the endpoint.
            allowed_hosts: exact names or `*.example.com`.
            give_up_at: monotonic time at which this must end; None: the endpoint's deadline from now.
            max_bytes: more is refused.

        Raises:
            TransportFault: no bytes.
        """
        downloads = _opened(self._downloads)
        if url.startswith("/"):  # a path of the service itself
            url = urljoin(self.endpoint.base_url, url)

        async def attempt(_: Work) -> bytes:
            return await downloads.fetch(url, allowed_hosts, max_bytes)

        return await self._until_it_works(attempt, give_up_at, True)

    def _attempt(
        self,
        method: str,
        path_or_url: str,
        content: tuple[str, bytes] | None,
        headers: Mapping[str, str] | None,
        idempotency_key: str | None,
        allowed_hosts: Sequence[str],
        accept: Callable[[Response], bool] | None,
        read: Callable[[Response], Value],
    ) -> Callable[[Work], Awaitable[Value]]:
        """Make the function that tries once: within the limits, noting whether money may have gone."""
        url = service_url(self.endpoint.base_url, path_or_url, allowed_hosts)
        ours = {"User-Agent": "evolvedirector", "Accept": "*/*", "Accept-Encoding": "identity"}
        if content is not None:
            ours["Content-Type"] = content[0]
        named = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}

        async def attempt(work: Work) -> Value:
            key = read_key(self.endpoint)
            self._breaker.check(key)
            where = self.endpoint
            await asyncio.sleep(wait_for_slot_s(where.base_url, key, where.requests_per_minute))
            async with self._slots:
                self._breaker.check(key)
                before = work.maybe_paid

                def connected() -> None:
                    work.maybe_paid = work.maybe_paid or method not in _SAFE_METHODS

                auth = {self.auth_header: f"{self.auth_scheme} {key}".strip()} if key else {}
                try:
                    sent = {**ours, **(headers or {}), **named, **auth}
                    connection = _opened(self._connection)
                    response = await connection.send(method, url, sent, content and content[1], connected)
                except TransportFault as fault:
                    if fault.kind == "unreachable":
                        work.maybe_paid = before
                    raise
            if not 200 <= response.status < 300:
                work.maybe_paid = before
                if accept is None or not accept(response):
                    refused = fault_of(response, where, key, where.idempotent or method in _SAFE_METHODS)
                    if refused.kind == "denied":
                        self._breaker.trip(refused, key)
                    raise refused
            value = read(response)
            work.maybe_paid = before
            return value

        return attempt

    async def _until_it_works(
        self, attempt: Callable[[Work], Awaitable[Value]], give_up_at: float | None, repeat_unknown: bool
    ) -> Value:
        """Try until it works, a fault is final, the tries are used up, or the next wait would lead past the end."""
        end = min(give_up_at or self.give_up_at(), end_of_work())
        number = 0
        async with ends_at(end) as work:
            while True:
                try:
                    return await attempt(work)
                except TransportFault as fault:
                    number += 1
                    fault.maybe_paid |= work.maybe_paid
                    retried = fault.kind in ("busy", "unreachable") or (fault.kind == "ambiguous" and repeat_unknown)
                    wait = backoff_s(number - 1) if fault.wait_s is None else fault.wait_s + spread_s(fault.wait_s)
                    if (
                        not retried
                        or fault.lasting
                        or number >= self.endpoint.attempts
                        or time.monotonic() + wait >= end
                    ):
                        raise
                await asyncio.sleep(wait)
        raise AssertionError  # the loop above ends by `return` or `raise`


def _whole(response: Response) -> Response:
    return response


def _opened(pool: Value | None) -> Value:
    if pool is None:
        raise RuntimeError("The client is not open. Use it with `async with`.")
    return pool
