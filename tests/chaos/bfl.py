"""BFL: POST `/bfl/v1/{model}` gives an id and a polling URL; refusals are states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.chaos.exchange import Request, Response, as_json

if TYPE_CHECKING:
    from tests.chaos.arrival import Arrival
    from tests.chaos.server import ChaosServer


async def respond(server: ChaosServer, request: Request) -> Response:
    if request.path == "/bfl/v1/get_result":
        return _result(server, request)
    if request.path == "/bfl/v1/credits":
        return as_json({"credits": 100.0})
    body = request.json()
    size = int(body.get("width", 64)), int(body.get("height", 64))
    return await server.sell(request, body["prompt"], int(body.get("seed") or 0), size, _submitted)


def _submitted(arrival: Arrival) -> Response:
    job = arrival.server.job(arrival)
    host = "https://attacker.example.org" if arrival.fault == "polling_elsewhere" else arrival.server.url
    return as_json({"id": job.id, "polling_url": f"{host}/bfl/v1/get_result?id={job.id}"})


def _result(server: ChaosServer, request: Request) -> Response:
    spoilt, job = server.poll(request, request.query.get("id", ""))
    if spoilt is not None:
        return spoilt
    if job is None:
        return as_json({"id": request.query.get("id"), "status": "Task not found", "result": None}, 404)
    states = {
        "moderated": "Request Moderated",
        "moderated_late": "Content Moderated",
        "error_state": "Error",
        "not_found": "Task not found",
    }
    if job.polls_left >= 0:
        return as_json({"id": job.id, "status": "Pending", "result": None})
    if job.fault in states:
        return as_json({"id": job.id, "status": states[job.fault], "result": None})
    if job.fault == "unknown_state":
        return as_json({"id": job.id, "status": "Sleeping"})
    return as_json({"id": job.id, "status": "Ready", "result": {"sample": server.media_url(job), "prompt": job.prompt}})
