"""fal's queue: addresses as returned, flags of unsafe images, errors of finished requests."""

import pytest

from evolvedirector.records import ImageRequest
from evolvedirector.teachers import FalTeacher, Teacher
from evolvedirector.teachers.services.fal_teacher import read_result
from evolvedirector.transport.endpoint import Endpoint
from tests.chaos.script import Script
from tests.chaos.server import ChaosServer

MODEL = "fal-ai/flux/schnell"
ASK = ImageRequest("r1", "tone 90", 5, 96, 64)


def drawn(server, tmp_path, **changes):
    endpoint = Endpoint(server.url + "/fal", timeout_s=10, deadline_s=30, attempts=2)
    teacher = FalTeacher(MODEL, endpoint, poll_every_s=0.01, jobs_path=str(tmp_path / "jobs"), **changes)
    (reply,) = teacher.generate([ASK])
    teacher.close()
    return reply


def test_it_fits_its_seam_and_knows_its_price():
    assert isinstance(FalTeacher(MODEL), Teacher) and FalTeacher(MODEL).price_usd() == 0.003
    assert FalTeacher("fal-ai/another").price_usd() is None


def test_what_is_asked_for_and_how_it_is_polled(tmp_path):
    with ChaosServer(polls=2) as server:
        assert drawn(server, tmp_path, extra={"num_inference_steps": 4}).status == "image"
        (submission,) = server.sent(method="POST")
        asked = [request.path.removeprefix(f"/fal/{MODEL}/requests/") for request in server.sent("/fal", "GET")]
    size = {"width": 96, "height": 64}
    assert submission.json() == {"prompt": "tone 90", "seed": 5, "image_size": size, "num_inference_steps": 4}
    (job,) = server.jobs
    assert asked == [f"{job}/status"] * 3 + [job]


def test_an_unsafe_image_is_a_paid_refusal(tmp_path):
    with ChaosServer(Script(submit=["moderated"])) as server:
        reply = drawn(server, tmp_path)
    assert (reply.status, reply.reason, reply.cost_usd) == ("refusal", "has_nsfw_concepts", 0.003)


def test_a_refused_prompt_is_a_refusal(tmp_path):
    with ChaosServer(Script(submit=["policy"])) as server:
        reply = drawn(server, tmp_path)
    assert (reply.status, reply.reason) == ("refusal", "content_policy_violation")


def test_a_worker_that_died_is_a_failure_and_the_next_try_a_new_job(tmp_path):
    with ChaosServer(Script(submit=["error_state"])) as server:
        assert [drawn(server, tmp_path).status for _ in range(2)] == ["failure", "image"]
        assert server.billed == 2


@pytest.mark.parametrize("document", [{"images": [{"url": "https://u"}]}, {"image": {"url": "https://u"}}])
def test_one_image_or_a_list(document):
    assert read_result(document).image_url == "https://u"
    assert read_result({**document, "has_nsfw_concepts": [False]}).state == "image"
