"""The seam behind which every prompt writer stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from evolvedirector.records import WriteReply, WriteRequest


@runtime_checkable
class PromptWriter(Protocol):
    """Write prompts: variations of a parent (expansion) or something new (mutation).

    `fingerprint` is part of every round's name: another writer begins a new round. One that holds memory may have a
    `close()`, which is called whenever a round has written all it wanted.
    """

    @property
    def fingerprint(self) -> str:
        """Name the model and every setting that changes its texts."""
        ...

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        """Yield one reply per request; texts are suggestions that the round validates."""
        ...
