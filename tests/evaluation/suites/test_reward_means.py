"""Means of rewards rest on prompts."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from evolvedirector.evaluation.intervals import mean_interval
from evolvedirector.evaluation.suite import Offered
from evolvedirector.evaluation.suites import RewardMeans
from evolvedirector.records import ImageAndPrompt, Prompt, Score
from tests.evaluation.suites.asked import measure
from tests.toys import flat_png, mean_tone, tone_of

PROMPTS = [Prompt.create(f"tone {tone}", skill="dark" if tone < 100 else "light") for tone in (10, 20, 120, 200)]


class Brightness:
    fingerprint = "brightness"
    closed = 0

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        for item in items:
            value = math.nan if tone_of(item.prompt) == 20 else mean_tone(item.image)
            yield Score(item.item_id, value)

    def close(self) -> None:
        self.closed += 1


def test_the_mean_is_over_prompts_and_what_cannot_be_scored_is_left_out() -> None:
    reward = Brightness()
    suite = RewardMeans({"bright": reward}, images_per_prompt=3)
    rows = measure(suite, Offered(PROMPTS, size_px=8), lambda r: flat_png(tone_of(r.prompt) + r.seed % 3)).rows
    dark, light = rows["bright/dark"], rows["bright/light"]
    assert (dark.of, light.of, rows["bright"].of) == (1, 2, 3)
    assert 10 <= dark.value <= 12 and dark.interval is None  # type: ignore[operator]
    assert 160 <= light.value <= 162 and rows["bright"].value == pytest.approx((dark.value + 2 * light.value) / 3)  # type: ignore[operator]
    assert reward.closed == 1 and suite.looks(4) == {"rewards.bright": 12}


def test_the_interval_is_that_of_a_mean() -> None:
    assert mean_interval([1.0]) is None
    low, high = mean_interval([1.0, 2.0, 3.0, 4.0])  # type: ignore[misc]
    half = 1.96 * math.sqrt((2.25 + 0.25 + 0.25 + 2.25) / 3 / 4)
    assert (low, high) == (pytest.approx(2.5 - half), pytest.approx(2.5 + half))


def test_figures_of_other_prompts_are_named_otherwise(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("tone 10\n")
    (tmp_path / "other.txt").write_text("tone 20\n")
    named = {
        RewardMeans({"bright": Brightness()}, prompts).fingerprint
        for prompts in (None, tmp_path / "one.txt", tmp_path / "other.txt")
    }
    assert len(named) == 3


@pytest.mark.parametrize("wrong", [{"rewards": {}}, {"images_per_prompt": 0}, {"max_prompts": 0}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RewardMeans(**{"rewards": {"bright": Brightness()}, **wrong})
