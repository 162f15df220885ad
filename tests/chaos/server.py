"""A provider of images and of chat on a loopback socket, that misbehaves as its script says and counts what it bills.

with ChaosServer(Script(submit=["busy", "cut_late"])) as server:
    teacher = OpenAIImagesTeacher(..., endpoint=Endpoint(server.url + "/v1"))
    ...
    assert server.billed == ...

Routes live beside this file, one per provider: `/v1` (OpenAI images, models and chat), `/bfl`, `/fal`, `/replicate`,
`/stability`. The server runs in a thread of its own; what it has counted may be read at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from evolvedirector.records import digest
from tests.chaos import bfl, chat, fal, media, openai_images, pictures, replicate, stability
from tests.chaos.arrival import Arrival, Job
from tests.chaos.exchange import Request, Response, as_json, error, spoilt
from tests.chaos.script import Script, Stage
from tests.chaos.wire import deliver, read

Draw = Callable[[str, int, int, int], bytes]


class ChaosServer:
    """Serve until the `with` block ends.

    Args:
        script: What goes wrong.
        latency_s: How long making an image takes.
        polls: How often a job is `pending` before it is ready.
        honours_keys: An idempotency key seen before gets the first answer again and is not billed twice.
        api_key: Requests without it get 401; None lets everyone in.
        retry_after_s: What `busy` advises.
        answer: Answers a chat request: returns a `chat.Answer`; None says yes and A.
        models: What `/v1/models` lists.
        draw: Makes a picture of (prompt, seed, width, height).
        together: The first paid requests wait for each other until so many are in flight, 5 s at most: whether a
            client overlaps them must not hang on how fast the machine is.
    """

    def __init__(
        self,
        script: Script | None = None,
        latency_s: float = 0.0,
        polls: int = 1,
        honours_keys: bool = False,
        api_key: str | None = None,
        retry_after_s: int = 0,
        answer: Callable[[dict[str, Any]], chat.Answer] | None = None,
        models: tuple[str, ...] = ("toy-image", "toy-vlm"),
        draw: Draw = pictures.picture,
        together: int = 1,
    ) -> None:
        self.script = script or Script()
        self.latency_s, self.polls, self.honours_keys = latency_s, polls, honours_keys
        self.api_key, self.retry_after_s, self.models, self.draw = api_key, retry_after_s, models, draw
        self.answer = answer or chat.agree
        self.url = ""
        self.requests: list[Request] = []
        """Everything that arrived, in order."""
        self.bills: list[str] = []
        """The prompts of everything made and charged, in order."""
        self.jobs: dict[str, Job] = {}
        self.media: dict[str, tuple[str, bytes]] = {}
        """Result pictures by name, with the fault of the request that made them."""
        self.broken: list[Exception] = []
        self.together = together
        self.in_flight = self.most_in_flight = 0
        self._arrivals: Counter[tuple[str, str]] = Counter()
        self._answered: dict[str, Response] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="chaos server")

    # What a test reads

    @property
    def billed(self) -> int:
        """Pictures (or chat answers) made and charged."""
        return len(self.bills)

    def sent(self, prefix: str = "", method: str | None = None) -> list[Request]:
        """Requests whose path begins so."""
        return [r for r in list(self.requests) if r.path.startswith(prefix) and method in (None, r.method)]

    # What the routes call

    async def sell(
        self, request: Request, prompt: str, seed: int, size: tuple[int, int], make: Callable[[Arrival], Response]
    ) -> Response:
        """Bring a paid request through its fault: refuse it before, spoil it after, or make and bill it."""
        if self.honours_keys and request.key in self._answered:
            return self._answered[request.key or ""]
        fault = self._fault("submit", f"{request.path} {prompt}")
        early = self.refusal(fault)
        if early is not None:
            return early
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.most_in_flight >= self.together:
            self._met.set()
        try:
            with contextlib.suppress(TimeoutError):  # a client that never overlaps is told by `most_in_flight`
                await asyncio.wait_for(self._met.wait(), 5.0)
            self._met.set()  # who waited in vain once does not wait again
            await asyncio.sleep(self.latency_s)
        finally:
            self.in_flight -= 1
        response = make(Arrival(request, fault, prompt, seed, *size, self))
        if fault not in ("moderated", "error_inside"):
            self.bills.append(prompt)
        if request.key:
            self._answered[request.key] = response
        return spoilt(response, fault)

    def job(self, arrival: Arrival) -> Job:
        """Begin a job; `duplicate_id` hands out an id that was given before."""
        if arrival.fault == "duplicate_id" and self.jobs:
            return next(iter(self.jobs.values()))
        name = digest("job", arrival.request.path, arrival.prompt, len(self.jobs))
        size = arrival.width_px, arrival.height_px
        self.jobs[name] = Job(name, arrival.prompt, arrival.image, arrival.fault, *size, self.polls)
        return self.jobs[name]

    def poll(self, request: Request, job_id: str) -> tuple[Response | None, Job | None]:
        """Look at a job: what to answer instead, or the job itself; it is one poll nearer to its end."""
        fault = self._fault("poll", f"{request.path} {job_id}")
        job = self.jobs.get(job_id)
        if job is not None and not fault:
            job.polls_left -= 1
        instead = self.refusal(fault) or (spoilt(as_json({}), fault) if fault else None)
        return instead, job

    def media_url(self, job: Job) -> str:
        """Put a result where it can be fetched."""
        name = f"{job.id}.png"
        self.media[name] = job.fault, job.image
        return media.url_of(self, name, job.fault)

    def fault_of_media(self, name: str) -> str:
        return self._fault("media", name)

    def _fault(self, stage: Stage, name: str) -> str:
        fault = self.script.fault(stage, name, self._arrivals[stage, name])
        self._arrivals[stage, name] += 1
        return fault

    def refusal(self, fault: str) -> Response | None:
        """What is answered where nothing is made."""
        if fault == "busy":
            return error(429, "slow down").with_headers(retry_after=str(self.retry_after_s))
        if fault == "cut_early":
            return Response(delivery="cut_early")
        statuses = {
            "busy_silent": 429, "error_500": 500, "error_502": 502, "error_503": 503, "timeout_408": 408,
            "bad_key": 401, "no_credit": 402, "forbidden": 403, "bad_request": 400, "unknown": 404, "invalid": 422,
        }  # fmt: skip
        return error(statuses[fault], fault.replace("_", " ")) if fault in statuses else None

    # Sockets

    def __enter__(self) -> ChaosServer:
        self._thread.start()
        assert self._ready.wait(10), "the chaos server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
        assert not self.broken, f"the chaos server broke: {self.broken!r}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._ended, self._met = asyncio.Event(), asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=2**26, backlog=512)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._ended.wait()
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            while (request := await read(reader)) is not None:
                self.requests.append(request)
                if not await deliver(writer, await self._respond(request)):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as failure:  # a fault of the server itself, told when it ends
            self.broken.append(failure)
        finally:
            self._open.discard(task)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _respond(self, request: Request) -> Response:
        if request.path.startswith("/media/"):
            return media.respond(self, request)
        if self.api_key and not any(self.api_key in value for value in request.headers.values()):
            return error(401, "wrong key")
        for prefix, route in ROUTES.items():
            if request.path.startswith(prefix):
                return await route(self, request)
        return error(404, f"no route {request.path}")


ROUTES: dict[str, Any] = {
    "/v1/images": openai_images.respond,
    "/v1/models": openai_images.models,
    "/v1/chat": chat.respond,
    "/bfl/": bfl.respond,
    "/fal/": fal.respond,
    "/replicate/": replicate.respond,
    "/stability/": stability.respond,
}
