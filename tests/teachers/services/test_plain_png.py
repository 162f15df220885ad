"""Stripping a PNG keeps its pixels and its compression, and nothing else; every doubtful kind is left to a decoder."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from evolvedirector.store.images import decode_image
from evolvedirector.teachers.services.image_safety import ImageSafety, clean_image
from evolvedirector.teachers.services.plain_png import plain_png

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)


def png(pixels: np.ndarray = PIXELS, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_chunk(data: bytes, name: bytes, content: bytes, before: bytes = b"IDAT") -> bytes:
    place = data.index(before) - 4
    return data[:place] + chunk(name, content) + data[place:]


def test_pixels_and_compression_stay_and_everything_else_goes() -> None:
    told = PngInfo()
    told.add_text("parameters", "canary in words")
    bare = png(compress_level=9)
    image = Image.fromarray(PIXELS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=told, icc_profile=b"canary profile", dpi=(72, 72), compress_level=9)
    stripped = plain_png(with_chunk(buffer.getvalue(), b"caNa", b"canary of its own") + b"canary behind the end")
    assert stripped == bare
    assert np.array_equal(decode_image(stripped), PIXELS)


def test_many_pieces_of_pixels_become_one() -> None:
    data = png()
    start, length = data.index(b"IDAT") - 4, struct.unpack(">I", data[data.index(b"IDAT") - 4 :][:4])[0]
    stream = data[start + 8 : start + 8 + length]
    pieces = b"".join(chunk(b"IDAT", stream[at : at + 100]) for at in range(0, length, 100))
    assert plain_png(data[:start] + pieces + data[start + 12 + length :]) == plain_png(data)


def kinds() -> dict[str, bytes]:
    grey = np.full((8, 8), 7, np.uint8)
    turned = Image.fromarray(PIXELS).getexif()
    turned[0x0112] = 6
    xmp = PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    return {
        "grey": png(grey),
        "palette": _palette(),
        "alpha": png(np.dstack([PIXELS, np.full(PIXELS.shape[:2], 200, np.uint8)])),
        "one transparent colour": png(transparency=(1, 2, 3)),
        "turned": png(exif=turned),
        "turned in words": png(pnginfo=xmp),
        "animated": with_chunk(png(), b"acTL", struct.pack(">II", 1, 0)),
        "jpeg": b"\xff\xd8\xff\xe0" + b"\0" * 40,
        "cut": png()[:-40],
    }


def _palette() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).quantize(8).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", list(kinds()))
def test_what_only_a_decoder_can_judge_is_left_to_it(name: str) -> None:
    assert plain_png(kinds()[name]) is None


def test_a_stream_that_holds_more_than_its_pixels_is_not_kept() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    for stream in (zlib.compress(rows) + b"canary", zlib.compress(rows + b"canary"), zlib.compress(rows[:-1])):
        header = struct.pack(">IIBBBBB", 40, 24, 8, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
        assert plain_png(data) is None


def test_a_turned_image_is_cleaned_upright() -> None:
    clean = clean_image(kinds()["turned"], ImageSafety())
    assert (clean.width_px, clean.height_px) == (24, 40)
    assert np.array_equal(decode_image(clean.png), np.rot90(PIXELS, -1))
