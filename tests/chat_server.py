"""A chat endpoint on loopback that answers as a function says, and remembers what it was asked."""

from __future__ import annotations

import base64
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from evolvedirector.transport.endpoint import Endpoint

KEY_NAME = "CHAT_TEST_KEY"
KEY = "canary-3f8a91c2d7e6"

Replies = Callable[[dict[str, Any]], tuple[int, Any]]


def completion(text: str | None, finish_reason: str = "stop", tokens: dict[str, float] | None = None, **message: Any):
    """A reply of status 200; `tokens`: probability by token of the first position."""
    logprobs = None
    if tokens:
        top = [{"token": token, "logprob": math.log(share)} for token, share in tokens.items()]
        logprobs = {"content": [{**top[0], "top_logprobs": top}]}
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
    return 200, {"id": "1", "choices": [{**choice, "logprobs": logprobs}]}


def error(status: int, message: str, code: str = "invalid_request_error") -> tuple[int, Any]:
    return status, {"error": {"message": message, "code": code}}


class ChatServer:
    def __init__(self, reply: Replies, models: object) -> None:
        self.reply, self.models = reply, models
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.base_url = ""

    def endpoint(self, **options: Any) -> Endpoint:
        options = {"attempts": 2, "timeout_s": 60.0, "deadline_s": 120.0, "max_in_flight": 1, **options}
        return Endpoint(self.base_url, **options)

    def texts(self) -> list[str]:
        """The words of each request's last part."""
        contents = [body["messages"][-1]["content"] for body in self.asked]
        return [content if isinstance(content, str) else content[-1]["text"] for content in contents]


def images_of(body: dict[str, Any]) -> list[bytes]:
    parts = [part for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    urls = [part["image_url"]["url"] for part in parts]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [base64.b64decode(url.split(",", 1)[1], validate=True) for url in urls]


@contextmanager
def chat_server(reply: Replies, models: object = ("judge",)) -> Iterator[ChatServer]:
    """Serve until the block ends. `models`: names, or a whole reply; None: there is no such path."""
    chat = ChatServer(reply, models)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            chat.keys.append(self.headers.get("Authorization", ""))
            if chat.models is None or self.path != "/v1/models":
                self.send(404, {"error": {"message": "no such path"}})
            elif isinstance(chat.models, tuple) and isinstance(chat.models[0], int):
                self.send(*chat.models)
            else:
                names = chat.models if isinstance(chat.models, tuple) else ()
                self.send(200, {"data": [{"id": name} for name in names]} if names else chat.models)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            chat.keys.append(self.headers.get("Authorization", ""))
            if self.path != "/v1/chat/completions":
                self.send(404, {"error": {"message": "no such path"}})
            elif not body:
                self.send(400, {"error": {"message": "you must provide a model parameter"}})
            else:
                chat.asked.append(body)
                self.send(*chat.reply(body))

        def send(self, status: int, answer: Any) -> None:
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    server = Server(("127.0.0.1", 0), Handler)
    chat.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
