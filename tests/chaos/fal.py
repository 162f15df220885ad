"""fal's queue: POST `/fal/{model}` gives a request id with a status and a response URL; unsafe images are flagged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.chaos.exchange import Request, Response, as_json, error

if TYPE_CHECKING:
    from tests.chaos.arrival import Arrival
    from tests.chaos.server import ChaosServer


async def respond(server: ChaosServer, request: Request) -> Response:
    if "/requests/" in request.path:
        return _look(server, request)
    body = request.json()
    size = body.get("image_size") or {}
    pixels = (int(size.get("width", 64)), int(size.get("height", 64))) if isinstance(size, dict) else (64, 64)
    return await server.sell(request, body["prompt"], int(body.get("seed") or 0), pixels, _submitted)


def _submitted(arrival: Arrival) -> Response:
    job = arrival.server.job(arrival)
    host = "https://attacker.example.org" if arrival.fault == "polling_elsewhere" else arrival.server.url
    url = f"{host}{arrival.request.path}/requests/{job.id}"
    return as_json({"status": "IN_QUEUE", "request_id": job.id, "status_url": url + "/status", "response_url": url})


def _look(server: ChaosServer, request: Request) -> Response:
    is_status = request.path.endswith("/status")
    job_id = request.path.split("/requests/")[1].split("/")[0]
    if is_status:
        spoilt, job = server.poll(request, job_id)
        if spoilt is not None:
            return spoilt
    else:
        job = server.jobs.get(job_id)
    if job is None:
        return error(404, "Request not found")
    if is_status:
        state = "COMPLETED" if job.polls_left < 0 else "IN_PROGRESS" if job.polls_left == 0 else "IN_QUEUE"
        return as_json({"status": state, "request_id": job.id})
    if job.fault == "moderated":
        return as_json({"images": [{"url": server.media_url(job)}], "has_nsfw_concepts": [True]})
    if job.fault == "policy":
        return as_json({"detail": [{"msg": "unsafe", "type": "content_policy_violation"}]}, 422)
    if job.fault == "error_state":
        return as_json({"detail": "the worker died"}, 500)
    picture = {"url": server.media_url(job), "width": job.width_px, "height": job.height_px}
    return as_json({"images": [picture], "seed": 1, "has_nsfw_concepts": [False], "prompt": job.prompt})
