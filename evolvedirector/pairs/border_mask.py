"""Find the subject on a plain background, by colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolvedirector.errors import UserError
from evolvedirector.pairs.masks import against_border
from evolvedirector.pairs.pair_records import DRAFT_MASK, IMAGE, MASK, PairReply, PairRequest
from evolvedirector.pairs.pictures import mask_file, pixels_of


class BorderMask:
    """Take whatever differs from the colour of the border, with its holes filled.

    For drawn pictures and studio photographs; it needs no network. Where a picture came with its own outline, that one
    is taken.
    """

    def __init__(self, levels: int = 24, own_outline: bool = True) -> None:
        """Choose how far the background may vary.

        Args:
            levels: Largest difference of a channel from the border's colour that still is background, of 255.
            own_outline: Take the outline that came with a picture, where one did.

        Raises:
            UserError: `levels` is out of range.
        """
        if not 0 <= levels < 255:
            raise UserError(f"levels is {levels}. Allowed are 0 to 254 of 255 levels. Write 24.")
        self.levels, self.own_outline = levels, own_outline

    @property
    def fingerprint(self) -> str:
        """Name the stage and its level."""
        return f"border mask 1 {self.levels} {self.own_outline}"

    def mask(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield the mask of each picture; an empty one where it is plain."""
        for request in requests:
            given = request.files.get(DRAFT_MASK)
            if given is not None and self.own_outline:
                yield PairReply(request.request_id, files={MASK: given})
            else:
                found = against_border(pixels_of(request.files[IMAGE]), self.levels)
                yield PairReply(request.request_id, files={MASK: mask_file(found)})
