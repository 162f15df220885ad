"""Parts of a loop whose cost in time and money is known, and that count who asked them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

from evolvedirector.policies import EvolveDirectorPolicy
from evolvedirector.records import (
    ImageAndPrompt,
    ImageReply,
    ImageRequest,
    Look,
    OrderedPair,
    WriteReply,
    WriteRequest,
)
from tests.toys import ToyJudge, ToyTeacher, ToyWriter

IMAGE_S, LOOK_S = 0.02, 0.01


class FreeTeacher(ToyTeacher):
    """Takes a known time for an image."""

    def __init__(self, seconds: float = IMAGE_S) -> None:
        super().__init__()
        self.seconds = seconds

    def price_usd(self) -> float | None:
        return 0.0

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        for request in requests:
            time.sleep(self.seconds)
            yield from super().generate([request])


class FreeJudge(ToyJudge):
    """Takes a known time for a look."""

    def __init__(self, seconds: float = LOOK_S) -> None:
        super().__init__()
        self.seconds = seconds

    def price_usd(self) -> float | None:
        return 0.0

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        for pair in pairs:
            time.sleep(self.seconds)
            yield from super().look([pair])

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        for item in items:
            time.sleep(self.seconds)
            yield from super().check([item])


class FreeWriter(ToyWriter):
    """Writes for nothing."""

    def price_usd(self) -> float | None:
        return 0.0


class Paid:
    """Counts the calls of all services of this process."""

    calls: ClassVar[Counter[str]] = Counter()


class PaidTeacher(ToyTeacher):
    """Draws for money."""

    def __init__(self) -> None:
        super().__init__(cost_usd=0.04)

    def price_usd(self) -> float | None:
        return 0.04

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        Paid.calls["images"] += len(requests)
        yield from super().generate(requests)


class PaidJudge(ToyJudge):
    """Looks for money."""

    def price_usd(self) -> float | None:
        return 0.001

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        Paid.calls["looks"] += len(pairs)
        yield from super().look(pairs)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        Paid.calls["looks"] += len(items)
        yield from super().check(items)


class SilentWriter(ToyWriter):
    """Says nothing of what it costs, as the client of a chat service does."""

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        Paid.calls["prompts"] += sum(request.count for request in requests)
        yield from super().write(requests)


class Rule(EvolveDirectorPolicy):
    """The published rule with few expansions, or many."""

    def __init__(self, children: int = 1) -> None:
        super().__init__(expansions=children)
