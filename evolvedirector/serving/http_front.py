"""The sockets of a small JSON service, on aiohttp: bounded connections, bounded bodies, bounded waiting."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import time
from asyncio import BaseTransport
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web

from evolvedirector.errors import UserError
from evolvedirector.serving.images_protocol import MAX_BODY_BYTES, Answer, CallRefused

MAX_CONNECTIONS = 256
READ_S = 30.0
"""Seconds in which a call must have been sent, and an idle connection is kept."""
_SWEEP_S = 1.0
_FAREWELL_S = 5.0
"""Seconds in which the last answers are written at the end."""
_SILENT = logging.getLogger("evolvedirector.serving.silent")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False  # what clients send stays out of logs; counts are told at the end
AnswerCall = Callable[[web.Request, Callable[[], Awaitable[bytes]]], Awaitable[Answer]]
"""From a request and what reads its body."""


class HttpFront:
    """Answer calls on an event loop in a thread of its own.

    Args:
        host: Address to listen on.
        port: 0 takes any that is free.
        answer_call: Answers a call, or raises `CallRefused`.

    Raises:
        UserError: The port cannot be opened.
    """

    def __init__(self, host: str, port: int, answer_call: AnswerCall) -> None:
        try:
            if not 0 <= port <= 65535:
                raise OverflowError("a port is 0 to 65535")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=128)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UserError(
                f"'{host}' with port {port} cannot be listened on ({reason}). Allowed are an address of this machine "
                "and a port that no other program uses. Write --port 0 to take one that is free."
            ) from error
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self.calls: Counter[str] = Counter()
        """Answers to POST by status."""
        self._answer_call = answer_call
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()
        self._server: web.Server
        self._busy: Counter[object] = Counter()
        """Calls that are being answered, by connection."""
        self._quiet: dict[object, float] = {}
        """Since when nothing was answered on a connection, on the monotonic clock."""

    def start(self) -> None:
        """Begin to answer."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write the last answers, then close all connections."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()
        self._socket.close()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # ends what is left of connections that were cut
            runner.run(self._serve(loop))

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{anything:.*}", self._handle, expect_handler=_expect)
        quiet: dict[str, Any] = {"access_log": None, "logger": _SILENT}
        runner = web.AppRunner(app, keepalive_timeout=READ_S, shutdown_timeout=0.1, **quiet)
        await runner.setup()
        self._server = cast(web.Server, runner.server)
        listening = await loop.create_server(self._connect, sock=self._socket, backlog=128)
        sweeping = asyncio.ensure_future(self._sweep())
        await self._ended.wait()
        until = time.monotonic() + _FAREWELL_S
        while self._busy and time.monotonic() < until:
            await asyncio.sleep(0.02)
        listening.close()
        sweeping.cancel()
        await runner.cleanup()

    def _connect(self) -> asyncio.BaseProtocol:
        """Take a connection, or turn it away when there are too many."""
        return self._server() if len(self._server.connections) < MAX_CONNECTIONS else _TurnedAway()

    async def _sweep(self) -> None:
        """Close connections that send nothing, or too slowly: the library waits for a request's head for ever."""
        while True:
            await asyncio.sleep(min(_SWEEP_S, READ_S / 4))
            now = time.monotonic()
            waiting = [each for each in self._server.connections if each not in self._busy]
            self._quiet = {each: self._quiet.get(each, now) for each in waiting}
            for each in waiting:
                if now - self._quiet[each] > READ_S:
                    each.force_close()

    async def _handle(self, request: web.Request) -> web.Response:
        connection = request.protocol
        self._busy[connection] += 1
        self._quiet.pop(connection, None)
        try:
            answer = await self._answer(request)
        finally:
            self._busy -= Counter({connection: 1})
        if request.method == "POST":
            self.calls[f"answered {answer.status}"] += 1
        kept = {"Server": "evolvedirector", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        headers = {**kept, **answer.headers, "Content-Type": "application/json"}
        response = web.Response(status=answer.status, body=answer.body, headers=headers)
        if answer.status in (408, 413):
            response.force_close()  # the body, or what is left of it, was not read
        return response

    async def _answer(self, request: web.Request) -> Answer:
        """Answer one call; an error of the protocol is an answer too."""
        try:
            return await self._answer_call(request, lambda: _body(request))
        except CallRefused as refused:
            return refused.answer()
        except ConnectionError:
            raise
        except Exception as error:
            print(f"A call ended in an error: {type(error).__name__}", file=sys.stderr, flush=True)
            return CallRefused(500, "internal_error", "The server failed; it has printed why.").answer()


class _TurnedAway(asyncio.Protocol):
    """A connection beyond the limit: closed at once."""

    def connection_made(self, transport: BaseTransport) -> None:
        transport.close()


async def _body(request: web.Request) -> bytes:
    """Read a body, of a stated length or in chunks."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise _too_large()
    try:
        async with asyncio.timeout(READ_S):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _too_large() from None
    except TimeoutError:
        raise CallRefused(408, "timeout", "The body did not arrive whole.") from None
    except (web.RequestPayloadError, ValueError):
        raise CallRefused(400, "invalid_body", "The body is not what its headers say.") from None


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Ask for the body that a client holds back (`Expect: 100-continue`), unless it is too large anyway."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        refused = CallRefused(417, "expectation_failed", "Expect can only be 100-continue.")
    elif (request.content_length or 0) > MAX_BODY_BYTES:
        refused = _too_large()
    else:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # as the library's own handler: those bytes are no part of the answer
        return None
    answer = refused.answer()
    response = web.Response(status=answer.status, body=answer.body, content_type="application/json")
    response.force_close()
    return response


def _too_large() -> CallRefused:
    return CallRefused(413, "too_large", f"A body has at most {MAX_BODY_BYTES} bytes.")
