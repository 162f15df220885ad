"""Show a subject from elsewhere by turning or mirroring its cut-out: a view generator without a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from evolvedirector.pairs.drawn.changes import VIEWS, scene, turned
from evolvedirector.pairs.pair_records import (
    IMAGE,
    MASK,
    REFERENCE,
    REFERENCE_MASK,
    PairReply,
    PairRequest,
    refused,
)
from evolvedirector.pairs.pictures import cut_square, mask_file, mask_of, picture_file, pixels_of

_SHARE = 0.8


class TurnedView:
    """Turn the subject's own cut-out as the text says, on the background of the picture; views are mirrored or turned.

    Not a view from another side, as a trained view generator gives one: flat art has none.
    """

    @property
    def fingerprint(self) -> str:
        """Name the stage."""
        return "turned view 1"

    def turn(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield each subject turned, with its outline."""
        for request in requests:
            view = request.change.get("view", "")
            if view not in VIEWS:
                yield refused(request, f"The view '{view}' is none of {', '.join(VIEWS)}.")
                continue
            pixels, mask = pixels_of(request.files[REFERENCE]), mask_of(request.files[REFERENCE_MASK])
            side_px = min(request.width_px, request.height_px)
            square, covered = cut_square(pixels, mask, max(4, round(_SHARE * side_px)))
            cut = turned(np.concatenate([square, covered[..., None].astype(np.uint8) * 255], axis=-1), view)
            corner = pixels_of(request.files[IMAGE])[0, 0]
            background = (int(corner[0]), int(corner[1]), int(corner[2]))
            picture, outline = scene(cut, (0.5, 0.5), background, side_px)
            yield PairReply(request.request_id, files={IMAGE: picture_file(picture), MASK: mask_file(outline)})
