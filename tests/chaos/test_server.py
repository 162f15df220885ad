"""The server that other tests lean on does what its script says, and counts what it makes."""

import httpx
import pytest

from tests.chaos.script import BILLED, UNBILLED, Script, always
from tests.chaos.server import ChaosServer
from tests.toys import mean_tone

ASK = {"model": "toy-image", "prompt": "tone 90", "size": "32x16"}


def ask(server, **changes):
    headers = {"idempotency-key": changes.pop("key")} if "key" in changes else {}
    with httpx.Client(timeout=10, trust_env=False, verify=False) as client:  # certificates are slow to read
        return client.post(f"{server.url}/v1/images/generations", json={**ASK, **changes}, headers=headers)


def test_a_picture_is_made_once_and_charged():
    with ChaosServer() as server:
        answer = ask(server, response_format="url")
        picture = httpx.get(answer.json()["data"][0]["url"], trust_env=False, verify=False).content
        assert server.bills == ["tone 90"]
    assert mean_tone(picture) == pytest.approx(90, abs=1)


@pytest.mark.parametrize("fault", [*UNBILLED, *BILLED])
def test_only_what_was_made_is_charged(fault):
    with ChaosServer(Script(submit=[fault])) as server:
        try:
            usable = "b64_json" in ask(server).json()["data"][0]
        except (httpx.TransportError, KeyError, ValueError):
            usable = False
        assert not usable and server.billed == (fault in BILLED)
        assert "b64_json" in ask(server).json()["data"][0]


def test_a_known_key_gets_the_first_answer_again_where_keys_are_honoured():
    for honours, billed in ((True, 1), (False, 2)):
        with ChaosServer(Script(submit=["cut_late"]), honours_keys=honours) as server:
            with pytest.raises(httpx.TransportError):
                ask(server, key="k")
            assert ask(server, key="k").status_code == 200
            assert server.billed == billed


def test_a_drawn_day_is_the_same_whoever_comes_first():
    shares = {"busy": 0.2, "error_500": 0.2, "moderated": 0.2}
    prompts = [f"tone {tone}" for tone in range(20)]
    days = []
    for order in (prompts, prompts[::-1]):
        with ChaosServer(Script(shares=shares, seed=3)) as server:
            days.append({prompt: ask(server, prompt=prompt).status_code for prompt in order})
    assert days[0] == days[1]
    assert set(days[0].values()) == {200, 400, 429, 500}


def test_only_some_requests_may_be_chosen():
    with ChaosServer(Script(submit=always("bad_key"), only=["tone 90"])) as server:
        assert [ask(server, prompt=prompt).status_code for prompt in ("tone 90", "tone 91")] == [401, 200]
