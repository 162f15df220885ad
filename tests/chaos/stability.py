"""Stability v2beta: a multipart form, raw bytes back, the outcome in a header."""

from __future__ import annotations

import email.parser
import email.policy
from typing import TYPE_CHECKING

from tests.chaos import pictures
from tests.chaos.exchange import Request, Response, as_image, as_json

if TYPE_CHECKING:
    from tests.chaos.arrival import Arrival
    from tests.chaos.server import ChaosServer

RATIOS = {"1:1": (64, 64), "16:9": (112, 64), "9:16": (64, 112), "3:2": (96, 64), "2:3": (64, 96)}


async def respond(server: ChaosServer, request: Request) -> Response:
    if request.path == "/stability/v1/user/balance":
        return as_json({"credits": 12.5})
    form = fields(request)
    size = RATIOS.get(form.get("aspect_ratio", "1:1"), (64, 64))
    return await server.sell(request, form["prompt"], int(form.get("seed") or 0), size, _answer)


def fields(request: Request) -> dict[str, str]:
    """Read the fields of a multipart form."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
    parts = [part for part in message.iter_parts()]
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True).decode()  # type: ignore[union-attr]
        for part in parts
    }


def _answer(arrival: Arrival) -> Response:
    if arrival.fault == "moderated":
        return as_json({"id": "x", "name": "content_moderation", "errors": ["flagged by our content moderation"]}, 403)
    if arrival.fault == "filtered":
        picture = as_image(pictures.blurred(arrival.width_px, arrival.height_px))
        return picture.with_headers(finish_reason="CONTENT_FILTERED", seed="1")
    return as_image(arrival.image).with_headers(finish_reason="SUCCESS", seed=str(arrival.seed))
