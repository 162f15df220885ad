"""BFL's states, addresses and fields."""

import jsonargparse
import pytest

from evolvedirector.records import ImageRequest
from evolvedirector.teachers import BFLTeacher, Teacher
from evolvedirector.teachers.services.bfl_teacher import read_result
from evolvedirector.transport.endpoint import Endpoint
from tests.chaos.script import Script
from tests.chaos.server import ChaosServer

ASK = ImageRequest("r1", "tone 90", 2**40 + 5, 96, 64)


def teacher_at(server, tmp_path, **changes):
    endpoint = Endpoint(server.url + "/bfl", timeout_s=10, deadline_s=30)
    return BFLTeacher(endpoint=endpoint, poll_every_s=0.01, jobs_path=str(tmp_path / "jobs"), **changes)


def test_it_fits_its_seam_and_knows_its_price():
    teacher = BFLTeacher()
    assert isinstance(teacher, Teacher) and teacher.price_usd() == 0.04
    assert BFLTeacher(cost_usd_per_image=0.05).price_usd() == 0.05
    assert BFLTeacher("flux-of-tomorrow").price_usd() is None


@pytest.mark.parametrize(
    ("state", "expected", "paid"),
    [
        ("Pending", "pending", True),
        ("Something new", "pending", True),
        ("Request Moderated", "refusal", False),
        ("Content Moderated", "refusal", True),
        ("Error", "failure", True),
        ("Task not found", "failure", True),
    ],
)
def test_states(state, expected, paid):
    progress = read_result({"id": "x", "status": state, "result": None})
    assert (progress.state, progress.paid) == (expected, paid)


def test_what_is_asked_for(tmp_path):
    with ChaosServer() as server:
        teacher = teacher_at(server, tmp_path, extra={"safety_tolerance": 2})
        (reply,) = teacher.generate([ASK])
        teacher.close()
        (submission,) = server.sent("/bfl/v1/flux-pro-1.1")
    assert reply.status == "image" and reply.cost_usd == 0.04
    asked = {"prompt": "tone 90", "seed": 5, "width": 96, "height": 64, "safety_tolerance": 2}
    assert submission.json() == asked and submission.key == "r1"


def test_a_shape_in_place_of_pixels(tmp_path):
    with ChaosServer() as server:
        teacher = teacher_at(server, tmp_path, size_as="aspect_ratio")
        (reply,) = teacher.generate([ASK])
        teacher.close()
        (submission,) = server.sent("/bfl/v1/flux-pro-1.1")
    assert submission.json() == {"prompt": "tone 90", "seed": 5, "aspect_ratio": "3:2"}
    assert reply.reason == "drawn at 64 x 64 px for 96 x 64"


@pytest.mark.parametrize(("fault", "words"), [("moderated", "Request Moderated"), ("moderated_late", "Content")])
def test_moderation_is_a_refusal(tmp_path, fault, words):
    with ChaosServer(Script(submit=[fault])) as server:
        teacher = teacher_at(server, tmp_path)
        (reply,) = teacher.generate([ASK])
        teacher.close()
    assert reply.status == "refusal" and words in reply.reason


def test_an_unusable_image_is_made_anew_by_the_next_try(tmp_path):
    with ChaosServer(Script(submit=["torn_image"])) as server:
        teacher = teacher_at(server, tmp_path)
        first, second = [next(iter(teacher.generate([ASK]))) for _ in range(2)]
        teacher.close()
        assert (first.status, second.status, server.billed) == ("failure", "image", 2)
    assert first.cost_usd == second.cost_usd == 0.04


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="extra holds 'seed', which this class sets itself"):
        BFLTeacher(extra={"seed": 1})
    with pytest.raises(ValueError, match="poll_every_s=-1"):
        BFLTeacher(poll_every_s=-1)
    with pytest.raises(ValueError, match="cost_usd_per_image=-1"):
        BFLTeacher(cost_usd_per_image=-1)


def test_fingerprints_name_what_changes_images():
    options = [{}, {"model": "flux-dev"}, {"size_as": "nothing"}, {"extra": {"safety_tolerance": 6}}]
    assert len({BFLTeacher(**option).fingerprint for option in options}) == len(options)
    assert BFLTeacher(poll_every_s=9, cost_usd_per_image=1).fingerprint == BFLTeacher().fingerprint


@pytest.mark.parametrize("name", ["BFLTeacher", "FalTeacher", "ReplicateTeacher", "StabilityTeacher"])
def test_a_yaml_builds_every_provider_and_changes_single_limits(name):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--teachers", type=dict[str, Teacher])
    model = {"FalTeacher": {"model": "fal-ai/flux/schnell"}, "ReplicateTeacher": {"model": "a/b"}}.get(name, {})
    init = {**model, "endpoint": {"max_in_flight": 3}, "cost_usd_per_image": 0.01}
    config = parser.parse_object(
        {"teachers": {"x": {"class_path": f"evolvedirector.teachers.{name}", "init_args": init}}}
    )
    teacher = parser.instantiate_classes(config).teachers["x"]
    assert teacher.price_usd() == 0.01
    assert "KEY" in parser.dump(config) or "TOKEN" in parser.dump(config), "the variable's default name stays"
