"""Whatever a provider does, it becomes a reply or a retried success, in time, and the books cover what it bills."""

import time
from dataclasses import replace

import pytest

from evolvedirector.evolution.budget import Budget
from evolvedirector.records import ImageRequest
from tests.chaos.script import BILLED, Script, always
from tests.chaos.server import ChaosServer
from tests.teachers.services.provider_run import PRICE_USD, evolve, teacher_at
from tests.toys import mean_tone

QUEUED = ("bfl", "fal", "replicate")
PROVIDERS = ("openai", "stability", "http", *QUEUED)

RETRIED = ("busy", "busy_silent", "error_503", "cut_twice")
UNCERTAIN = ("error_500", "error_502", "timeout_408", "cut_early")
"""Not billed here, but nobody can know: another service may have drawn behind such an answer."""
PLANS = {"cut_twice": ["busy", "error_503"]}
EXPECTED = {
    **dict.fromkeys(RETRIED, "image"),
    **dict.fromkeys([*UNCERTAIN, *BILLED], "failure"),
    **dict.fromkeys(["bad_request", "unknown", "invalid"], "failure"),
    **dict.fromkeys(["bomb_header", "bomb_uniform", "html_image", "torn_image", "empty"], "failure"),
    **dict.fromkeys(["moderated", "black", "blurred"], "refusal"),
    "wrong_type": "image",
    "": "image",
}
"""Reply by the fault that met a request's first arrival, where nobody promised that keys are honoured."""
OF_QUEUES = {
    **dict.fromkeys(["polling_elsewhere", "url_link_local", "url_private", "url_elsewhere"], "failure"),
    **dict.fromkeys(["url_file", "error_state"], "failure"),
}


def requests_of(faults, side_px=64):
    return [ImageRequest(f"request-{fault}", f"a {fault} day", 7, side_px, side_px) for fault in faults]


def script_of(faults):
    return Script(by_prompt={f"a {fault} day": PLANS.get(fault, [fault]) for fault in faults})


def answers(teacher, requests):
    replies = list(teacher.generate(requests))
    teacher.close()
    assert sorted(reply.request_id for reply in replies) == sorted(request.request_id for request in requests)
    return {reply.request_id.removeprefix("request-"): reply for reply in replies}


# jobs are asked for again and again: the slowest of the protocols
SLOWEST = {"fal": pytest.mark.slow}


@pytest.mark.parametrize("provider", [pytest.param(name, marks=SLOWEST.get(name, ())) for name in PROVIDERS])
def test_every_fault_becomes_a_reply_and_the_cost_covers_the_bill(provider, tmp_path):
    faults = {**EXPECTED, **(OF_QUEUES if provider in QUEUED else {})}
    if provider == "http":  # nothing was described that could tell an error from a refusal
        faults["moderated"] = "failure"
    if provider == "stability":  # an image is whatever the body holds
        faults["error_inside"] = "failure"
    with ChaosServer(script_of(faults), together=2) as server:
        teacher = teacher_at(provider, server.url, tmp_path / "jobs", max_in_flight=64, attempts=6)
        replies = answers(teacher, requests_of(faults))
        assert {fault: reply.status for fault, reply in replies.items()} == faults
        assert server.billed * PRICE_USD <= sum(reply.cost_usd for reply in replies.values()) + 1e-9
        assert server.most_in_flight > 1
    assert all(reply.reason for reply in replies.values() if reply.status != "image")
    assert not any("SIGNATURE" in reply.reason for reply in replies.values()), "a signed URL was told"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_service_that_never_ends_its_answer_is_left_at_the_deadline(provider, tmp_path):
    faults = ["slow", "hang", "endless"]
    with ChaosServer(script_of(faults)) as server:
        teacher = teacher_at(provider, server.url, tmp_path / "jobs", timeout_s=5, deadline_s=1.0, attempts=2)
        began = time.monotonic()
        replies = answers(teacher, requests_of(faults))
        assert time.monotonic() - began < 20
        assert {reply.status for reply in replies.values()} == {"failure"}
        assert server.billed * PRICE_USD <= sum(reply.cost_usd for reply in replies.values()) + 1e-9


