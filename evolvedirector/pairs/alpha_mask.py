"""Take the mask that came with a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolvedirector.pairs.pair_records import DRAFT_MASK, MASK, REFERENCE_MASK, PairReply, PairRequest, refused


class AlphaMask:
    """Take the outline that whoever drew the picture gave along with it; a picture without one is refused.

    Exact, and for nothing, where drafts come from a world that knows what it draws.
    """

    @property
    def fingerprint(self) -> str:
        """Name the stage."""
        return "alpha mask 1"

    def mask(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield the mask of each picture."""
        for request in requests:
            given = request.files.get(REFERENCE_MASK if request.kind is None else DRAFT_MASK)
            if given is None:
                what = "subject" if request.kind is None else "draft of"
                yield refused(request, f"The {what} '{request.subject.name}' has no mask: it came without alpha.")
            else:
                yield PairReply(request.request_id, files={MASK: given})
