"""The OpenAI Images protocol: `/v1/images/generations` and `/v1/models`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from tests.chaos.exchange import Request, Response, as_image, as_json, error

if TYPE_CHECKING:
    from tests.chaos.arrival import Arrival
    from tests.chaos.server import ChaosServer


async def respond(server: ChaosServer, request: Request) -> Response:
    body = request.json()
    if body.get("model") not in (None, *server.models):
        return error(404, f"The model {body['model']!r} does not exist", "model_not_found")
    width, height = map(int, str(body.get("size") or "64x64").split("x"))
    return await server.sell(request, body["prompt"], int(body.get("seed") or 0), (width, height), _answer)


def _answer(arrival: Arrival) -> Response:
    if arrival.fault == "moderated":
        return error(400, "Your request was rejected by the safety system.", "moderation_blocked")
    if arrival.fault == "no_data":
        return as_json({"created": 1, "data": []})
    if arrival.request.json().get("response_format") == "url":
        return as_json({"created": 1, "data": [{"url": arrival.server.media_url(arrival.server.job(arrival))}]})
    if arrival.request.json().get("response_format") == "raw":  # as some servers of one model do
        return as_image(arrival.image)
    return as_json({"created": 1, "data": [{"b64_json": base64.b64encode(arrival.image).decode()}]})


async def models(server: ChaosServer, request: Request) -> Response:
    return as_json({"object": "list", "data": [{"id": name, "object": "model"} for name in server.models]})
