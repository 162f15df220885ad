"""What goes over the wire: a request as it was read, and a response with the way in which it is delivered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

Delivery = Literal["whole", "cut_early", "cut_body", "drip", "hang", "endless", "length_too_small", "length_too_large"]


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))

    @property
    def key(self) -> str | None:
        return self.headers.get("idempotency-key")

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delivery: Delivery = "whole"

    def delivered(self, delivery: Delivery) -> Response:
        return replace(self, delivery=delivery)

    def with_headers(self, **headers: str) -> Response:
        return replace(self, headers={**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}})


def as_json(document: Any, status: int = 200) -> Response:
    return Response(status, json.dumps(document).encode(), {"content-type": "application/json"})


def as_html(status: int = 200) -> Response:
    return Response(status, b"<html><body><h1>Bad gateway</h1></body></html>", {"content-type": "text/html"})


def as_image(data: bytes) -> Response:
    return Response(200, data, {"content-type": "image/png"})


def error(status: int, message: str = "no", code: str | None = None) -> Response:
    return as_json({"error": {"message": message, "code": code, "type": "error"}, "detail": message}, status)


def spoilt(response: Response, fault: str) -> Response:
    """Damage an answer on its way."""
    if fault == "cut_late":
        return response.delivered("cut_early")
    if fault in ("cut_body", "length_too_small", "length_too_large", "hang", "endless"):
        return response.delivered(fault)  # type: ignore[arg-type]
    if fault == "slow":
        return response.delivered("drip")
    if fault == "garbage":
        return Response(200, b'{"data": [{"b64_json": "iVBO', {"content-type": "application/json"})
    if fault == "html":
        return as_html()
    if fault == "error_inside":
        return error(200, "upstream failed")
    if fault == "wrong_type":
        return response.with_headers(content_type="text/plain")
    return response
