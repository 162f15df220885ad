"""Pictures as users have them: every form that Pillow reads, made into one that a shard can hold."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, check_image, to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

_KEPT = ("PNG", "JPEG", "WEBP", "MPO")
"""Forms that a shard holds as they are; MPO is a JPEG with further pictures behind it, as phones write them."""
_NOT_READ = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
"""EPS starts another program (Ghostscript) on foreign bytes; of the others Pillow reads the header alone."""
_FIRST_IS_THE_PICTURE = frozenset({"JPEG", "MPO", "PSD", "ICO", "CUR", "ICNS"})
"""What follows the first frame is a preview, a layer or another size of it."""
_COMMON = ("png", "jpg", "jpeg", "webp")


@cache
def picture_extensions() -> tuple[str, ...]:
    """List the extensions of pictures, in lower case and without a dot, those that shards hold first."""
    from PIL import Image

    forms = {"MPO", *_read_forms()}
    read = {extension[1:] for extension, form in Image.EXTENSION.items() if form in forms}
    return (*_COMMON, *sorted(read - set(_COMMON)))


def kept_picture(data: bytes, extension: str = "", read_whole: bool = True) -> bytes:
    """Bring a picture into a form that a shard can hold, after reading it whole.

    PNG, JPEG and WebP stay as they are. Any other form becomes a PNG of the pixels that training would see: 8-bit RGB,
    over white where it is transparent, turned as its camera says. Nothing is lost by compression.

    Args:
        data: The encoded picture.
        extension: Of its name, without the dot; needed for forms whose bytes do not tell what they are, such as TGA.
        read_whole: Whether PNG, JPEG and WebP are decoded for a check; False where the caller decodes them anyhow.

    Raises:
        StoreError: If it is damaged or too large, in a form that Pillow does not read, animated or of several pages,
            or has values whose range nobody can know (32-bit, floats).
    """
    refuse_large("it", len(data))
    image = _opened(data, extension.lower())
    form = image.format or ""
    _refuse_frames(image, form)
    if form in _KEPT:
        if read_whole:
            check_image(data)
        return data
    if image.mode == "F" or (image.mode == "I" and form != "PPM"):
        raise StoreError(f"it is {form} with 32 bits a value, whose range is not known; save it as 8-bit PNG")
    pixels = to_rgb(image)
    _refuse_size(pixels)  # again: an icon may hold more than its header says
    buffer = io.BytesIO()
    pixels.save(buffer, "PNG")
    if buffer.tell() > MAX_IMAGE_BYTES:
        raise StoreError(f"as PNG it has {buffer.tell()} bytes; at most {MAX_IMAGE_BYTES} are allowed; scale it down")
    return buffer.getvalue()


def refuse_large(name: str, size_bytes: int) -> None:
    """Refuse a picture of more bytes than any image may have, before it is read.

    Raises:
        StoreError: With both figures.
    """
    if size_bytes > MAX_IMAGE_BYTES:
        raise StoreError(f"{name} has {size_bytes} bytes; at most {MAX_IMAGE_BYTES} are allowed; store it smaller")


@cache
def _read_forms() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(form for form in Image.ID if form not in _NOT_READ)


def _opened(data: bytes, extension: str) -> Image:
    """Read the header; forms without a signature are tried only where the name says so."""
    from PIL import Image, UnidentifiedImageError

    every = _read_forms()
    forms = [form for form in every if form == Image.EXTENSION.get(f".{extension}") or Image.OPEN[form][1] is not None]
    try:
        image = Image.open(io.BytesIO(data), formats=forms)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        named = f"'.{extension}' " if extension else ""
        raise StoreError(
            f"this is no {named}picture of a form that is read: it starts with {data[:12]!r}; save it as PNG"
        ) from error
    except Exception as error:  # whatever a parser of foreign bytes stumbles over
        raise StoreError(f"its header cannot be used: {error}; save it again") from error
    _refuse_size(image)
    return image


def _refuse_size(image: Image) -> None:
    width, height = image.size
    if width < 1 or height < 1 or width * height > MAX_IMAGE_PIXELS:
        raise StoreError(f"it has {width} x {height} pixels; at most {MAX_IMAGE_PIXELS} are allowed; scale it down")


def _refuse_frames(image: Image, form: str) -> None:
    """Refuse what has several pictures, of which none is said to be the one that the caption means."""
    if form in _FIRST_IS_THE_PICTURE:
        return
    try:
        image.seek(1)
    except Exception:  # EOFError where there is one frame; a damaged second one is no second one
        image.seek(0)
        return
    raise StoreError(
        f"it is {form} with several frames (animated) or pages, which is not supported; save the one meant as PNG"
    )
