"""Pictures and masks of pairs as arrays and files: decoding, encoding, boxes, cut-outs; no network."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from evolvedirector.records import FileRef
from evolvedirector.store.images import decode_grey, decode_image

MASK_LEVEL = 128
"""A mask is white (255) where the subject is; half covered counts as covered."""


def pixels_of(file: FileRef) -> np.ndarray:
    """Decode a picture; uint8 [height, width, 3]."""
    return decode_image(_content(file))


def mask_of(file: FileRef) -> np.ndarray:
    """Decode a mask; bool [height, width]."""
    return decode_grey(_content(file))[:, :, 0] >= MASK_LEVEL


def picture_file(pixels: np.ndarray) -> FileRef:
    """Encode a picture as PNG.

    Args:
        pixels: uint8 [height, width, 3].
    """
    height, width = pixels.shape[:2]
    return FileRef.of(_png(Image.fromarray(np.ascontiguousarray(pixels))), "image/png", width, height)


def mask_file(mask: np.ndarray) -> FileRef:
    """Encode a mask as PNG of one channel.

    Args:
        mask: bool [height, width].
    """
    height, width = mask.shape
    return FileRef.of(_png(Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))), "image/png", width, height)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of what a mask covers (right and bottom exclusive); the mask is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_file(mask: np.ndarray) -> FileRef:
    """Encode where a subject stands as an npy array: left, top, right, bottom as shares of the canvas, float32 [4].

    Args:
        mask: bool [height, width], not empty.
    """
    height, width = mask.shape
    shares = np.array(box_of(mask), np.float32) / np.array([width, height, width, height], np.float32)
    buffer = io.BytesIO()
    np.save(buffer, shares, allow_pickle=False)
    return FileRef.of(buffer.getvalue(), "application/x-npy")


def square_around(pixels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a square out of a picture that shows the whole subject, and as much around it as fits.

    Where the subject is longer than the picture's shorter side, the picture's edge is repeated.

    Args:
        pixels: uint8 [height, width, 3].
        mask: bool [height, width], not empty.

    Returns:
        Picture uint8 [side, side, 3] and mask bool [side, side].
    """
    left, top, right, bottom = box_of(mask)
    side = max(min(mask.shape), right - left, bottom - top)
    for axis, (first, last) in enumerate(((top, bottom), (left, right))):
        length = mask.shape[axis]
        if length < side:
            added = [(0, 0), (0, 0)]
            added[axis] = ((side - length) // 2, side - length - (side - length) // 2)
            pixels, mask = np.pad(pixels, [*added, (0, 0)], mode="edge"), np.pad(mask, added)
        else:
            start = min(max(0, (first + last - side) // 2), length - side)
            kept = [slice(None), slice(None)]
            kept[axis] = slice(start, start + side)
            pixels, mask = pixels[tuple(kept)], mask[tuple(kept)]
    return pixels, mask


def cut_square(pixels: np.ndarray, mask: np.ndarray, side_px: int, ground: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """Cut the subject out of a picture, onto a plain ground, so that place and size no longer matter.

    Args:
        pixels: uint8 [height, width, 3].
        mask: bool [height, width], not empty.
        side_px: Of the result; the longer side of the subject's box fills it.
        ground: Grey level around the subject.

    Returns:
        Picture uint8 [side, side, 3] and mask bool [side, side].
    """
    left, top, right, bottom = box_of(mask)
    side = max(right - left, bottom - top)
    square = np.full((side, side, 3), ground, np.uint8)
    covered = np.zeros((side, side), np.uint8)
    y, x = (side - (bottom - top)) // 2, (side - (right - left)) // 2
    inside = mask[top:bottom, left:right]
    square[y : y + bottom - top, x : x + right - left][inside] = pixels[top:bottom, left:right][inside]
    covered[y : y + bottom - top, x : x + right - left] = inside * 255
    size = (side_px, side_px)
    picture = Image.fromarray(square).resize(size, Image.Resampling.BILINEAR)
    scaled = Image.fromarray(covered).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture), np.asarray(scaled) >= MASK_LEVEL


def split_alpha(content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode a picture that may have an alpha channel.

    Args:
        content: PNG, JPEG or WebP bytes, already read whole by `decode_image` or about to be.

    Returns:
        The picture over white, uint8 [height, width, 3], and its alpha as a mask; None where it has none.

    Raises:
        StoreError: If it cannot be read.
    """
    pixels = decode_image(content)
    with Image.open(io.BytesIO(content)) as image:
        if not image.has_transparency_data:
            return pixels, None
        image.load()  # only now are all of its chunks known, the camera's orientation among them
        alpha = np.asarray(ImageOps.exif_transpose(image).convert("RGBA").getchannel("A"))
    return pixels, alpha >= MASK_LEVEL


def _content(file: FileRef) -> bytes:
    assert file.content is not None  # stages are handed files with their content
    return file.content


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
