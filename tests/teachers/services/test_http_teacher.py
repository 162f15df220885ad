"""An API described in a config: values go in whole, the key into one header, and answers are read by paths."""

import jsonargparse
import pytest

from evolvedirector.records import ImageRequest
from evolvedirector.teachers import HTTPTeacher, Teacher
from evolvedirector.teachers.services.http_answers import HTTPPolling
from evolvedirector.teachers.services.http_teacher import split_headers
from evolvedirector.teachers.services.image_api import nearest_aspect_ratio
from evolvedirector.teachers.services.json_template import check_template, fill, value_at
from evolvedirector.transport.endpoint import Endpoint
from tests.chaos.script import Script
from tests.chaos.server import ChaosServer

NASTY = 'tone "90", {seed} \\ "}, "model": "dearer'
BODY = {
    "model": "toy-image",
    "prompt": "{prompt}",
    "options": [{"seed": "{seed}"}],
    "size": "{size}",
    "w": "{width_px}",
}
FAL = HTTPPolling("status_url", "status", ("COMPLETED",), result_url_path="response_url", poll_every_s=0.01)
BFL = HTTPPolling(
    "polling_url", "status", ("Ready",), ("Error",), ("Request Moderated", "Content Moderated"), poll_every_s=0.01
)


def endpoint(server, path, **limits):
    return Endpoint(server.url + path, **{"timeout_s": 10, "deadline_s": 30, "attempts": 2, **limits})


def drawn(teacher, prompt="tone 90"):
    (reply,) = teacher.generate([ImageRequest("r1", prompt, 2**31 + 5, 96, 64)])
    teacher.close()
    return reply


def test_values_go_in_whole_and_as_they_are():
    with ChaosServer() as server:
        reply = drawn(HTTPTeacher(endpoint(server, "/v1"), "images/generations", BODY, "data.0.b64_json"), NASTY)
        (request,) = server.requests
    assert reply.status == "image"
    asked = {"model": "toy-image", "prompt": NASTY, "options": [{"seed": 5}], "size": "96x64", "w": 96}
    assert request.json() == asked and request.key == "r1"


def test_images_by_address_are_fetched_from_the_service_or_allowed_hosts():
    body = {"prompt": "{prompt}", "response_format": "url"}
    for fault, status in (("", "image"), ("url_elsewhere", "failure"), ("url_link_local", "failure")):
        with ChaosServer(Script(submit=[fault])) as server:
            teacher = HTTPTeacher(
                endpoint(server, "/v1"), "images/generations", body, "data.0.url", cost_usd_per_image=0.01
            )
            reply = drawn(teacher)
        assert (reply.status, reply.cost_usd) == (status, 0.01)


def test_the_answer_may_be_the_image():
    body = {"prompt": "{prompt}", "response_format": "raw"}
    for fault, status in (("", "image"), ("html", "failure"), ("cut_body", "failure"), ("bad_request", "failure")):
        with ChaosServer(Script(submit=[fault])) as server:
            assert drawn(HTTPTeacher(endpoint(server, "/v1"), "images/generations", body, None)).status == status


@pytest.mark.parametrize("polling", [FAL, BFL], ids=["result at another address", "result in the status"])
def test_jobs_are_polled_and_taken_up_again(polling, tmp_path):
    path = ("/fal", "a/model", "images.0.url") if polling is FAL else ("/bfl", "v1/flux", "result.sample")
    with ChaosServer(polls=10**6) as server:
        options = {"polling": polling, "jobs_path": str(tmp_path / "jobs")}
        body = {"prompt": "{prompt}"}
        assert (
            drawn(HTTPTeacher(endpoint(server, path[0], deadline_s=0.5), *_of(path, body), **options)).status
            == "failure"
        )
        for job in server.jobs.values():
            job.polls_left = 0
        assert drawn(HTTPTeacher(endpoint(server, path[0]), *_of(path, body), **options)).status == "image"
        assert server.billed == 1


def _of(path, body):
    return path[1], body, path[2]


@pytest.mark.parametrize("fault", ["moderated", "moderated_late", "error_state"])
def test_states_of_jobs(fault, tmp_path):
    with ChaosServer(Script(submit=[fault])) as server:
        teacher = HTTPTeacher(
            endpoint(server, "/bfl"), "v1/m", {"prompt": "{prompt}"}, "result.sample", polling=BFL,
            jobs_path=str(tmp_path / "jobs"),
        )  # fmt: skip
        assert drawn(teacher).status == ("failure" if fault == "error_state" else "refusal")


def test_refusals_are_read_by_path_from_answers_and_errors(tmp_path):
    with ChaosServer(Script(submit=["moderated"])) as server:
        by_code = {"refusal_path": "error.code", "refusal_values": ["moderation_blocked"]}
        reply = drawn(HTTPTeacher(endpoint(server, "/v1"), "images/generations", BODY, "data.0.b64_json", **by_code))
    assert reply.status == "refusal" and "moderation_blocked" in reply.reason
    with ChaosServer(Script(submit=["moderated"])) as server:
        flagged = {"refusal_path": "has_nsfw_concepts.0", "polling": FAL, "jobs_path": str(tmp_path / "jobs")}
        reply = drawn(HTTPTeacher(endpoint(server, "/fal"), "m", {"prompt": "{prompt}"}, "images.0.url", **flagged))
    assert reply.status == "refusal"
    with ChaosServer(Script(submit=["bad_key"])) as server:
        any_error = {"refusal_path": "error"}
        reply = drawn(HTTPTeacher(endpoint(server, "/v1"), "images/generations", BODY, "data.0.b64_json", **any_error))
    assert reply.status == "failure", "a denied key is no refusal"


