"""Pictures in answers: every form that services send them in is read, and what is no picture is named."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.teachers import (
    HTTPTeacher,
    OpenAIImagesTeacher,
    ReplicateTeacher,
    StabilityTeacher,
)
from evolvedirector.teachers.services.answer_picture import is_picture, paid_json, picture_in, unwrapped
from evolvedirector.teachers.services.bfl_teacher import read_result as read_bfl
from evolvedirector.teachers.services.fal_teacher import read_result as read_fal
from evolvedirector.teachers.services.replicate_teacher import read_prediction
from evolvedirector.transport import waiting
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.response import Response
from tests.transport.little_server import Answer, serving


def encoded(kind: str, side_px: int = 9) -> bytes:
    tiles = np.random.default_rng(5).integers(0, 255, (side_px, side_px, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(tiles).save(buffer, kind)
    return buffer.getvalue()


PNG = encoded("PNG")
PLAIN = base64.b64encode(PNG).decode()
assert "+" in PLAIN and "/" in PLAIN and PLAIN.endswith("=")
FORMS: dict[str, str] = {
    "plain": PLAIN,
    "line breaks": base64.encodebytes(PNG).decode(),
    "windows line breaks": base64.encodebytes(PNG).decode().replace("\n", "\r\n"),
    "escaped line breaks": base64.encodebytes(PNG).decode().replace("\n", "\\n"),
    "spaces around": f"  {PLAIN}\n",
    "url-safe": base64.urlsafe_b64encode(PNG).decode(),
    "no padding": PLAIN.rstrip("="),
    "url-safe without padding": base64.urlsafe_b64encode(PNG).decode().rstrip("="),
    "data url": f"data:image/png;base64,{PLAIN}",
    "upper case": f"DATA:IMAGE/PNG;BASE64,{PLAIN}",
    "parameters": f"data:image/png;charset=utf-8;base64,{base64.encodebytes(PNG).decode()}",
    "no type": f"data:;base64,{PLAIN}",
    "percent escapes": f"data:image/png;base64,{PLAIN.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
    "json text": json.dumps(PLAIN),
    "json in json": json.dumps({"b64_json": PLAIN}),
}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BACKOFF_S", 0.005)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_base64_is_the_picture(form: str) -> None:
    found = picture_in(FORMS[form])
    assert found is not None and found.image == PNG
    assert unwrapped(FORMS[form].encode()) == PNG
    assert unwrapped(b"\xef\xbb\xbf" + FORMS[form].encode()) == PNG


@pytest.mark.parametrize(
    "entry",
    [
        {"b64_json": "", "url": "https://a.example/x.png"},
        {"b64_json": None, "url": "https://a.example/x.png"},
        {"b64_json": "not a picture", "url": "https://a.example/x.png"},
        {"b64_json": "AAAA", "url": "https://a.example/x.png"},
        {"b64_json": "https://a.example/x.png", "url": None},
        {"url": " https://a.example/x.png "},
        {"image_url": {"url": "https://a.example/x.png"}},
        ["https://a.example/x.png", "https://a.example/y.png"],
        {"data": [None, {}, {"url": "https://a.example/x.png"}]},
        {"images": [], "output": ["https://a.example/x.png"]},
    ],
)
def test_an_empty_field_gives_way_to_the_address_beside_it(entry: Any) -> None:
    found = picture_in(entry)
    assert found is not None and found.url == "https://a.example/x.png" and found.image is None


@pytest.mark.parametrize(
    "value", [None, "", " ", 7, [], {}, "no base64!", "a", {"b64_json": ""}, {"other": PLAIN}, "{broken", "[" * 9000]
)
def test_where_nothing_is_nothing_is_found(value: Any) -> None:
    assert picture_in(value) is None


def test_a_picture_without_any_wrapping_stays_and_other_bytes_too() -> None:
    jpeg = encoded("JPEG")
    for data in (PNG, jpeg, b"junk", b"\xff\xfe\x00", b""):
        assert unwrapped(data) == data
    assert unwrapped(b"\r\n" + PNG) == PNG
    found = picture_in(base64.b64encode(jpeg).decode())  # begins as a path does
    assert found is not None and found.image == jpeg
    assert all(is_picture(encoded(kind)) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"))


def test_a_paid_answer_is_json_or_a_picture() -> None:
    assert picture_in(paid_json(Response(200, {}, PNG))).image == PNG  # type: ignore[union-attr]
    with pytest.raises(TransportFault) as caught:
        paid_json(Response(200, {}, b"neither"))
    assert caught.value.maybe_paid


def drawn(make: Callable[[str], Any], body: bytes | dict | list, **headers: str) -> ImageReply:
    with serving(lambda asked: Answer(body=body, headers=headers)) as server:
        (reply,) = make(server.url).generate([ImageRequest("r", "a dog", 1, 9, 9)])
    return reply


def endpoint(url: str) -> Endpoint:
    return Endpoint(url, attempts=1, timeout_s=20.0, deadline_s=30.0)


def openai(url: str) -> OpenAIImagesTeacher:
    return OpenAIImagesTeacher(endpoint(url), "m", cost_usd_per_image=0.04)


def http(image_path: str | None) -> Callable[[str], HTTPTeacher]:
    return lambda url: HTTPTeacher(endpoint(url), "x", {"p": "{prompt}"}, image_path, cost_usd_per_image=0.04)


def stability(url: str) -> StabilityTeacher:
    return StabilityTeacher("core", endpoint(url), cost_usd_per_image=0.04)


@pytest.mark.parametrize(
    ("make", "body"),
    [
        (openai, {"data": [{"b64_json": FORMS["line breaks"]}]}),
        (openai, {"data": [{"b64_json": "", "url": FORMS["upper case"]}]}),
        (openai, {"data": {"b64_json": FORMS["url-safe without padding"]}}),
        (openai, [{"image": PLAIN}]),
        (openai, PNG),
        (openai, {"data": [{"b64_json": base64.b64encode(encoded("GIF")).decode()}]}),
        (openai, {"data": [{"b64_json": base64.b64encode(encoded("BMP")).decode()}]}),
        (http("data.0.b64_json"), {"data": [{"b64_json": None, "url": FORMS["data url"]}]}),
        (http("data.0.b64_json"), {"images": [PLAIN]}),
        (http("image"), PNG),
        (http("image"), {"image": {"b64": FORMS["no padding"]}}),
        (http(None), PLAIN.encode()),
        (http(None), {"image": FORMS["line breaks"]}),
        (stability, {"image": PLAIN, "finish_reason": "SUCCESS"}),
        (stability, {"artifacts": [{"base64": PLAIN, "finishReason": "SUCCESS"}]}),
        (stability, FORMS["data url"].encode()),
    ],
)
def test_the_teachers_take_what_was_paid_for(make: Callable[[str], Any], body: Any) -> None:
    reply = drawn(make, body)
    assert reply.status == "image", reply.reason
    assert reply.image is not None and Image.open(io.BytesIO(reply.image)).size == (9, 9)


@pytest.mark.parametrize("body", [{"data": [{"b64_json": "bm8gcGljdHVyZQ=="}]}, {"data": [{"b64_json": ""}]}, b"junk"])
def test_what_is_no_picture_is_a_paid_failure_that_says_so(body: Any) -> None:
    for make in (openai, http("data.0.b64_json"), http(None)):
        reply = drawn(make, body)
        assert (reply.status, reply.cost_usd, reply.sent) == ("failure", 0.04, True)
        assert any(words in reply.reason for words in ("no picture", "no image", "neither", "no JSON"))


def test_an_address_of_the_service_itself_may_be_a_path() -> None:
    with serving(lambda asked: Answer(body=PNG if asked.method == "GET" else {"data": [{"url": "/out/x.png"}]})) as at:
        (reply,) = openai(f"{at.url}/v1").generate([ImageRequest("r", "a dog", 1, 9, 9)])
    assert reply.status == "image" and at.asked[1].target == "/out/x.png"


def test_a_refusal_in_json_around_a_picture_stays_one() -> None:
    assert drawn(stability, {"image": PLAIN, "finish_reason": "CONTENT_FILTERED"}).status == "refusal"


def test_jobs_may_hand_out_the_picture_in_place_of_its_address(tmp_path: Path) -> None:
    url = FORMS["upper case"]
    for progress in (
        read_bfl({"status": "Ready", "result": {"sample": url}}),
        read_fal({"images": [{"url": url}]}),
        read_fal({"image": {"url": url}}),
        read_prediction({"status": "succeeded", "output": [url]}),
        read_prediction({"status": "succeeded", "output": {"image": url}}),
    ):
        assert (progress.state, progress.image) == ("image", PNG)
    assert read_bfl({"status": "Ready", "result": {}}).state == "failure"
    answers = {
        "POST": {"id": "1", "urls": {"get": "at"}, "request_id": "1", "status_url": "at", "response_url": "at"},
        "GET": {"status": "succeeded", "output": url},
    }
    with serving(lambda asked: Answer(body=answers[asked.method])) as server:
        answers["POST"]["urls"] = {"get": f"{server.url}/at"}
        one = ReplicateTeacher("a/b", endpoint(server.url), jobs_path=str(tmp_path / "j"), cost_usd_per_image=0.04)
        (reply,) = one.generate([ImageRequest("r", "a dog", 1, 9, 9)])
        one.close()
    assert reply.status == "image"
