"""Replicate: POST `/replicate/v1/models/{owner}/{name}/predictions`, at once with `Prefer: wait`, or polled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.chaos.exchange import Request, Response, as_json, error

if TYPE_CHECKING:
    from tests.chaos.arrival import Arrival, Job
    from tests.chaos.server import ChaosServer


async def respond(server: ChaosServer, request: Request) -> Response:
    if request.path == "/replicate/v1/account":
        return as_json({"type": "user", "username": "toy"})
    if request.method == "GET" and "/models/" in request.path:
        known = any(request.path.endswith(name) for name in server.models)
        return as_json({"name": "toy"}) if known else error(404, "model not found")
    if request.method == "GET":
        return _look(server, request)
    body = request.json()["input"]
    size = int(body.get("width", 64)), int(body.get("height", 64))
    return await server.sell(request, body["prompt"], int(body.get("seed") or 0), size, _submitted)


def _submitted(arrival: Arrival) -> Response:
    job = arrival.server.job(arrival)
    if arrival.request.headers.get("prefer", "").startswith("wait") and arrival.server.polls == 0:
        job.polls_left = -1
    return as_json(_prediction(arrival.server, job, arrival.fault), 201)


def _prediction(server: ChaosServer, job: Job, fault: str = "") -> dict[str, Any]:
    host = "https://attacker.example.org" if fault == "polling_elsewhere" else server.url
    about = {"id": job.id, "urls": {"get": f"{host}/replicate/v1/predictions/{job.id}"}, "error": None}
    if job.polls_left >= 0:
        return about | {"status": "starting" if job.polls_left else "processing", "output": None}
    if job.fault == "moderated":
        return about | {"status": "failed", "output": None, "error": "NSFW content detected. Try another prompt."}
    if job.fault == "error_state":
        return about | {"status": "failed", "output": None, "error": "CUDA out of memory"}
    if job.fault == "canceled":
        return about | {"status": "canceled", "output": None}
    if job.fault == "data_removed":
        return about | {"status": "succeeded", "output": None, "data_removed": True}
    return about | {"status": "succeeded", "output": [server.media_url(job)]}


def _look(server: ChaosServer, request: Request) -> Response:
    spoilt, job = server.poll(request, request.path.rsplit("/", 1)[1])
    if spoilt is not None:
        return spoilt
    return error(404, "Not found") if job is None else as_json(_prediction(server, job))
