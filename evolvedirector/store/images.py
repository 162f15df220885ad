"""Encoded images as they enter from outside: three formats, two caps, nothing decoded before its size is known."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from evolvedirector.store.errors import StoreError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGE_BYTES = 32 * 2**20
MAX_IMAGE_PIXELS = 33_000_000
"""A 17 kB PNG can unfold to 400 MB; Pillow itself only warns below 179 million pixels."""
EXTENSIONS = ("png", "jpg", "webp")
ORIENTATION_KEYS = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})
"""Metadata in which Pillow looks for the orientation of the camera."""
_PILLOW_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


def sniff_format(data: bytes) -> str:
    """Name the format of an encoded image by its first bytes.

    Args:
        data: The encoded image.

    Returns:
        `png`, `jpg` or `webp`.

    Raises:
        StoreError: If it is none of them, or larger than `MAX_IMAGE_BYTES`.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise StoreError(
            f"An image of {len(data)} bytes is too large. At most {MAX_IMAGE_BYTES} are allowed."
            " Store it smaller or compressed."
        )
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise StoreError(
        f"This is no image that can be kept: it starts with {data[:12]!r}. Allowed are PNG, JPEG and WebP."
        " Convert it to PNG first."
    )


def image_size(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[int, int]:
    """Read width and height in pixels from the header alone.

    Raises:
        StoreError: If the header cannot be read or the image has more than `max_pixels`.
    """
    return _open(data, max_pixels).size


def check_image(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[int, int]:
    """Refuse an image that could not be trained on: wrong format, too large, cut short.

    Returns:
        Width and height in pixels.

    Raises:
        StoreError: With the reason.
    """
    height, width = decode_image(data, max_pixels).shape[:2]
    return width, height


def decode_image(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Decode an image to RGB; transparent parts become white, camera orientation is applied.

    Args:
        data: PNG, JPEG or WebP bytes.
        max_pixels: Refuse more than this before anything is decoded.

    Returns:
        uint8 array [height, width, 3].

    Raises:
        StoreError: If the image is refused or cannot be decoded whole.
    """
    # Warnings stay warnings: making them errors holds for every thread, and images are read beside training.
    return np.asarray(to_rgb(_open(data, max_pixels)))


def decode_grey(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Decode an image to grey levels, as masks are read; colour becomes its luma (ITU-R 601-2).

    Returns:
        uint8 array [height, width, 1].

    Raises:
        StoreError: If the image is refused or cannot be decoded whole.
    """
    return np.asarray(to_rgb(_open(data, max_pixels)).convert("L"))[:, :, None]


def to_rgb(image: Image) -> Image:
    """Convert an opened Pillow image to RGB, over white where it is transparent."""
    from PIL import Image, ImageOps

    try:
        image.load()  # only now are all of its chunks known
        if image.info.keys() & ORIENTATION_KEYS:  # else not asked for: it costs as much as decoding a small image
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # damaged metadata ends in struct.error, TypeError, KeyError and others
        raise StoreError(f"An image cannot be decoded: {error}. It is damaged or cut short. Save it again.") from error


def fit_square(pixels: np.ndarray, side_px: int) -> np.ndarray:
    """Scale and crop an image to a centred square, see `fit_size`.

    Args:
        pixels: uint8 [height, width, channels].
        side_px: Side of the square.
    """
    return fit_size(pixels, side_px, side_px)


def fit_size(pixels: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """Scale an image until it covers a size, and crop what hangs over on both sides alike.

    Args:
        pixels: uint8 [height, width, channels]. One channel is a mask, whose values are kept as they are (nearest
            neighbour); three are a picture.
        width_px: Of the result; an image that has its size already is returned as it is.
        height_px: Of the result.

    Returns:
        uint8 [height, width, channels].
    """
    if pixels.shape[:2] == (height_px, width_px):
        return pixels
    from PIL import Image, ImageOps

    size = (width_px, height_px)
    if pixels.shape[2] == 1:
        mask = ImageOps.fit(Image.fromarray(pixels[:, :, 0]), size, Image.Resampling.NEAREST)
        return np.asarray(mask)[:, :, None]
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), size, Image.Resampling.BICUBIC))


def crop_top_left_px(image_px: tuple[int, int], width_px: int, height_px: int) -> tuple[int, int]:
    """Return how many rows and columns `fit_size` leaves out above and left, after scaling, in whole pixels.

    Args:
        image_px: Height and width of the image before.
        width_px: Of the result.
        height_px: Of the result.
    """
    scale = max(height_px / image_px[0], width_px / image_px[1])
    return round((image_px[0] * scale - height_px) / 2), round((image_px[1] * scale - width_px) / 2)


def _open(data: bytes, max_pixels: int) -> Image:
    """Read the header of an allowed format and check the size it promises."""
    from PIL import Image

    kind = sniff_format(data)
    try:
        image = Image.open(io.BytesIO(data), formats=[_PILLOW_FORMATS[kind]])
    except MemoryError:
        raise
    except Exception as error:  # whatever a parser of foreign bytes stumbles over
        raise StoreError(f"The header of a {kind} image cannot be used: {error}. Save the image again.") from error
    width, height = image.size
    if width < 1 or height < 1 or width * height > max_pixels:
        raise StoreError(
            f"An image of {width} x {height} pixels is refused. At most {max_pixels} pixels are allowed."
            " Scale it down first."
        )
    return image
