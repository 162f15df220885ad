"""Images as every judge model sees them: one size, one filter, one codec, no metadata, whoever made them.

A student's image is a small PNG, a teacher's a large JPEG with a name in its metadata. What a judge can tell apart so,
it may learn to prefer; here both become the same kind of picture before any model sees them.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from evolvedirector.errors import UserError
from evolvedirector.store.images import decode_image

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_JUDGE_SIDE_PX = 2048
GAP_SHARE = 16
"""The grey line between two images side by side is a sixteenth of a side."""


def judge_image(image: bytes, size_px: int) -> Image:
    """Decode an image and fit it whole into a white square.

    Nothing is cropped and nothing distorted: what lies at the edge may be what the prompt asks for. Images of one
    shape get the same margins, so a margin tells the two of a pair apart only where their shapes differ.

    Args:
        image: PNG, JPEG or WebP bytes, within the caps of the store (32 MiB, 33 million pixels).
        size_px: Side of the square.

    Raises:
        StoreError: If the image is refused or cannot be decoded whole.
        ValueError: If the size is out of range.
    """
    from PIL import Image, ImageOps

    check_size(size_px)
    picture = Image.fromarray(decode_image(image))
    if picture.size == (size_px, size_px):
        return picture
    return ImageOps.pad(picture, (size_px, size_px), Image.Resampling.BICUBIC, color="white")


def judge_png(image: bytes, size_px: int) -> bytes:
    """Encode an image as a judge is to see it: a square PNG without metadata.

    Args:
        image: PNG, JPEG or WebP bytes.
        size_px: Side of the square.

    Raises:
        StoreError: If the image is refused or cannot be decoded whole.
        ValueError: If the size is out of range.
    """
    return _png(judge_image(image, size_px))


def side_by_side_image(first: bytes, second: bytes, size_px: int) -> Image:
    """Set two images next to each other, the first on the left, a grey line between them.

    Args:
        first: PNG, JPEG or WebP bytes.
        second: Likewise.
        size_px: Side of each of the two squares.

    Raises:
        StoreError: If an image is refused or cannot be decoded whole.
        ValueError: If the size is out of range.
    """
    from PIL import Image

    left, right = judge_image(first, size_px), judge_image(second, size_px)
    gap = max(1, size_px // GAP_SHARE)
    both = Image.new("RGB", (2 * size_px + gap, size_px), (128, 128, 128))
    both.paste(left, (0, 0))
    both.paste(right, (size_px + gap, 0))
    return both


def side_by_side(first: bytes, second: bytes, size_px: int) -> bytes:
    """Encode two images as one PNG without metadata, the first on the left.

    Args:
        first: PNG, JPEG or WebP bytes.
        second: Likewise.
        size_px: Side of each of the two squares.

    Raises:
        StoreError: If an image is refused or cannot be decoded whole.
        ValueError: If the size is out of range.
    """
    return _png(side_by_side_image(first, second, size_px))


def check_size(size_px: int) -> None:
    """Refuse a side that no judge model could mean.

    Args:
        size_px: Side of a square in pixels.

    Raises:
        UserError: If it is out of range.
    """
    if not 8 <= size_px <= MAX_JUDGE_SIDE_PX:
        raise UserError(f"Judges cannot be shown {size_px} px. Allowed is 8 to {MAX_JUDGE_SIDE_PX}. Write 448.")


def _png(picture: Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return out.getvalue()
