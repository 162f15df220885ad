"""Bring a subject's detail into a draft by copying matched pixels: the refiner without a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.pairs.pair_records import (
    DRAFT,
    DRAFT_MASK,
    IMAGE,
    REFERENCE,
    REFERENCE_MASK,
    PairReply,
    PairRequest,
    unchanged,
)
from evolvedirector.pairs.patch_encoder import PatchEncoder
from evolvedirector.pairs.patch_matching import (
    Taken,
    check_matching,
    grey,
    matches,
    mixed_colours,
    nearest_features,
    put_back,
    squares_of,
    taken_for,
)
from evolvedirector.pairs.pictures import mask_of, picture_file, pixels_of
from evolvedirector.records.part import close_parts

_PIECE_PX = 8


class MatchedPixels:
    """Copy into each patch of the draft the pixels of the subject's patch whose features are nearest.

    For patch i of the draft: j(i) = argmax_j cos(d_i, s_j) - w |p_i - p_j|^2 over the patches j inside of the
    subject's mask, with positions p relative to the two outlines; the pixels of j(i) are copied. What is the change
    itself is left: of a tint the colour, of a texture the lightness, of a style all. Our reading of how Toffee's
    Refiner uses DINO patches (Zhou et al. 2024, section 3), without its network: the baseline that it must beat.
    """

    def __init__(
        self, encoder: PatchEncoder, position_weight: float = 6.0, least_cosine: float = -1.0, grid: int = 12
    ) -> None:
        """Choose the features.

        Args:
            encoder: Of patches.
            position_weight: How much a match may be from elsewhere in the outline; 0 leaves places out.
            least_cosine: Patches without a better match stay as they are, -1 to 1; -1 matches all.
            grid: Pieces a side that are copied, over the box of the outline.

        Raises:
            UserError: A number is out of range.
        """
        check_matching(position_weight, least_cosine)
        if not 2 <= grid <= 256:
            raise UserError(f"grid is {grid}. Allowed are 2 to 256 pieces a side. Write `grid: 12`, say.")
        self.encoder, self.position_weight, self.least_cosine, self.grid = encoder, position_weight, least_cosine, grid

    @property
    def fingerprint(self) -> str:
        """Name the features and the weights."""
        how = f"{self.position_weight} {self.least_cosine} {self.grid}"
        return f"matched pixels 2 {how} {self.encoder.fingerprint}"

    def refine(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield each draft with the subject's pixels in it."""
        for request in requests:
            if (taken := taken_for(request)) == "nothing":
                yield unchanged(request)
                continue
            draft, subject = pixels_of(request.files[DRAFT]), pixels_of(request.files[REFERENCE])
            inside = mask_of(request.files[REFERENCE_MASK])
            outline = request.files.get(DRAFT_MASK)
            region = None if outline is None else mask_of(outline)
            yield PairReply(
                request.request_id, files={IMAGE: picture_file(self._refined(draft, region, subject, inside, taken))}
            )

    def close(self) -> None:
        """Let go of the encoder."""
        close_parts(self.encoder)

    def _refined(
        self, draft: np.ndarray, region: np.ndarray | None, subject: np.ndarray, inside: np.ndarray, taken: Taken
    ) -> np.ndarray:
        region = np.ones(draft.shape[:2], bool) if region is None or not region.any() else region
        squares = squares_of(draft, region, subject, inside, self.grid * _PIECE_PX)
        # a draft that has another colour is matched by form alone
        seen = [squares.draft, squares.subject]
        features = self.encoder.encode([grey(square) for square in seen] if taken == "lightness" else seen)
        first, second = (nearest_features(each, self.grid) for each in features)
        near = matches(first, second, squares.subject_inside, self.position_weight, self.least_cosine)
        copied = _copied(squares.draft, squares.subject, near, self.grid)
        matched = np.repeat(np.repeat((near >= 0).reshape(self.grid, self.grid), _PIECE_PX, 0), _PIECE_PX, 1)
        mixed = np.where(
            (matched & squares.draft_inside)[..., None], mixed_colours(squares.draft, copied, taken), squares.draft
        )
        return put_back(draft, region, mixed)


def _copied(draft: np.ndarray, subject: np.ndarray, near: np.ndarray, grid: int) -> np.ndarray:
    """Fill each piece of the draft's square with the piece of the subject's that is nearest to it."""
    pieces, own = (_pieces(square, grid) for square in (subject, draft))
    chosen = np.where((near >= 0)[:, None, None, None], pieces[near], own)
    return chosen.reshape(grid, grid, _PIECE_PX, _PIECE_PX, 3).transpose(0, 2, 1, 3, 4).reshape(draft.shape)


def _pieces(square: np.ndarray, grid: int) -> np.ndarray:
    cut = square.reshape(grid, _PIECE_PX, grid, _PIECE_PX, 3).transpose(0, 2, 1, 3, 4)
    return np.asarray(cut.reshape(-1, _PIECE_PX, _PIECE_PX, 3))
