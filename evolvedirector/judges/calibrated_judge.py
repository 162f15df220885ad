"""A judge whose probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from evolvedirector.judges.health.calibration import Calibration, calibrated
from evolvedirector.judges.judge import Judge, models_of
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair, digest
from evolvedirector.records.part import bytes_of, close_parts, price_of, requests_in_flight_of, verify_parts


class CalibratedJudge:
    """Correct a judge's probabilities by what it said of images with known answers.

    `evolvedirector judge calibrate judge.yaml --gold gold.jsonl` measures the four values and writes them as the YAML
    of this judge. They are settings, not measured while training: the judge stays the same over a run, and no look is
    spent outside of the books. What is asked anew in every round is `JudgeHealth`. With log-odds z = log p / (1 - p)
    of a look, p' has the log-odds (z - shift) / temperature. An unreadable look stays as it is, and
    so does an even look at a pair (1/2): a tie.

    Args:
        judge: Whom to correct.
        temperature: Divides the log-odds of single images, over 0; over 1 for a judge that is too sure.
        shift: Log-odds at which it is undecided about single images; over 0 for a judge that says yes too often.
        pair_temperature: Divides the log-odds of pairs, over 0.
        first_shift: Its preference for the first place, in log-odds; under 0 where it prefers the second.

    Raises:
        ValueError: A temperature of 0 or less, or a value that is no finite number.
    """

    def __init__(
        self,
        judge: Judge,
        temperature: float = 1.0,
        shift: float = 0.0,
        pair_temperature: float = 1.0,
        first_shift: float = 0.0,
    ) -> None:
        for name, value, low in (
            ("temperature", temperature, 0.0),
            ("pair_temperature", pair_temperature, 0.0),
            ("shift", shift, float("-inf")),
            ("first_shift", first_shift, float("-inf")),
        ):
            if not low < value < float("inf"):
                allowed = "over 0" if low == 0.0 else "a number"
                raise ValueError(
                    f"{name} is {value}. Allowed: {allowed}. Write `{name}: {1.0 + low if low == 0 else 0.0}`."
                )
        self.judge = judge
        self.temperature = temperature
        self.shift = shift
        self.pair_temperature = pair_temperature
        self.first_shift = first_shift

    @property
    def fingerprint(self) -> str:
        """Name the judge and its correction."""
        values = (self.temperature, self.shift, self.pair_temperature, self.first_shift)
        return f"calibrated-1/{digest(self.judge.fingerprint, repr(values))}"

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair in its one order, the corrected probability that the first image fits better.

        Args:
            pairs: Encoded images.
        """
        yield from _corrected(self.judge.look(pairs), Calibration(self.pair_temperature, self.first_shift), True)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the corrected probability that the image shows the prompt.

        Args:
            items: Encoded images with their prompts.
        """
        yield from _corrected(self.judge.check(items), Calibration(self.temperature, self.shift))

    @property
    def requests_in_flight(self) -> int:
        """Return how many questions a round should hand over at once; 0 where the judge runs here."""
        return requests_in_flight_of(self.judge)

    def verify(self) -> None:
        """Let the judge check that it can work, before anything is spent.

        Raises:
            ValueError: It cannot.
        """
        verify_parts(self.judge)

    def estimated_bytes(self) -> int:
        """Return what the judge needs on a device, in bytes, as far as it says so."""
        return sum(bytes_of(self.judge))

    def price_usd(self) -> float | None:
        """Return what a look of the judge costs in USD; None where it is not known."""
        return price_of(self.judge)

    def models(self) -> frozenset[str]:
        """Name every model behind this judge."""
        return models_of(self.judge)

    def close(self) -> None:
        """Free the memory and connections of the judge."""
        close_parts(self.judge)


def _corrected(looks: Iterator[Look], calibration: Calibration, keep_even: bool = False) -> Iterator[Look]:
    for look in looks:
        readable = look.covered_mass > 0.0 and 0.0 <= look.probability <= 1.0
        # An even pair is a tie, not a preference for the place that the shift corrects.
        kept = not readable or (keep_even and look.probability == 0.5)
        yield look if kept else replace(look, probability=calibrated(look.probability, calibration))
