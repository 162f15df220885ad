"""Serve any teacher under the OpenAI Images protocol, on this machine or for a team."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import web

from evolvedirector.errors import UserError
from evolvedirector.serving.http_front import HttpFront
from evolvedirector.serving.images_protocol import Answer, CallLimits, CallRefused, models_answer, parse_call
from evolvedirector.serving.kept_answers import KeptAnswers
from evolvedirector.serving.micro_batches import MicroBatches
from evolvedirector.teachers.teacher import Teacher

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_THIS_MACHINE = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_IMAGES, _MODELS, _HEALTH = "/v1/images/generations", "/v1/models", "/health"
_METHODS = {_IMAGES: "POST", _MODELS: "GET", _HEALTH: "GET"}


class TeacherServer:
    """Serve a teacher: `POST /v1/images/generations`, `GET /v1/models`, `GET /health`.

    Every client that speaks the OpenAI Images protocol can use it, `OpenAIImagesTeacher` among them, so several runs
    share one GPU. Calls that arrive together are drawn together; a repeated `Idempotency-Key` gets the same answer
    without drawing again; a refusal of the teacher is 400 `content_policy_violation`, a failure 502, too many or late
    calls 503. It is also a context manager.
    """

    def __init__(
        self,
        teacher: Teacher,
        model: str = "teacher",
        host: str = "127.0.0.1",
        port: int = 0,
        api_key_env: str | None = None,
        batch_size: int = 8,
        limits: CallLimits = CallLimits(),  # noqa: B008 - frozen
        timeout_s: float = 600.0,
    ) -> None:
        """Open the port; nothing is answered before `start`.

        Args:
            teacher: Draws; it is called from one thread only, and closed at the end.
            model: Name under which clients ask for it.
            host: Address to listen on; the default is reached from this machine only.
            port: 0 takes any that is free.
            api_key_env: Environment variable with the key that clients must send. None: no key is asked for.
            batch_size: Images that are drawn together at most.
            limits: What one call may ask for.
            timeout_s: Seconds after which a call is answered with 503 although it is still being drawn.

        Raises:
            UserError: The port cannot be opened, the variable holds no key, or a number is none that can be.
        """
        if batch_size < 1 or timeout_s <= 0:
            raise UserError(
                f"batch_size is {batch_size} and timeout_s {timeout_s}. Allowed are 1 or more and over 0. Write 8 and "
                "600, say."
            )
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise UserError(
                f"api_key_env is '{api_key_env}', but this environment variable is empty. Allowed is the name of one "
                f"that holds the key. Write `export {api_key_env}=...` in the shell before."
            )
        self.model, self.limits, self.timeout_s = model, limits, timeout_s
        self._teacher, self._batch_size, self._api_key_env = teacher, batch_size, api_key_env
        self._only_this_machine = host in LOOPBACK and api_key_env is None
        self._kept = KeptAnswers()
        self._batches: MicroBatches | None = None
        self._front = HttpFront(host, port, self.answer)

    @property
    def address(self) -> str:
        """Base address for clients, with the port that was taken."""
        host, port = self._front.address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"

    def start(self) -> TeacherServer:
        """Begin to answer."""
        self._batches = MicroBatches(self._teacher, self._batch_size)
        self._front.start()
        return self

    def stop(self) -> dict[str, int]:
        """Stop: what the teacher is drawing is finished and answered, the rest is turned away.

        Returns:
            Counts: images, refusals, failures, batches, replayed calls, calls by kind.
        """
        if self._batches is not None:
            self._batches.stop()
        self._front.stop()
        return self.counts()

    def counts(self) -> dict[str, int]:
        """Say what was drawn and answered so far."""
        drawn = self._batches.drawn if self._batches is not None else Counter()
        names = {"images": "image", "refusals": "refusal", "failures": "failure", "batches": "batches"}
        replayed = {"replayed": self._kept.replayed}
        return {**{name: drawn[word] for name, word in names.items()}, **replayed, **self._front.calls}

    def __enter__(self) -> TeacherServer:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    async def answer(self, request: web.Request, read_body: Callable[[], Awaitable[bytes]]) -> Answer:
        """Answer one call.

        Args:
            request: Head of the call.
            read_body: Reads its body; only of a call that is admitted.

        Raises:
            CallRefused: The call gets an error.
        """
        method, path = request.method, request.rel_url.raw_path
        self._admit(path, request)
        if path == _HEALTH and method == "GET":
            waiting = self._batches.waiting if self._batches else 0
            return Answer(200, json.dumps({"status": "ok", "waiting": waiting}).encode())
        if path == _MODELS and method == "GET":
            return models_answer(self.model)
        if path != _IMAGES or method != "POST":
            status, code = (405, "method_not_allowed") if path in _METHODS else (404, "not_found")
            allow = {"Allow": _METHODS[path]} if path in _METHODS else {}
            raise CallRefused(
                status, code, f"There are POST {_IMAGES}, GET {_MODELS} and GET {_HEALTH}.", headers=allow
            )
        if request.content_type != "application/json":  # a form of a foreign web page never is
            raise CallRefused(415, "unsupported_media_type", "The Content-Type must be application/json.")
        body = await read_body()
        call = parse_call(body, self.model, self.limits)
        batches = self._batches
        assert batches is not None
        key = request.headers.get("Idempotency-Key")
        answer = self._kept.get(key, body, lambda: batches.submit(call)) if key is not None else batches.submit(call)
        try:
            # Shielded: who gives up waiting ends neither the drawing nor the answer to others.
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(answer)), self.timeout_s)
        except TimeoutError as error:
            message = "It is still being drawn. Ask again; with an Idempotency-Key nothing is drawn twice."
            raise CallRefused(503, "still_drawing", message) from error

    def _admit(self, path: str, request: web.Request) -> None:
        if self._only_this_machine:
            # another site's name that resolves to this machine (DNS rebinding) could draw otherwise
            host = request.headers.getall("Host", [])
            if len(host) != 1 or not _THIS_MACHINE.fullmatch(host[0]):
                raise CallRefused(403, "forbidden", "Only this machine may ask; other names need --api_key_env.")
        if self._api_key_env is None or path == _HEALTH:
            return
        key = os.environ.get(self._api_key_env, "")
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), key.encode("utf-8", "surrogateescape"))
        if not (key and same and kind.lower() == "bearer"):
            challenge = {"WWW-Authenticate": "Bearer"}
            raise CallRefused(401, "invalid_api_key", "The API key is missing or wrong.", headers=challenge)
