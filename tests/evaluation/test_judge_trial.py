"""The figures of a judge on known answers, by hand."""

import io

import pytest
from PIL import Image

from evolvedirector.evaluation.judge_picture import judge_picture
from evolvedirector.evaluation.judge_trial import (
    GoldPair,
    Trial,
    corrected_trial,
    fit_trial,
    gold_pairs,
    trial_figures,
    try_judge,
)
from evolvedirector.judges.health.calibration import Calibration, probability_of
from evolvedirector.records import GoldItem, Look
from tests import toys


def gold(tone: int, shown: int) -> GoldItem:
    return GoldItem(f"{tone}-{shown}", toys.flat_png(shown), f"tone {tone}", abs(tone - shown) < 10)


ITEMS = [gold(10, 10), gold(10, 200), gold(100, 100), gold(100, 20), gold(200, 200), gold(200, 60)]
PAIR = GoldPair("p", b"right", b"wrong")


def trial(singles: list[tuple[bool, float | None]], pairs: list[tuple[float | None, float | None]]) -> Trial:
    """Looks by hand; None cannot be read."""

    def look(probability: float | None) -> Look:
        return Look("x", 0.5, 0.0) if probability is None else Look("x", probability)

    items = [(GoldItem(str(place), b"", "p", shows), look(p)) for place, (shows, p) in enumerate(singles)]
    orders = [(PAIR, look(forth), look(back)) for forth, back in pairs]
    return Trial(tuple(items), tuple(orders), 4.0, 0.002, len(items) + 2 * len(orders))


def test_figures_by_hand() -> None:
    figures = trial_figures(
        trial(
            [(True, 0.9), (True, 0.2), (False, 0.4), (False, None)], [(0.9, 0.2), (0.8, 0.7), (0.6, None), (0.5, 0.5)]
        )
    )
    assert figures["agreement"]["value"] == pytest.approx(2 / 3, abs=1e-6) and figures["agreement"]["of"] == 3
    assert (figures["agreement_shown"]["value"], figures["agreement_not_shown"]["value"]) == (0.5, 1.0)
    # pairs: both orders right; first always; right in the one order that was read; even
    assert figures["pairs_right"]["value"] == pytest.approx((1 + 0.5 + 1 + 0.5) / 4)
    assert figures["swap_consistency"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert figures["first_share"]["value"] == pytest.approx((0.5 + 1 + 1 + 0.5) / 4)
    assert figures["unreadable"] == pytest.approx(2 / 12)
    assert figures["brier"] == pytest.approx((0.01 + 0.64 + 0.16) / 3)
    assert figures["seconds_per_look"] == pytest.approx(1 / 3) and figures["cost_usd_per_1000_looks"] == 2.0


def test_nothing_measured_is_no_figure() -> None:
    figures = trial_figures(Trial((), (), 0.0))
    assert all(figures[key] is None for key in ("agreement", "pairs_right", "brier", "seconds_per_look"))
    assert figures["cost_usd_per_1000_looks"] is None


def test_each_shown_image_meets_one_that_fails_its_prompt() -> None:
    pairs = gold_pairs(ITEMS, 10)
    assert {(pair.prompt, toys.mean_tone(pair.right), toys.mean_tone(pair.wrong)) for pair in pairs} == {
        ("tone 10", 10, 200), ("tone 100", 100, 20), ("tone 200", 200, 60)
    }  # fmt: skip
    assert gold_pairs(ITEMS, 2) == pairs[:2] and gold_pairs(list(reversed(ITEMS)), 10) == pairs


def test_without_a_known_failure_another_prompt_with_other_words_is_taken() -> None:
    items = [GoldItem(prompt, prompt.encode(), prompt, True) for prompt in ("a red dog", "a dog", "two green cats")]
    wrong = {pair.prompt: pair.wrong for pair in gold_pairs(items, 10)}
    assert wrong["a dog"] == b"two green cats", "the image of a red dog shows a dog"
    assert wrong["a red dog"] == b"two green cats"
    assert gold_pairs(items[:2], 10) == []


def test_a_judge_is_asked_once_about_each_and_closed() -> None:
    class Judge(toys.ToyJudge):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    judge, times = Judge(), iter([10.0, 16.0])
    done = try_judge(judge, ITEMS, gold_pairs(ITEMS, 10), lambda: next(times))
    figures = trial_figures(done)
    assert judge.asked == done.looks == 6 + 2 * 3 and judge.closed == 1
    assert figures["agreement"]["value"] == figures["pairs_right"]["value"] == figures["swap_consistency"]["value"] == 1
    assert figures["first_share"]["value"] == 0.5 and figures["seconds_per_look"] == 0.5
    assert figures["cost_usd_per_1000_looks"] == 0.0, "a judge that knows no price runs here"


def test_a_judge_that_breaks_is_closed() -> None:
    class Broken(toys.ToyJudge):
        closed = 0

        def check(self, items):
            raise OSError("gone")

        def close(self) -> None:
            self.closed += 1

    judge = Broken()
    with pytest.raises(OSError, match="gone"):
        try_judge(judge, ITEMS, [], lambda: 0.0)
    assert judge.closed == 1


def test_a_correction_is_found_and_improves_what_it_was_fitted_to() -> None:
    # it says yes too surely, and prefers the first place by log-odds of 2
    singles = [(place % 3 != 0, 0.98) for place in range(60)] + [(place % 3 == 0, 0.02) for place in range(60)]
    pairs = [(probability_of(2 + z), probability_of(2 - z)) for z in (1.0, 1.5, 1.0, 0.5, -1.0)] * 20
    said = trial(singles, pairs)
    single, pair = fit_trial(said)
    assert single.temperature > 2 and pair.shift == pytest.approx(2.0, abs=0.3)
    before, after = trial_figures(said), trial_figures(corrected_trial(said, single, pair))
    assert after["brier"] < before["brier"] and after["calibration_error"] < before["calibration_error"]
    assert before["first_share"]["value"] == 1.0 and after["first_share"]["value"] == pytest.approx(0.5)
    assert after["pairs_right"]["value"] == pytest.approx(0.8) and before["pairs_right"]["value"] == 0.5


def test_what_cannot_be_read_is_neither_fitted_nor_corrected() -> None:
    said = trial([(True, None)], [(None, None)])
    assert fit_trial(said) == (Calibration(), Calibration())
    assert corrected_trial(said, Calibration(2.0, 1.0), Calibration(2.0, 1.0)) == said


@pytest.mark.parametrize("judges", [1, 6])
def test_the_picture_can_be_opened_and_shows_every_judge(judges: int) -> None:
    figures = trial_figures(trial([(True, 0.9), (False, 0.4)], []))  # pairs were not measured
    picture = Image.open(io.BytesIO(judge_picture({f"judge {place}": figures for place in range(judges)})))
    colours = {colour for _, colour in picture.getcolors(2**20) or [] if max(colour) - min(colour) > 60}
    assert picture.format == "PNG" and picture.width > 800
    assert len({max(range(3), key=lambda band: colour[band]) for colour in colours}) == (1 if judges == 1 else 3)
