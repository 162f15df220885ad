"""Replicate's predictions: held answers, states, versions, outputs that are gone."""

import pytest

from evolvedirector.records import ImageRequest
from evolvedirector.teachers import ReplicateTeacher, Teacher
from evolvedirector.teachers.services.replicate_teacher import read_prediction
from evolvedirector.transport.endpoint import Endpoint
from tests.chaos.script import Script
from tests.chaos.server import ChaosServer

ASK = ImageRequest("r1", "tone 90", 5, 96, 64)


def drawn(server, tmp_path, model="toy/toy-image", **changes):
    endpoint = Endpoint(server.url + "/replicate/v1", timeout_s=10, deadline_s=30, attempts=2)
    teacher = ReplicateTeacher(model, endpoint, poll_every_s=0.01, jobs_path=str(tmp_path / "jobs"), **changes)
    (reply,) = teacher.generate([ASK])
    teacher.close()
    return reply


def test_what_is_asked_for(tmp_path):
    with ChaosServer() as server:
        assert drawn(server, tmp_path, extra={"output_format": "png"}).status == "image"
        (submission,) = server.sent("/replicate", "POST")
    fields = {"prompt": "tone 90", "seed": 5, "width": 96, "height": 64, "output_format": "png"}
    assert submission.path == "/replicate/v1/models/toy/toy-image/predictions"
    assert submission.json() == {"input": fields} and "prefer" not in submission.headers


def test_a_version_is_named_in_the_body(tmp_path):
    with ChaosServer() as server:
        drawn(server, tmp_path, model="toy/toy-image:" + "a" * 64)
        (submission,) = server.sent("/replicate", "POST")
    assert submission.path == "/replicate/v1/predictions" and submission.json()["version"] == "a" * 64


def test_a_held_answer_saves_polls_and_is_never_held_longer_than_we_wait(tmp_path):
    with ChaosServer(polls=0) as server:
        assert drawn(server, tmp_path, wait_s=60).status == "image"
        assert server.sent("/replicate", "POST")[0].headers["prefer"] == "wait=5"
        assert len(server.sent("/replicate", "GET")) == 1


@pytest.mark.parametrize(
    ("document", "state"),
    [
        ({"status": "starting"}, "pending"),
        ({"status": "processing"}, "pending"),
        ({"status": "succeeded", "output": "https://x/y.png"}, "image"),
        ({"status": "succeeded", "output": ["https://x/y.png"]}, "image"),
        ({"status": "succeeded", "output": []}, "failure"),
        ({"status": "succeeded", "output": None, "data_removed": True}, "failure"),
        ({"status": "failed", "error": "NSFW content detected"}, "refusal"),
        ({"status": "failed", "error": "out of memory"}, "failure"),
        ({"status": "canceled"}, "failure"),
    ],
)
def test_states(document, state):
    assert read_prediction(document).state == state


def test_an_output_that_is_gone_is_made_anew_by_the_next_try(tmp_path):
    with ChaosServer(Script(submit=["data_removed"])) as server:
        assert [drawn(server, tmp_path).status for _ in range(2)] == ["failure", "image"]


def test_a_model_that_is_not_there_is_told_before_anything_is_spent():
    with ChaosServer() as server:
        teacher = ReplicateTeacher("toy/nothing", Endpoint(server.url + "/replicate/v1"))
        with pytest.raises(ValueError, match=r"'toy/nothing' cannot be used: it has no such model.*owner/name"):
            teacher.verify()


def test_what_cannot_be_is_refused():
    assert isinstance(ReplicateTeacher("a/b"), Teacher)
    with pytest.raises(ValueError, match=r"model='flux'.*Write black-forest-labs/flux-schnell"):
        ReplicateTeacher("flux")
    with pytest.raises(ValueError, match="wait_s=61"):
        ReplicateTeacher("a/b", wait_s=61)


def test_a_journal_that_cannot_be_opened_is_told_before_anything_is_spent(tmp_path):
    (tmp_path / "file").write_text("no folder")
    teacher = ReplicateTeacher("toy/toy-image", jobs_path=str(tmp_path / "file" / "jobs.sqlite"))
    with pytest.raises(ValueError, match=r"journal of jobs at .*jobs\.sqlite cannot be used"):
        teacher.verify()
