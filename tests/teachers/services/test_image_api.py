"""What teachers behind image APIs answer alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.teachers import BFLTeacher, StabilityTeacher, Teacher
from evolvedirector.teachers.services.image_api import APITeacher, ImageAPI
from evolvedirector.transport.client import Client
from evolvedirector.transport.endpoint import Endpoint


async def refuse(client: Client, request: ImageRequest) -> ImageReply:
    return ImageReply(request.request_id, "refusal", reason="never")


async def deny(client: Client) -> None:
    raise ValueError("it is closed today")


def test_a_service_needs_only_a_way_to_draw() -> None:
    api = ImageAPI("toy", Endpoint("http://127.0.0.1:9", max_in_flight=3), refuse, "toy-1", {}, price_usd=0.5)
    teacher = APITeacher(api)
    assert isinstance(teacher, Teacher)
    assert teacher.fingerprint == api.fingerprint and teacher.fingerprint.startswith("toy/toy-1/")
    assert teacher.price_usd() == 0.5
    assert teacher.requests_in_flight == api.requests_in_flight
    replies = teacher.generate([ImageRequest(name, "a cat", 0, 64, 64) for name in "ab"])
    assert {reply.request_id: reply.reason for reply in replies} == {"a": "never", "b": "never"}
    teacher.verify()
    teacher.close()


def test_its_question_decides_whether_a_service_can_be_used() -> None:
    api = ImageAPI("toy", Endpoint("http://127.0.0.1:9"), refuse, "toy-1", {})
    with pytest.raises(ValueError, match="toy teacher 'toy-1' cannot be used: it is closed today"):
        APITeacher(api, check=deny).verify()


def test_a_journal_that_cannot_be_written_is_found_before_anything_is_bought(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    teacher = BFLTeacher(jobs_path=str(tmp_path / "file" / "jobs"))
    with pytest.raises(ValueError, match="jobs_path"):
        teacher.verify()
    teacher.close()
    StabilityTeacher().close()  # it keeps no journal
