"""Stages that are left out, and say so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolvedirector.pairs.pair_records import DRAFT_MASK, IMAGE, MASK, PairReply, PairRequest, unchanged


class Unchanged:
    """Hand a draft on as it is, in place of a refiner or a view generator; the record says `unchanged`.

    The lower end of every comparison: what a refiner adds is measured against it.
    """

    @property
    def fingerprint(self) -> str:
        """Name the stage."""
        return "unchanged"

    def refine(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield the draft of each pair."""
        for request in requests:
            yield unchanged(request)

    def turn(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield the picture of each pair as it came, with its outline."""
        for request in requests:
            files = {IMAGE: request.files[IMAGE]}
            if (outline := request.files.get(DRAFT_MASK)) is not None:
                files[MASK] = outline
            yield PairReply(request.request_id, files=files, words={"note": "unchanged"})
