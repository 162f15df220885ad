"""Pictures of every form that Pillow reads come in, or are refused with the reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from evolvedirector.store import StoreError, decode_image
from evolvedirector.store.pictures import kept_picture, picture_extensions


def drawn(mode: str = "RGB") -> Image.Image:
    ramp = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    return Image.fromarray(ramp).convert(mode)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("form", "extension", "mode"),
    [
        ("BMP", "bmp", "RGB"),
        ("GIF", "gif", "P"),
        ("TIFF", "tif", "RGB"),
        ("TIFF", "TIFF", "CMYK"),
        ("TIFF", "tiff", "1"),
        ("TGA", "tga", "RGB"),
        ("PPM", "ppm", "RGB"),
        ("PPM", "pgm", "L"),
        ("JPEG2000", "jp2", "RGB"),
        ("ICO", "ico", "RGB"),
        ("PCX", "pcx", "RGB"),
        ("SGI", "sgi", "RGB"),
        ("QOI", "qoi", "RGB"),
        ("DDS", "dds", "RGB"),
    ],
)
def test_other_forms_become_png_without_loss(form: str, extension: str, mode: str) -> None:
    kept = kept_picture(encoded(drawn(mode), form), extension)
    assert kept.startswith(b"\x89PNG") and extension.lower() in picture_extensions()
    assert np.array_equal(decode_image(kept), np.asarray(drawn(mode).convert("RGB")))


def test_avif_becomes_png_of_what_pillow_decodes() -> None:
    data = encoded(drawn(), "AVIF")
    assert np.array_equal(decode_image(kept_picture(data)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "MPO"])
def test_what_a_shard_can_hold_stays_as_it_is(form: str) -> None:
    assert kept_picture(data := encoded(drawn(), form), "gif") == data


def test_transparent_parts_and_the_camera_are_applied() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert decode_image(kept_picture(encoded(clear, "TIFF"))).min() == 255
    turned = drawn().crop((0, 0, 16, 8))
    turned.getexif()[274] = 6
    kept = kept_picture(encoded(turned, "TIFF", exif=turned.getexif()))
    assert decode_image(kept).shape == (16, 8, 3)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_animations_and_pages_are_refused(form: str) -> None:
    data = encoded(drawn(), form, save_all=True, append_images=[drawn().rotate(90)])
    with pytest.raises(StoreError, match="several frames"):
        kept_picture(data)


@pytest.mark.parametrize(
    ("data", "extension", "reason"),
    [
        (b"<html>", "png", "no '.png' picture"),
        (b"", "", "this is no picture"),
        (b"\0" * 600, "tga", "no '.tga' picture"),
        (encoded(drawn(), "TGA"), "png", "no '.png' picture"),
        (encoded(drawn(), "EPS"), "eps", "no '.eps' picture"),
        (encoded(drawn(), "PDF"), "pdf", "no '.pdf' picture"),
        (encoded(drawn("F"), "TIFF"), "tif", "32 bits a value"),
        (encoded(drawn("I"), "TIFF"), "tif", "32 bits a value"),
        (encoded(drawn(), "BMP")[:-50], "bmp", "cut short"),
        (encoded(Image.new("1", (6000, 6000)), "TIFF", compression="group4"), "tif", "6000 x 6000 pixels"),
        (b"x" * (32 * 2**20 + 1), "bmp", "at most 33554432"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(data: bytes, extension: str, reason: str) -> None:
    with pytest.raises(StoreError, match=reason):
        kept_picture(data, extension)
    assert {"eps", "pdf", "h5", "mpg"}.isdisjoint(picture_extensions())
