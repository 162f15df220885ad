"""The seam of who reads whether a change was made, and a judge behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from evolvedirector.pairs.pair_records import PairReply, PairRequest


@runtime_checkable
class ChangeReader(Protocol):
    """Read a picture: does it show the change that its text asks for? Identity alone prefers pairs without it."""

    @property
    def fingerprint(self) -> str:
        """Name the reader and every parameter that changes its answers."""
        ...

    def read(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield, per pair, the score `change`, and any further ones; higher is surer."""
        ...