@pytest.mark.parametrize("provider", QUEUED)
def test_a_job_that_never_ends_is_left_at_the_deadline_and_taken_up_by_the_next_try(provider, tmp_path):
    with ChaosServer(polls=10**6) as server:
        requests = requests_of(["", "x"])
        slow = teacher_at(provider, server.url, tmp_path / "jobs", deadline_s=1.0)
        assert [(r.status, r.cost_usd) for r in answers(slow, requests).values()] == [("failure", PRICE_USD)] * 2
        for job in server.jobs.values():
            job.polls_left = 0
        later = teacher_at(provider, server.url, tmp_path / "jobs")
        assert [reply.status for reply in answers(later, requests).values()] == ["image"] * 2
        assert server.billed == 2


@pytest.mark.parametrize("provider", QUEUED)
def test_a_job_given_to_two_requests_is_the_image_of_one(provider, tmp_path):
    with ChaosServer(script_of(["duplicate_id"])) as server:
        teacher = teacher_at(provider, server.url, tmp_path / "jobs", max_in_flight=1)
        replies = answers(teacher, requests_of(["", "duplicate_id"]))
    assert [replies[fault].status for fault in ("", "duplicate_id")] == ["image", "failure"]


MEDIA = {
    **dict.fromkeys(["expired", "link_local", "private", "elsewhere", "redirect_loop"], "failure"),
    **dict.fromkeys(["error_503", "cut_body", "length_too_large"], "image"),
}


@pytest.mark.parametrize("provider", QUEUED)
@pytest.mark.parametrize("fault", MEDIA)
def test_results_lead_nowhere_else_and_broken_downloads_are_repeated(provider, fault, tmp_path):
    with ChaosServer(Script(media=[fault] if MEDIA[fault] == "image" else always(fault))) as server:
        teacher = teacher_at(provider, server.url, tmp_path / "jobs", api_key_env=None)
        (reply,) = answers(teacher, requests_of([""])).values()
    assert reply.status == MEDIA[fault] and reply.cost_usd == PRICE_USD
    assert server.billed == 1


@pytest.mark.parametrize("fault", ["bad_key", "no_credit", "forbidden"])
@pytest.mark.parametrize("provider", ["openai", "bfl", "stability"])
def test_a_closed_door_is_knocked_at_by_those_in_flight_only(provider, fault, tmp_path, monkeypatch):
    monkeypatch.setenv("CHAOS_KEY", "canary-0123456789")
    with ChaosServer(Script(submit=always(fault))) as server:
        teacher = teacher_at(provider, server.url, tmp_path / "jobs", max_in_flight=4, api_key_env="CHAOS_KEY")
        replies = answers(teacher, requests_of(map(str, range(40))))
        assert {reply.status for reply in replies.values()} == {"failure"}
        assert len(server.requests) <= 4 and server.billed == 0
    assert not any("canary" in reply.reason for reply in replies.values())
    assert sum(reply.cost_usd for reply in replies.values()) == 0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_key_goes_to_the_provider_and_not_to_where_results_lie(provider, tmp_path, monkeypatch):
    monkeypatch.setenv("CHAOS_KEY", "canary-0123456789")
    with ChaosServer(api_key="canary-0123456789", models=("toy-image", "toy/toy-image")) as server:
        teacher = teacher_at(provider, server.url, tmp_path / "jobs", api_key_env="CHAOS_KEY")
        teacher.verify()
        (reply,) = answers(teacher, requests_of([""])).values()
        assert reply.status == "image"
        for request in server.requests:
            holds = "canary" in repr(request.headers)
            assert holds == (not request.path.startswith("/media")), request.path
            assert "canary" not in request.target and b"canary" not in request.body
        assert bool(server.sent("/media")) == (provider in QUEUED)
    assert "canary" not in repr(vars(teacher)) + teacher.fingerprint


@pytest.mark.parametrize("provider", [provider for provider in PROVIDERS if provider not in ("fal", "http")])
def test_a_wrong_key_and_a_host_that_is_not_there_are_told_before_anything_is_spent(provider, tmp_path, monkeypatch):
    monkeypatch.setenv("CHAOS_KEY", "canary-wrong")
    with ChaosServer(api_key="another") as server:
        teacher = teacher_at(provider, server.url, tmp_path / "jobs", api_key_env="CHAOS_KEY")
        with pytest.raises(ValueError, match="key in CHAOS_KEY is not accepted"):
            teacher.verify()
    with pytest.raises(ValueError, match="cannot be reached"):
        teacher_at(provider, server.url, tmp_path / "jobs", attempts=1).verify()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_that_is_not_set_is_told(provider, tmp_path, monkeypatch):
    monkeypatch.delenv("CHAOS_KEY", raising=False)
    teacher = teacher_at(provider, "http://127.0.0.1:9", tmp_path / "jobs", api_key_env="CHAOS_KEY")
    with pytest.raises(ValueError, match="CHAOS_KEY is not set"):
        teacher.verify()


