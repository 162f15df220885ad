import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from evolvedirector.store import StoreError, check_image, decode_image, image_size


def save(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_transparent_parts_become_white() -> None:
    image = Image.new("RGBA", (3, 2), (255, 0, 0, 0))
    assert decode_image(save(image)).tolist() == [[[255, 255, 255]] * 3] * 2


def test_a_palette_with_transparency_becomes_white() -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert decode_image(save(image, transparency=0)).min() == 255


def test_sixteen_bit_grey_is_scaled() -> None:
    image = Image.fromarray(np.full((2, 2), 0x8000, np.uint16))
    assert decode_image(save(image)).tolist() == [[[128] * 3] * 2] * 2


def test_camera_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter turn
    data = save(Image.new("RGB", (4, 2)), "JPEG", exif=exif)
    assert check_image(data) == (2, 4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_a_cut_image_is_refused(kind: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    data = save(Image.fromarray(noise), kind)
    assert check_image(data) == (32, 32)
    with pytest.raises(StoreError):
        check_image(data[: int(len(data) * keep)])


def test_a_bomb_is_refused_by_its_header() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    for refuse in (image_size, check_image):
        with pytest.raises(StoreError):
            refuse(bomb)


def test_damaged_metadata_is_refused_like_a_damaged_image() -> None:
    plain = save(Image.new("RGB", (4, 4)))
    chunk = b"eXIf" + b"MM\0*"
    at = plain.index(b"IDAT") - 4
    damaged = plain[:at] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + plain[at:]
    with pytest.raises(StoreError, match="cannot be decoded"):
        decode_image(damaged)


def test_the_pixel_cap_is_the_callers() -> None:
    data = save(Image.new("RGB", (10, 10)))
    assert check_image(data, max_pixels=100) == (10, 10)
    with pytest.raises(StoreError, match=r"10 x 10 pixels is refused\. At most 99"):
        check_image(data, max_pixels=99)


def test_other_formats_are_refused() -> None:
    with pytest.raises(StoreError, match="Convert it to PNG"):
        check_image(save(Image.new("RGB", (2, 2)), "GIF"))
