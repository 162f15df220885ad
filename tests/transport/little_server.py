"""An HTTP server on loopback whose every answer a test writes itself, misbehaviour included."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Asked:
    """One request as it arrived."""

    number: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What is sent back, and how badly."""

    status: int = 200
    body: bytes | dict | list = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut_after: int | None = None
    """Bytes of the body after which the connection is closed; -1 closes it before any answer."""
    drip_s: float = 0.0
    """Seconds between single bytes of the body."""


class LittleServer:
    """Answer each request with what `play` says; remember what was asked and how many at a time."""

    def __init__(self, play: Callable[[Asked], Answer]) -> None:
        self.play, self.asked, self.open_now, self.most_open = play, [], 0, 0
        self.port = 0
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().rstrip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, target, _ = first.split(" ")
                asked = Asked(len(self.asked), method, target, headers, body)
                self.asked.append(asked)
                self.open_now += 1
                self.most_open = max(self.most_open, self.open_now)
                try:
                    answer = self.play(asked)
                    await asyncio.sleep(answer.delay_s)
                finally:
                    self.open_now -= 1
                if not await self._send(writer, answer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, answer: Answer) -> bool:
        if answer.cut_after == -1:
            return False
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        headers = {"Content-Length": str(len(body)), **answer.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {answer.status} Word\r\n{head}\r\n".encode())
        if answer.drip_s:
            for number in range(len(body)):
                writer.write(body[number : number + 1])
                await writer.drain()
                await asyncio.sleep(answer.drip_s)
        else:
            writer.write(body[: answer.cut_after])
        await writer.drain()
        return answer.cut_after is None

    def run(self, ready: threading.Event) -> None:
        self.loop = asyncio.new_event_loop()
        server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self.loop.run_forever()
        self.loop.run_until_complete(self._end(server))
        self.loop.close()

    async def _end(self, server: asyncio.Server) -> None:
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()


@contextmanager
def serving(play: Callable[[Asked], Answer]) -> Iterator[LittleServer]:
    """Serve on a free port of loopback until the block ends."""
    server, ready = LittleServer(play), threading.Event()
    thread = threading.Thread(target=server.run, args=(ready,), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(server.loop.stop)
        thread.join(20)
