"""Result URLs: short-lived, on a host of their own, and sometimes leading astray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.chaos.exchange import Request, Response, as_image, error

if TYPE_CHECKING:
    from tests.chaos.server import ChaosServer

ASTRAY = {
    "link_local": "http://169.254.169.254/latest/meta-data/",
    "private": "https://10.0.0.1/image.png",
    "elsewhere": "https://images.example.org/image.png",
}


def url_of(server: ChaosServer, name: str, fault: str) -> str:
    """Name a result; a signed URL, so that a log that holds it can be told."""
    if fault in ("url_link_local", "url_private", "url_elsewhere"):
        return ASTRAY[fault.removeprefix("url_")]
    if fault == "url_file":
        return "file:///etc/hostname"
    return f"{server.url}/media/{name}?signature=SECRETSIGNATURE"


def respond(server: ChaosServer, request: Request) -> Response:
    name = request.path.removeprefix("/media/")
    fault = server.fault_of_media(name)
    made_with, image = server.media.get(name, ("expired", b""))
    fault = fault or made_with
    if fault == "expired":
        return error(403, "Request has expired")
    if fault in ASTRAY:
        return Response(302, headers={"location": ASTRAY[fault]})
    if fault == "redirect_loop":
        return Response(302, headers={"location": request.target})
    refused = server.refusal(fault)
    if refused is not None:
        return refused
    whole = as_image(image)
    if fault in ("cut_body", "hang", "endless", "length_too_small", "length_too_large"):
        return whole.delivered(fault)  # type: ignore[arg-type]
    return whole.delivered("drip") if fault == "slow" else whole
