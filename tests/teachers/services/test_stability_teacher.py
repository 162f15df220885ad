"""Stability's form, and its two ways to refuse."""

import pytest

from evolvedirector.records import ImageRequest
from evolvedirector.teachers import StabilityTeacher, Teacher
from evolvedirector.transport.endpoint import Endpoint
from tests.chaos.script import Script
from tests.chaos.server import ChaosServer
from tests.chaos.stability import fields

ASK = ImageRequest("r1", 'tone "90"\r\n--x', 2**40 + 5, 112, 64)


def drawn(server, **changes):
    endpoint = Endpoint(server.url + "/stability", timeout_s=10, deadline_s=30, attempts=2)
    (reply,) = StabilityTeacher(endpoint=endpoint, **changes).generate([ASK])
    return reply


def test_what_is_asked_for():
    with ChaosServer() as server:
        reply = drawn(server, extra={"negative_prompt": "text"})
        (request,) = server.requests
    assert reply.status == "image" and reply.cost_usd == 0.03
    form = fields(request)
    assert form.pop("prompt") == ASK.prompt, "no prompt can end its field of the form"
    assert form == {"negative_prompt": "text", "seed": str((2**40 + 5) % (2**32 - 1)), "aspect_ratio": "16:9",
                    "output_format": "png"}  # fmt: skip
    assert request.path == "/stability/v2beta/stable-image/generate/core" and request.headers["accept"] == "image/*"


@pytest.mark.parametrize(("fault", "cost_usd"), [("moderated", 0.0), ("filtered", 0.03)])
def test_refusals_by_status_and_by_header(fault, cost_usd):
    with ChaosServer(Script(submit=[fault])) as server:
        reply = drawn(server)
    assert (reply.status, reply.cost_usd) == ("refusal", cost_usd)


def test_a_403_about_the_key_is_no_refusal():
    with ChaosServer(Script(submit=["forbidden"])) as server:
        reply = drawn(server)
    assert reply.status == "failure" and "may not do this" in reply.reason


def test_it_fits_its_seam_and_knows_its_price():
    assert isinstance(StabilityTeacher(), Teacher)
    assert StabilityTeacher("ultra").price_usd() == 0.08 and StabilityTeacher("sd3").price_usd() is None
    assert StabilityTeacher().fingerprint != StabilityTeacher(extra={"style_preset": "anime"}).fingerprint
    with pytest.raises(ValueError, match="extra holds 'prompt'"):
        StabilityTeacher(extra={"prompt": "x"})
