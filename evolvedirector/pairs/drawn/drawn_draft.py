"""Draw drafts of an embedded world: the change is exact, the subject is the same concept in another art set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.pairs.drawn.changes import PLACES, TINTS, named_background, scene, textured, tinted, turned
from evolvedirector.pairs.drawn.cut_outs import CutOuts
from evolvedirector.pairs.pair_records import IMAGE, MASK, PairReply, PairRequest, refused
from evolvedirector.pairs.pictures import mask_file, picture_file
from evolvedirector.records import seed_of
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS

DraftLook = Literal["other", "own"]


class DrawnDraft:
    """Draw a subject's concept with the change of its prompt; the subject's own pixels are not read.

    With `look: other` the draft is in another art set than the subject: text-aligned, and without its detail, as a
    draft of a text-to-image model is. With `look: own` it is the exact target, the upper end of a comparison.
    """

    def __init__(self, world: CutOuts, look: DraftLook = "other", outline: bool = True) -> None:
        """Choose the world and the art set.

        Args:
            world: Draws the cut-outs.
            look: `other`: another art set, by lot; `own`: that of the subject.
            outline: Give the exact outline along, which no model could.

        Raises:
            UserError: The world has no other art set.
        """
        if look == "other" and len(world.looks) < 2:
            raise UserError(
                f"look is 'other', but the world has the one art set {world.looks}. Allowed is 'other' where there are"
                " two or more. Write `look: own`, or give the world more of them."
            )
        self.world, self.look, self.outline = world, look, outline

    @property
    def fingerprint(self) -> str:
        """Name the world and the art set."""
        return f"drawn draft 1 {self.world.fingerprint} {self.look} {self.outline}"

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield one picture per pair."""
        known = set(self.world.concepts())
        for request in requests:
            if request.subject.group not in known:
                yield refused(request, f"The world of the drafts has no '{request.subject.group}'.")
                continue
            picture, mask = drawn(self.world, request, self._look_of(request))
            files = {IMAGE: picture_file(picture)} | ({MASK: mask_file(mask)} if self.outline else {})
            yield PairReply(request.request_id, files=files)

    def _look_of(self, request: PairRequest) -> str:
        if "style" in request.change:
            return request.change["style"]
        if self.look == "own":
            return request.subject.look
        others = [look for look in self.world.looks if look != request.subject.look]
        return others[seed_of("draft look", request.seed) % len(others)]


def drawn(world: CutOuts, request: PairRequest, look: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw the concept of a request in one art set, with its change.

    Args:
        world: Draws the cut-outs.
        request: Subject, change, seed and size.
        look: Art set.

    Returns:
        Picture uint8 [side, side, 3] and mask bool [side, side].
    """
    change: Mapping[str, str] = request.change
    lot = np.random.default_rng(seed_of("drawn", request.seed))
    side_px = min(request.width_px, request.height_px)
    share = float(lot.uniform(0.46, 0.54) if "place" in change else lot.uniform(0.72, 0.86))
    own_tint = request.subject.name.rpartition("|")[2]
    cut = np.asarray(world.cut_out(request.subject.group, look, max(4, round(share * side_px))))
    if own_tint in TINTS and look == request.subject.look and "tint" not in change:
        cut = tinted(cut, own_tint)
    if "tint" in change:
        cut = tinted(cut, change["tint"])
    if "texture" in change:
        cut = textured(cut, change["texture"])
    if "view" in change:
        cut = turned(cut, change["view"])
    names = list(BACKGROUNDS)
    background = named_background(change.get("background", names[int(lot.integers(len(names)))]))
    middle = (0.5 + float(lot.uniform(-0.05, 0.05)), 0.5 + float(lot.uniform(-0.05, 0.05)))
    return scene(cut, PLACES.get(change.get("place", ""), middle), background, side_px)
