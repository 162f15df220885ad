"""How much the stages of a pair builder may use up."""

from __future__ import annotations

import math
from collections.abc import Mapping

from evolvedirector.errors import UserError
from evolvedirector.pairs.pair_book import StageSpend
from evolvedirector.pairs.pair_records import STAGES


class PairBudget:
    """Limit calls, seconds and money of each stage, and what one kept pair may cost.

    What was used up by earlier builds of the same root counts. A stage whose budget is gone leaves pairs open: the same
    command with a larger budget goes on where it stopped.
    """

    def __init__(
        self,
        calls: dict[str, int] | None = None,
        seconds: dict[str, float] | None = None,
        usd: dict[str, float] | None = None,
        total_seconds: float | None = None,
        total_usd: float | None = None,
        seconds_per_kept: float | None = None,
        usd_per_kept: float | None = None,
        per_kept_after: int = 64,
    ) -> None:
        """Set limits.

        Args:
            calls: By stage (subjects, prompt, draft, refine, view, mask, filter). None: no limit.
            seconds: By stage: time at work, on whatever device the stage has. None: no limit.
            usd: By stage, in US dollars. None: no limit.
            total_seconds: Over all stages. None: no limit.
            total_usd: Likewise, in US dollars.
            seconds_per_kept: The build stops when a kept pair has cost more on average. None: no limit.
            usd_per_kept: Likewise, in US dollars.
            per_kept_after: Decided pairs before these two averages count.

        Raises:
            UserError: A stage is unknown or a limit below 0.
        """
        self.calls, self.seconds, self.usd = dict(calls or {}), dict(seconds or {}), dict(usd or {})
        self.total_seconds, self.total_usd = total_seconds, total_usd
        self.seconds_per_kept, self.usd_per_kept = seconds_per_kept, usd_per_kept
        self.per_kept_after = per_kept_after
        given: list[tuple[str, float | None]] = [
            *((f"{word}.{stage}", limit) for word, limits in self._by_stage() for stage, limit in limits.items()),
            ("total_seconds", total_seconds),
            ("total_usd", total_usd),
            ("seconds_per_kept", seconds_per_kept),
            ("usd_per_kept", usd_per_kept),
        ]
        for name, limit in given:
            stage = name.partition(".")[2]
            if (stage and stage not in STAGES) or (limit is not None and not limit >= 0):
                raise UserError(
                    f"The budget says {name}: {limit}. Allowed are limits of 0 or more for the stages"
                    f" {', '.join(STAGES)}. Write `calls: {{draft: 1000}}`, say."
                )

    def _by_stage(self) -> list[tuple[str, Mapping[str, float]]]:
        return [("calls", self.calls), ("seconds", self.seconds), ("usd", self.usd)]

    def affords(self, stage: str, wanted: int, price_usd: float, spend: Mapping[str, StageSpend]) -> tuple[int, str]:
        """Say how many further calls of a stage fit, and which limit holds back the rest.

        Args:
            stage: Its name.
            wanted: Calls that would be made.
            price_usd: Of one.
            spend: What the stages have used up.

        Returns:
            0 to `wanted`, and the limit as it stands in the YAML; empty where all fit.
        """
        own = spend.get(stage, StageSpend())
        pace = own.seconds / own.calls if own.calls else 0.0
        seconds, usd = sum(s.seconds for s in spend.values()), sum(s.usd for s in spend.values())
        allowed = [
            (max(0, self.calls.get(stage, math.inf) - own.calls), f"calls.{stage}"),
            (_within_seconds(self.seconds.get(stage, math.inf) - own.seconds, pace), f"seconds.{stage}"),
            (_within_usd(self.usd.get(stage, math.inf) - own.usd, price_usd), f"usd.{stage}"),
            (_within_seconds(_limit(self.total_seconds) - seconds, pace), "total_seconds"),
            (_within_usd(_limit(self.total_usd) - usd, price_usd), "total_usd"),
        ]
        fewest, name = min(allowed, key=lambda pair: pair[0])
        return (wanted, "") if fewest >= wanted else (int(fewest), name)

    def too_dear(self, decided: int, kept: int, spend: Mapping[str, StageSpend]) -> str:
        """Name the limit per kept pair that is exceeded; empty where none is.

        Args:
            decided: Pairs that met their fate.
            kept: Of these.
            spend: What the stages have used up.
        """
        if decided < self.per_kept_after:
            return ""
        seconds, usd = sum(s.seconds for s in spend.values()), sum(s.usd for s in spend.values())
        for name, used, limit in (
            ("seconds_per_kept", seconds, self.seconds_per_kept),
            ("usd_per_kept", usd, self.usd_per_kept),
        ):
            if limit is not None and used > limit * kept:
                return name
        return ""


def _limit(limit: float | None) -> float:
    return math.inf if limit is None else limit


def _within_seconds(left: float, pace: float) -> float:
    """Return how many calls fit into seconds; while any are left, one does, however slow."""
    if left <= 0:
        return 0
    return math.inf if math.isinf(left) or pace == 0 else max(1, math.floor(left / pace))


def _within_usd(left: float, price_usd: float) -> float:
    """Return how many calls fit into money; what is free always does."""
    if price_usd == 0 or math.isinf(left):
        return math.inf
    return max(0, math.floor(left / price_usd + 1e-9))
