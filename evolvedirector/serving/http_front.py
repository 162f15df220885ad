"""The sockets of a small JSON service: bounded connections, bounded bodies, bounded waiting.

Not aiohttp.web: a teacher blocks while it draws, and one thread per connection lets it, without a second event loop.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from evolvedirector.serving.images_protocol import MAX_BODY_BYTES, Answer, CallRefused

MAX_CONNECTIONS = 256
READ_S = 30.0
"""Seconds in which a call must have been sent, and an idle connection is kept."""
AnswerCall = Callable[[str, str, Message, bytes], Answer]
"""From method, path without query, headers and body."""


class HttpFront(ThreadingHTTPServer):
    """Answer calls, one thread per connection.

    Args:
        address: Host and port.
        handler: Reads and writes one connection.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.calls: Counter[str] = Counter()
        """Answers to POST by status."""
        self._lock = threading.Lock()
        self._busy = 0
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.answer_call: AnswerCall
        super().__init__(address, handler)

    @classmethod
    def open(cls, host: str, port: int, answer_call: AnswerCall) -> HttpFront:
        """Open the port.

        Args:
            host: Address to listen on.
            port: 0 takes any that is free.
            answer_call: Answers a call, or raises `CallRefused`.

        Raises:
            ValueError: The port cannot be opened.
        """
        try:
            front = cls((host, port), _Connection)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"'{host}' with port {port} cannot be listened on ({reason}). Allowed are an address of this machine "
                "and a port that no other program uses. Write --port 0 to take one that is free."
            ) from error
        front.answer_call = answer_call
        return front

    def answer(self, method: str, path: str, headers: Message, body: bytes) -> Answer:
        """Answer one call; an error of the protocol is an answer too."""
        try:
            answer = self.answer_call(method, path, headers, body)
        except CallRefused as refused:
            answer = refused.answer()
        if method == "POST":
            with self._lock:
                self.calls[f"answered {answer.status}"] += 1
        return answer

    def busy(self, change: int) -> None:
        """Count calls that are being answered."""
        with self._lock:
            self._busy += change

    def wait_idle(self, seconds: float) -> None:
        """Wait until no call is being answered any more, at most so long."""
        until = time.monotonic() + seconds
        while self._busy and time.monotonic() < until:
            time.sleep(0.02)

    def server_bind(self) -> None:
        """Bind without asking for this machine's full name, which can take seconds where no name server answers."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Turn a connection away when there are too many."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection and give its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay quiet about a connection that was cut."""


class _Connection(BaseHTTPRequestHandler):
    server: HttpFront
    server_version, sys_version, protocol_version = "evolvedirector", "", "HTTP/1.1"
    timeout = READ_S
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer a question."""
        self._handle()

    def do_POST(self) -> None:
        """Read the body, then answer."""
        self._handle()

    def _handle(self) -> None:
        self.server.busy(1)
        try:
            body = self._body() if self.command == "POST" else b""
            self._send(self.server.answer(self.command, self.path.partition("?")[0], self.headers, body))
        except CallRefused as refused:
            self.close_connection = True  # the body, or what is left of it, was not read
            self._send(refused.answer())
        finally:
            self.server.busy(-1)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,12}", length):
            raise CallRefused(411, "length_required", "A Content-Length is needed.")
        if int(length) > MAX_BODY_BYTES:
            raise CallRefused(413, "too_large", f"A body has at most {MAX_BODY_BYTES} bytes.")
        body, until = b"", time.monotonic() + READ_S
        while len(body) < int(length):
            missing = int(length) - len(body)
            part = self.rfile.read1(missing) if time.monotonic() < until else b""  # type: ignore[attr-defined]
            if not part:
                raise CallRefused(408, "timeout", "The body did not arrive whole.")
            body += part
        return body

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(answer.body)), **answer.headers}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in {**headers, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet: counts are told at the end."""
