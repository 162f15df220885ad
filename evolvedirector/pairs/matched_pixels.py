"""Bring a subject's detail into a draft by copying matched pixels: the refiner without a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.pairs.pair_records import (
    DRAFT,
    DRAFT_MASK,
    IMAGE,
    REFERENCE,
    REFERENCE_MASK,
    ChangeKind,
    PairReply,
    PairRequest,
)
from evolvedirector.pairs.patch_encoder import PatchEncoder, cosines
from evolvedirector.pairs.pictures import box_of, mask_of, picture_file, pixels_of
from evolvedirector.records.part import close_parts

TAKEN: dict[ChangeKind, str] = {
    "place": "all",
    "view": "all",
    "tint": "lightness",
    "texture": "colour",
    "style": "nothing",
}
"""What is taken from the subject for each kind of change: the rest of a draft is the change itself."""
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_TO_RGB = np.linalg.inv(_TO_YCC)


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
        if not (position_weight >= 0 and -1 <= least_cosine <= 1 and 2 <= grid <= 256):
            raise UserError(
                f"position_weight is {position_weight}, least_cosine {least_cosine} and grid {grid}. Allowed are 0 or"
                " more, -1 to 1, and 2 to 256. Write `position_weight: 6.0`, say."
            )
        self.encoder, self.position_weight, self.least_cosine, self.grid = encoder, position_weight, least_cosine, grid

    @property
    def fingerprint(self) -> str:
        """Name the features and the weights."""
        how = f"{self.position_weight} {self.least_cosine} {self.grid}"
        return f"matched pixels 2 {how} {self.encoder.fingerprint}"

    def refine(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield each draft with the subject's pixels in it."""
        for request in requests:
            taken = "all" if request.kind is None else TAKEN[request.kind]
            if taken == "nothing":
                yield PairReply(request.request_id, files={IMAGE: request.files[DRAFT]}, words={"note": "unchanged"})
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
        self, draft: np.ndarray, region: np.ndarray | None, subject: np.ndarray, inside: np.ndarray, taken: str
    ) -> np.ndarray:
        region = np.ones(draft.shape[:2], bool) if region is None or not region.any() else region
        d_box, s_box = box_of(region), box_of(inside)
        side = self.grid * 8
        d_crop, s_crop = (_scaled(p, box, side) for p, box in ((draft, d_box), (subject, s_box)))
        d_inside, s_inside = (_scaled(m, box, side) >= 128 for m, box in ((region, d_box), (inside, s_box)))
        # a draft that has another colour is matched by form alone
        seen = [_grey(d_crop), _grey(s_crop)] if taken == "lightness" else [d_crop, s_crop]
        features = self.encoder.encode(seen)
        near = self._matches(features[0], features[1], s_inside)  # [grid^2], -1 where nothing matches
        copied = _copied(d_crop, s_crop, near, self.grid)
        matched = np.repeat(np.repeat((near >= 0).reshape(self.grid, self.grid), 8, 0), 8, 1)
        mixed = np.where((matched & d_inside)[..., None], _mixed(d_crop, copied, taken), d_crop)
        left, top, right, bottom = d_box
        back = np.asarray(Image.fromarray(mixed).resize((right - left, bottom - top), Image.Resampling.LANCZOS))
        result = draft.copy()
        window = region[top:bottom, left:right]
        result[top:bottom, left:right][window] = back[window]
        return result

    def _matches(self, draft: np.ndarray, subject: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Return, for each piece of the draft, which piece of the subject is nearest.

        Args:
            draft: Features [rows, columns, width].
            subject: Likewise.
            inside: Whether a pixel of the subject's square is subject, bool [side, side].
        """
        n = self.grid
        first, second = (_resampled(f, n).reshape(n * n, -1) for f in (draft, subject))
        own = inside.reshape(n, 8, n, 8).mean(axis=(1, 3)).ravel() >= 0.5
        if not own.any():
            return np.full(n * n, -1)
        like = cosines(first - first.mean(axis=0), second - second.mean(axis=0))
        points = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), axis=-1).reshape(-1, 2) / (n - 1)
        far = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
        worth = np.where(own[None], like - self.position_weight * far, -np.inf)
        best = worth.argmax(axis=1)
        return np.where(like[np.arange(n * n), best] >= self.least_cosine, best, -1)


def _scaled(values: np.ndarray, box: tuple[int, int, int, int], side: int) -> np.ndarray:
    """Cut a box out of a picture or a mask and scale it to a square."""
    image = Image.fromarray(values.astype(np.uint8) * 255 if values.dtype == bool else values)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box))


def _grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(pixels @ _TO_YCC[0]).astype(np.uint8)[..., None], 3, axis=-1)


def _resampled(features: np.ndarray, side: int) -> np.ndarray:
    """Take the nearest feature for each piece of the grid."""
    rows, columns = features.shape[:2]
    at = (np.arange(side) + 0.5) / side
    return features[(at * rows).astype(int)][:, (at * columns).astype(int)]


def _copied(draft: np.ndarray, subject: np.ndarray, near: np.ndarray, grid: int) -> np.ndarray:
    """Fill each piece of the draft's square with the piece of the subject's that is nearest to it."""
    pieces = subject.reshape(grid, 8, grid, 8, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 8, 8, 3)
    own = draft.reshape(grid, 8, grid, 8, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 8, 8, 3)
    chosen = np.where((near >= 0)[:, None, None, None], pieces[near], own)
    return chosen.reshape(grid, grid, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(draft.shape)


def _mixed(draft: np.ndarray, copied: np.ndarray, taken: str) -> np.ndarray:
    """Take colour, lightness or both from the copied pixels, the rest from the draft."""
    if taken == "all":
        return copied
    first, second = (pixels.astype(float) @ _TO_YCC.T for pixels in (draft, copied))
    mixed = second if taken == "colour" else first
    other = first if taken == "colour" else second
    rgb = np.concatenate([other[..., :1], mixed[..., 1:]], axis=-1) @ _TO_RGB.T
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
