"""A judge's look at one image as a score: as sure as the judge, nan where it read nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest

from evolvedirector.records import ImageAndPrompt, Look
from evolvedirector.records.part import Closable, OnDevice, Priced, Remote, Verifiable
from evolvedirector.rewards import FaithfulnessScore, Reward
from evolvedirector.worlds.shapes import MiniatureJudge
from tests import toys

ITEMS = [ImageAndPrompt(str(tone), toys.flat_png(tone), "tone 200") for tone in (200, 90)]


class Judge(toys.ToyJudge):
    """Answers in another order, as services do, with looks that are given; is dear, large and far away."""

    requests_in_flight = 7
    closed = verified = False

    def __init__(self, **fields: object) -> None:
        super().__init__()
        self.fields = fields

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        return (Look(look.item_id, look.probability, **self.fields) for look in reversed(list(super().check(items))))  # type: ignore[arg-type]

    def price_usd(self) -> float:
        return 0.25

    def estimated_bytes(self) -> int:
        return 99

    def verify(self) -> None:
        self.verified = True

    def close(self) -> None:
        self.closed = True


def test_the_score_is_the_judges_probability() -> None:
    reward = FaithfulnessScore(Judge())
    assert {score.item_id: score.value for score in reward.score(ITEMS)} == {"200": 0.9, "90": 0.1}
    assert isinstance(reward, Reward) and list(reward.score([])) == []


@pytest.mark.parametrize(
    ("fields", "sent", "reason"),
    [
        ({"covered_mass": 0.1}, True, "no readable answer"),
        ({"covered_mass": 0.0, "reason": "refused"}, True, "refused"),
        ({"covered_mass": 0.0, "reason": "no key", "sent": False}, False, "no key"),
        ({"covered_mass": 0.0, "reason": "cut", "cut_off": True}, False, "cut"),
    ],
)
def test_what_was_not_read_is_no_low_score_and_what_an_outage_kept_back_is_asked_again(
    fields: dict[str, object], sent: bool, reason: str
) -> None:
    for score in FaithfulnessScore(Judge(**fields)).score(ITEMS):
        assert math.isnan(score.value) and score.sent == sent and score.reason == reason


def test_what_the_judge_needs_and_costs_the_reward_needs_and_costs() -> None:
    judge = Judge()
    reward = FaithfulnessScore(judge)
    for seam in (Verifiable, Priced, OnDevice, Remote, Closable):
        assert isinstance(reward, seam)
    reward.verify()
    reward.close()
    assert judge.verified and judge.closed
    assert (reward.price_usd(), reward.estimated_bytes(), reward.requests_in_flight) == (0.25, 99, 7)


def test_another_judge_is_another_reward() -> None:
    exact, noisy = MiniatureJudge(), MiniatureJudge(error_rate=0.1)
    assert FaithfulnessScore(exact).fingerprint != FaithfulnessScore(noisy).fingerprint
    assert FaithfulnessScore(exact).fingerprint != exact.fingerprint