def test_where_keys_are_honoured_an_unknown_outcome_is_asked_for_again_and_billed_once():
    faults = [*UNCERTAIN, *BILLED]
    with ChaosServer(script_of(faults), honours_keys=True) as server:
        teacher = teacher_at("openai", server.url, idempotent=True, max_in_flight=16)
        replies = answers(teacher, requests_of(faults))
        assert {reply.status for reply in replies.values()} == {"image"}
        assert server.billed == len(faults)


@pytest.mark.parametrize(
    ("provider", "fault"),
    [("openai", "torn_image"), ("openai", "html_image"), ("stability", "torn_image"), ("bfl", "torn_image"),
     ("bfl", "error_state"), ("fal", "torn_image"), ("replicate", "torn_image")],
)  # fmt: skip
def test_where_keys_are_honoured_a_new_try_is_new_work_and_a_repeated_one_is_not(provider, fault, tmp_path):
    ask = ImageRequest("request-90", "tone 90", 0, 32, 32)
    with ChaosServer(Script(submit=[fault]), honours_keys=True) as server:
        teacher = teacher_at(provider, server.url, tmp_path / "jobs", idempotent=True)
        (failed,) = teacher.generate([ask])
        (repeated,) = teacher.generate([ask])
        assert failed.status == repeated.status == "failure" and failed.closed and server.billed == 1
        (drawn,) = teacher.generate([replace(ask, attempt=1)])
        assert drawn.status == "image" and drawn.request_id == "request-90" and server.billed == 2
        teacher.close()


def test_a_failure_whose_outcome_is_unknown_is_taken_up_under_the_same_key():
    ask = ImageRequest("request-90", "tone 90", 0, 32, 32)
    with ChaosServer(Script(submit=["cut_late"]), honours_keys=True) as server:
        (unknown,) = teacher_at("openai", server.url).generate([ask])
        assert unknown.status == "failure" and not unknown.closed
        (drawn,) = teacher_at("openai", server.url).generate([ask])
        assert drawn.status == "image" and server.billed == 1


SHARES = {"busy": 0.1, "error_502": 0.05, "cut_late": 0.08, "garbage": 0.05, "moderated": 0.08, "torn_image": 0.05}


@pytest.mark.parametrize(
    ("provider", "in_flight", "budget"),
    [
        ("openai", 1, Budget(11)),
        ("openai", 64, Budget(11)),
        ("bfl", 8, Budget(None, None, 0.105)),
        ("stability", 64, Budget(None, None, 0.105, prices_usd={"api": PRICE_USD})),
    ],
)
def test_the_books_cover_the_bill_inside_of_the_budget_at_any_concurrency(provider, in_flight, budget, tmp_path):
    with ChaosServer(Script(shares=SHARES, seed=in_flight), latency_s=0.001) as server:
        teacher = teacher_at(provider, server.url, tmp_path / "jobs", max_in_flight=in_flight)
        books = evolve(tmp_path / "data", teacher, budget)
        billed = server.billed
    assert 0 < billed <= books["calls"] <= (budget.budget_teacher_calls or 10**6)
    assert billed * PRICE_USD <= books["cost_usd"] + 1e-9 <= (budget.budget_cost_usd or 10**6)
    assert books["live"] > 0 and books["lost"] == 0


def test_the_picture_that_comes_is_the_one_that_was_asked_for(tmp_path):
    requests = [ImageRequest(f"request-{tone}", f"tone {tone}", 0, 32, 32) for tone in range(60, 200, 25)]
    for provider in PROVIDERS:
        with ChaosServer() as server:
            replies = answers(teacher_at(provider, server.url, tmp_path / provider), requests)
        for tone, reply in replies.items():
            assert mean_tone(reply.image) == pytest.approx(int(tone), abs=1)
