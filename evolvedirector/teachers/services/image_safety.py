"""Images from services as they may enter a dataset: bounded, decoded, stripped, and no stand-in for a refusal."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, decode_image, to_rgb
from evolvedirector.teachers.services.answer_picture import is_picture
from evolvedirector.teachers.services.plain_png import plain_png

UNIFORM_LEVELS = 12
"""Levels of 255 that a pixel may lie off the median and still count as the same: above the noise of JPEG."""
BLUR_GRID_PX = 64
"""Shorter side at which blur is measured: coarse enough to average the blocks of JPEG away. Smaller images, where a
sharp edge and a blurred one look alike, are never called blurred."""
_FURTHER_FORMATS = ("GIF", "BMP", "TIFF", "AVIF")
_LEVELS = np.arange(256)
_COMPRESS_LEVEL = 1  # a quarter of the time of the usual level 6, and a sixth larger


@dataclass(frozen=True)
class ImageSafety:
    """Say what is accepted from a service.

    Some services put a black, one-coloured or blurred picture in the place of what they refuse to show, as if it were
    the image. Both checks can be switched off for data whose prompts ask for such pictures.

    Args:
        max_bytes: larger files are failures.
        max_pixels: larger images are failures; checked before anything is decoded.
        uniform_share: an image is one colour when at most this share of its pixels differs from the median colour
            (0.0002: a square of 7 px in an image of 512 px); null switches the check off.
        least_sharpness: an image is blurred when its sharpest places are softer than this; 0 switches the check off.
            See `sharpness`: 0.08 is a Gaussian blur of 5 % of the shorter side; a picture with any clear outline has
            over 0.2.

    Raises:
        UserError: a limit is out of range.
    """

    max_bytes: int = MAX_IMAGE_BYTES
    max_pixels: int = MAX_IMAGE_PIXELS
    uniform_share: float | None = 0.0002
    least_sharpness: float = 0.08

    def __post_init__(self) -> None:
        for name, limit, most in (
            ("max_bytes", self.max_bytes, MAX_IMAGE_BYTES),
            ("max_pixels", self.max_pixels, MAX_IMAGE_PIXELS),
        ):
            if not 1 <= limit <= most:
                raise UserError(f"{name}={limit}. Allowed is 1 to {most}. Write {most}.")
        if self.uniform_share is not None and not 0.0 <= self.uniform_share < 1.0:
            raise UserError(
                f"uniform_share={self.uniform_share}. Allowed is 0 to under 1. Write null to keep one-coloured images."
            )
        if not 0.0 <= self.least_sharpness < 1.0:
            raise UserError(
                f"least_sharpness={self.least_sharpness}. Allowed is 0 to under 1. Write 0 to keep blurred images."
            )


@dataclass(frozen=True, slots=True)
class CleanImage:
    """An image that was decoded, and is nothing but its pixels now."""

    png: bytes
    width_px: int
    height_px: int
    suspicion: str = ""
    """Why it looks like a stand-in for a refusal: `all black`, `all one colour` or `heavily blurred`; else empty."""


def clean_image(data: bytes, safety: ImageSafety) -> CleanImage:
    """Decode an image of a service and keep it as PNG without its metadata or anything else beside the pixels.

    Pixels of lossless sources are kept exactly; transparent parts become white, camera orientation is applied. A PNG
    of 8-bit RGB keeps its compression, every other image is encoded anew.

    Args:
        data: PNG, JPEG or WebP, by its first bytes and not by any name or type that was sent along; the first picture
            of a GIF, BMP, TIFF or AVIF is taken too, since it is paid for.
        safety: what is accepted.

    Raises:
        StoreError: too large, another format, or damaged.
        UserError: more bytes than `safety` allows.
    """
    if len(data) > safety.max_bytes:
        raise UserError(f"An image of {len(data)} bytes is too large. At most {safety.max_bytes} are allowed.")
    data = _in_a_kept_format(data, safety.max_pixels)
    pixels = decode_image(data, safety.max_pixels)
    height, width = pixels.shape[:2]
    return CleanImage(plain_png(data) or _encoded(pixels), width, height, suspicion_of(pixels, safety))


def _in_a_kept_format(data: bytes, max_pixels: int) -> bytes:
    """Encode a picture of another common format as PNG; everything else comes back as it is."""
    if not is_picture(data) or data[:4] in (b"\x89PNG", b"RIFF") or data[:3] == b"\xff\xd8\xff":
        return data
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=_FURTHER_FORMATS)
        if image.width * image.height <= max_pixels:
            return _encoded(np.asarray(to_rgb(image)))
    except (MemoryError, StoreError):
        raise
    except Exception as error:  # whatever a parser of foreign bytes stumbles over
        raise StoreError(f"The header of an image cannot be used: {type(error).__name__}. Ask for PNG.") from error
    raise StoreError(
        f"An image of {image.width} x {image.height} pixels is refused. At most {max_pixels} are allowed. Ask for less."
    )


def _encoded(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=_COMPRESS_LEVEL)
    return buffer.getvalue()


def suspicion_of(pixels: np.ndarray, safety: ImageSafety) -> str:
    """Say why an image looks like a stand-in for a refusal.

    Args:
        pixels: uint8 [height, width, 3].
        safety: thresholds.

    Returns:
        The reason, or an empty text.
    """
    if safety.uniform_share is not None and share_off_median(pixels, safety.uniform_share) <= safety.uniform_share:
        return "all black" if int(np.median(pixels)) <= UNIFORM_LEVELS else "all one colour"
    if safety.least_sharpness > 0.0 and sharpness(pixels) < safety.least_sharpness:
        return "heavily blurred"
    return ""


def share_off_median(pixels: np.ndarray, enough: float = 1.0) -> float:
    """Return the share of pixels that differ from the median colour by more than noise.

    A plain background with one small thing on it is clearly above zero: the thing is off the median.

    Args:
        pixels: uint8 [height, width, 3].
        enough: where the share in one channel alone is above this, it is returned: the whole share is no smaller.
    """
    # By counting: a median by sorting takes twenty times as long on a large image.
    near_in = []
    for channel in range(3):
        plane = pixels[..., channel]
        counts = np.bincount(plane.ravel(), minlength=256)
        median = int(np.searchsorted(np.cumsum(counts), plane.size / 2))
        near = np.abs(_LEVELS - median) <= UNIFORM_LEVELS
        share = 1.0 - float(counts[near].sum()) / plane.size
        if share > enough:
            return share
        near_in.append(near)
    off = np.zeros(pixels.shape[:2], dtype=bool)
    for channel, near in enumerate(near_in):
        off |= ~near[pixels[..., channel]]
    return float(off.mean())


def sharpness(pixels: np.ndarray) -> float:
    """Return how steep the steepest places are: change per percent of the shorter side, over the image's contrast.

    A step blurred by a Gaussian of standard deviation s has slope C / (s sqrt(2 pi)) for contrast C, so s = 5 % of
    the side gives 0.4 / 5 = 0.08. Contrast and slope both leave out the seven largest values: single odd pixels
    count for nothing, and the clear outline of one small thing is enough.

    Args:
        pixels: uint8 [height, width, 3].

    Returns:
        0 to about 0.6; infinite for images too small or without any contrast to tell by.
    """
    from PIL import Image

    side = min(pixels.shape[:2])
    if side < BLUR_GRID_PX or max(pixels.shape[:2]) > 8 * side:
        return math.inf
    grey = Image.fromarray(pixels).convert("L")
    size = (round(grey.width * BLUR_GRID_PX / side), round(grey.height * BLUR_GRID_PX / side))
    levels = np.asarray(grey.resize(size, Image.Resampling.BOX), dtype=np.float32)
    contrast = _near_top(levels) + _near_top(-levels)
    if contrast < 2 * UNIFORM_LEVELS:  # too flat to tell noise from edges
        return math.inf
    slopes = np.concatenate([np.abs(np.diff(levels, axis=axis)).ravel() for axis in (0, 1)])
    return _near_top(slopes) / contrast * BLUR_GRID_PX / 100


def _near_top(values: np.ndarray) -> float:
    """Return the eighth largest value: a number of places, not a share of them, so that a thing may be small."""
    return float(np.partition(values, -8, axis=None)[-8])
