"""Write what pairs are to show: one change each, of words that a drawn world understands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from evolvedirector.pairs.drawn.changes import text_of, values_of
from evolvedirector.pairs.drawn.readings import tint_share
from evolvedirector.pairs.pair_records import REFERENCE, REFERENCE_MASK, PairReply, PairRequest, refused
from evolvedirector.pairs.pictures import mask_of, pixels_of
from evolvedirector.records import seed_of
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS

_IS_SO = 0.5
"""A subject of which more than this share has a tint already is not asked to get it."""


class DrawnPrompts:
    """Draw one change by lot: a place and background, a tint, a texture, an art set or a view.

    A change that the subject shows already is not asked for: no reader could tell whether it was made.
    """

    def __init__(self, looks: list[str]) -> None:
        """Name what a style can be.

        Args:
            looks: Art sets, as the world of the drafts names them.
        """
        self.looks = tuple(looks)

    @property
    def fingerprint(self) -> str:
        """Name the grammar and its art sets."""
        return f"drawn prompts 1 {' '.join(self.looks)}"

    def write(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield a prompt and the words of its change."""
        for request in requests:
            assert request.kind is not None
            values = [v for v in values_of(request.kind, self.looks) if not self._is_so(request, v)]
            if not values:
                yield refused(request, f"The subject '{request.subject.name}' shows every {request.kind} already.")
                continue
            lot = np.random.default_rng(seed_of("change", request.kind, request.seed))
            change: dict[str, str] = {request.kind: values[int(lot.integers(len(values)))]}
            if request.kind == "place":
                change["background"] = list(BACKGROUNDS)[1 + int(lot.integers(len(BACKGROUNDS) - 1))]
            prompt = text_of(request.subject.category, request.kind, change)
            yield PairReply(request.request_id, words={"prompt": prompt, **change})

    def _is_so(self, request: PairRequest, value: str) -> bool:
        if request.kind == "style":
            return value == request.subject.look
        if request.kind != "tint":
            return False
        pixels, mask = pixels_of(request.files[REFERENCE]), mask_of(request.files[REFERENCE_MASK])
        return tint_share(pixels, mask, value) > _IS_SO
