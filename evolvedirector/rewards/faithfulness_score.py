"""How sure a judge is that an image shows its prompt, as a reward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageAndPrompt, Score, digest
from evolvedirector.records.looks import is_readable
from evolvedirector.records.part import bytes_of, close_parts, price_of, requests_in_flight_of, verify_parts


class FaithfulnessScore:
    """Score an image by the probability of a judge that it shows its prompt, 0 to 1.

    Any judge will do: `FaithfulnessJudge` asks part by part, `PanelJudge` asks several models, a world's own reader
    sees the truth. A judge that selects here must not be the one that measures the result, and one that also decides
    in rounds makes both agree with its mistakes: build another one of another model.

    Args:
        judge: Its `check` is asked about each image.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    @property
    def fingerprint(self) -> str:
        """Name the judge."""
        return f"faithfulness-score-1/{digest(self.judge.fingerprint)}"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield the probability per item as the looks come; nan where a look could not be read.

        Args:
            items: Encoded images with their prompts.
        """
        if not items:
            return
        for look in self.judge.check(items):
            readable = is_readable(look)
            value = look.probability if readable else math.nan
            reason = "" if readable else look.reason or "no readable answer"
            yield Score(look.item_id, value, reason, look.sent and not look.cut_off)

    @property
    def requests_in_flight(self) -> int:
        """Return how many images the judge wants at once; 0 where it runs here."""
        return requests_in_flight_of(self.judge)

    def price_usd(self) -> float | None:
        """Return what a score costs in USD; None where it is not known."""
        return price_of(self.judge)

    def estimated_bytes(self) -> int:
        """Return what the judge needs on a device, in bytes, as far as it says so."""
        return sum(bytes_of(self.judge))

    def verify(self) -> None:
        """Let the judge check that it can work, before anything is spent.

        Raises:
            UserError: It cannot.
        """
        verify_parts(self.judge)

    def close(self) -> None:
        """Free the judge's memory and connections."""
        close_parts(self.judge)