def test_the_key_goes_into_the_header_that_names_it(monkeypatch):
    monkeypatch.setenv("CHAOS_KEY", "canary-0123456789")
    with ChaosServer() as server:
        at = endpoint(server, "/v1", api_key_env="CHAOS_KEY")
        headers = {"X-Team": "ours", "X-Key": "Token {key}"}
        teacher = HTTPTeacher(at, "images/generations", BODY, "data.0.b64_json", headers=headers, verify_path="models")
        teacher.verify()
        assert drawn(teacher).status == "image"
        for request in server.requests:
            assert request.headers["x-key"] == "Token canary-0123456789" and request.headers["x-team"] == "ours"
            assert "authorization" not in request.headers


def test_headers():
    assert split_headers(None) == ({}, "Authorization", "Bearer")
    assert split_headers({"X-Key": "{key}"}) == ({}, "X-Key", "")
    for wrong in (
        {"A": "{key}{key}"},
        {"A": "a {key} b"},
        {"A": "{key}", "B": "{key}"},
        {"A": "x\r\nB: y"},
        {"Host": "x"},
    ):
        with pytest.raises(ValueError, match=r"Allowed (is|are)"):
            split_headers(wrong)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"body": {"prompt": "a {prompt}"}}, "as a whole string"),
        ({"body": {"prompt": "{prompt}", "key": "{key}"}}, "Allowed are {height_px}"),
        ({"body": {"text": "hello"}}, "body holds no prompt"),
        ({"path": "https://other.example.org/x"}, "a path below base_url"),
        ({"path": "x?key={key}"}, "a path below base_url"),
        ({"image_hosts": ["*.com"]}, "no host that images may be fetched from"),
        ({"method": "DELETE"}, "Allowed are POST and PUT"),
        ({"polling": FAL, "image_path": None}, "image_path is null"),
    ],
)
def test_what_cannot_be_is_refused(changes, words):
    options = {"path": "x", "body": BODY, "image_path": "a", **changes}
    with pytest.raises(ValueError, match=words):
        HTTPTeacher(Endpoint("https://api.example.org"), **options)


def test_paths_lead_into_json_and_nowhere_else():
    document = {"data": [{"url": "u"}], "n": 0}
    assert value_at(document, "data.0.url") == "u" and value_at(document, "n") == 0
    for path in ("data.1.url", "data.-1", "data.url", "data.0.url.x", "__class__", ""):
        assert value_at(document, path) is None
    assert fill(["{a}", {"k": "{a} "}, 3], {"a": [1]}) == [[1], {"k": "{a} "}, 3]
    check_template({"a": "{ not one }", "b": "{}"}, ["a"], "body")


def test_shapes():
    assert [nearest_aspect_ratio(*size) for size in ((64, 64), (1920, 1080), (800, 1200), (10, 1))] == [
        "1:1", "16:9", "2:3", "21:9",
    ]  # fmt: skip


def test_a_yaml_builds_it():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--teachers", type=dict[str, Teacher])
    polling = {"status_url_path": "urls.get", "status_path": "status", "done_values": ["done"]}
    init = {"endpoint": {"base_url": "https://api.example.org"}, "path": "x", "body": BODY, "image_path": "data.0.url",
            "image_hosts": ["cdn.example.org"], "polling": polling, "refusal_path": "flag"}  # fmt: skip
    entry = {"class_path": "evolvedirector.teachers.HTTPTeacher", "init_args": init}
    config = parser.parse_object({"teachers": {"x": entry}})
    again = parser.parse_string(parser.dump(config))
    teachers = [parser.instantiate_classes(parsed).teachers["x"] for parsed in (config, again)]
    assert teachers[0].fingerprint == teachers[1].fingerprint
    changed = {**init, "body": {**BODY, "model": "other"}}
    assert HTTPTeacher(**{**changed, "endpoint": Endpoint("https://api.example.org"), "polling": None}).fingerprint != (
        teachers[0].fingerprint
    )


@pytest.mark.parametrize(
    "change", [{"headers": {"X-Model-Version": "2"}}, {"image_path": "data.1.url"}, {"method": "PUT"}, {"path": "y"}]
)
def test_whatever_changes_the_images_changes_the_fingerprint(change):
    settings = {"endpoint": Endpoint("https://api.example.org"), "path": "x", "body": BODY, "image_path": "data.0.url",
                "headers": {"X-Model-Version": "1", "X-Key": "{key}"}}  # fmt: skip
    plain = HTTPTeacher(**settings).fingerprint
    assert HTTPTeacher(**settings).fingerprint == plain != HTTPTeacher(**{**settings, **change}).fingerprint
