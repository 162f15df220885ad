"""Images from services: bounded, stripped, and stand-ins for refusals recognised without refusing plain pictures."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, PngImagePlugin

from evolvedirector.records import ImageRequest
from evolvedirector.store.errors import StoreError
from evolvedirector.teachers.services.image_safety import ImageSafety, clean_image, sharpness, suspicion_of
from evolvedirector.worlds.shapes import MiniaturePrompts, MiniatureTeacher

DEFAULT = ImageSafety()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(size_px: int = 256) -> Image.Image:
    """A mosaic with every frequency in it."""
    tiles = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(tiles).resize((size_px, size_px), Image.Resampling.NEAREST)


def one_thing(radius_px: int, background: str = "white", size_px: int = 512) -> Image.Image:
    image = Image.new("RGB", (size_px, size_px), background)
    ImageDraw.Draw(image).ellipse((200, 200, 200 + 2 * radius_px, 200 + 2 * radius_px), fill="red")
    return image


def suspicion(image: Image.Image, safety: ImageSafety = DEFAULT) -> str:
    return suspicion_of(np.asarray(image.convert("RGB")), safety)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_pixels_are_kept_exactly_and_metadata_is_gone(kind: str, options: dict) -> None:
    metadata = Image.Exif()
    metadata[0x010E] = "canary description"
    data = encoded(scene(), kind, exif=metadata.tobytes(), **options)
    assert b"canary" in data
    clean = clean_image(data + b"canary trailer", DEFAULT)
    assert b"canary" not in clean.png
    assert clean.suspicion == "" and (clean.width_px, clean.height_px) == (256, 256)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(clean.png))), np.asarray(scene()))


def test_text_chunks_of_a_png_are_gone() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("parameters", "canary prompt")
    assert b"canary" not in clean_image(encoded(scene(), pnginfo=notes), DEFAULT).png


def test_a_jpeg_is_decoded_once_and_turned_the_right_way_up() -> None:
    metadata = Image.Exif()
    metadata[0x0112] = 6
    data = encoded(scene(128).crop((0, 0, 128, 96)), "JPEG", exif=metadata.tobytes())
    clean = clean_image(data, DEFAULT)
    assert (clean.width_px, clean.height_px) == (96, 128)
    assert clean_image(clean.png, DEFAULT).png == clean.png


def bomb() -> bytes:
    """A PNG of 20000 x 20000 pixels in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>error</html>", b"GIF89a" + b"x" * 40, encoded(scene())[:400], b"BM" + b"x" * 40, bomb()],
    ids=["empty", "page", "gif", "cut", "bmp", "bomb"],
)
def test_what_is_no_image_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError):
        clean_image(data, DEFAULT)


def test_own_limits_hold() -> None:
    with pytest.raises(ValueError, match="too large"):
        clean_image(encoded(scene()), ImageSafety(max_bytes=100))
    with pytest.raises(StoreError, match="pixels"):
        clean_image(encoded(scene()), ImageSafety(max_pixels=256 * 255))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("RGB", (512, 512)), "all black"),
        (Image.new("RGB", (512, 512), (3, 5, 4)), "all black"),
        (Image.new("RGB", (64, 96), (200, 180, 90)), "all one colour"),
        (Image.new("RGB", (512, 512), "white"), "all one colour"),
        (scene(512).filter(ImageFilter.GaussianBlur(45)), "heavily blurred"),
        (one_thing(120, "navy").filter(ImageFilter.GaussianBlur(45)), "heavily blurred"),
    ],
)
def test_stand_ins_for_refusals_are_recognised(image: Image.Image, reason: str) -> None:
    assert suspicion(image) == reason
    stored = io.BytesIO(encoded(image, "JPEG", quality=75))
    assert suspicion(Image.open(stored)) == reason  # the noise of JPEG hides nothing


@pytest.mark.parametrize(
    "draw",
    [
        lambda: scene(512),
        lambda: one_thing(5),
        lambda: one_thing(5, "black"),
        lambda: one_thing(60),
        lambda: one_thing(240),
        lambda: scene(512).filter(ImageFilter.GaussianBlur(5)),
        lambda: Image.effect_noise((512, 512), 90),
        lambda: one_thing(40).resize((32, 32)),
        lambda: one_thing(60).resize((100, 700)),
    ],
)
def test_plain_and_soft_pictures_pass(draw: Callable[[], Image.Image]) -> None:
    assert suspicion(draw()) == ""
    assert suspicion(Image.open(io.BytesIO(encoded(draw().convert("RGB"), "JPEG")))) == ""


@pytest.mark.parametrize("size_px", [32, 64, 256])
def test_scenes_of_the_miniature_world_pass(size_px: int) -> None:
    prompts = MiniaturePrompts(count=12).prompts()
    requests = [ImageRequest(prompt.text, prompt.text, n, size_px, size_px) for n, prompt in enumerate(prompts)]
    for reply in MiniatureTeacher().generate(requests):
        assert suspicion(Image.open(io.BytesIO(reply.image))) == "", reply.request_id


def test_both_checks_can_be_switched_off() -> None:
    off = ImageSafety(uniform_share=None, least_sharpness=0.0)
    assert suspicion(Image.new("RGB", (512, 512)), off) == ""
    gradient = np.tile(np.linspace(0, 255, 512, dtype=np.uint8)[None, :, None], (512, 1, 3))
    assert suspicion_of(gradient, DEFAULT) == "heavily blurred"
    assert suspicion_of(gradient, off) == ""


def test_sharpness_is_what_its_equation_says_at_any_size() -> None:
    for side in (256, 1024):  # a step blurred by s = 5 % of the side: slope / contrast = 1 / (5 sqrt(2 pi)) = 0.08
        step = Image.new("RGB", (side, side), "black")
        step.paste("white", (side // 2, 0, side, side))
        blurred = np.asarray(step.filter(ImageFilter.GaussianBlur(0.05 * side)))
        assert sharpness(blurred) == pytest.approx(0.08, rel=0.15)  # Pillow's blur is itself an approximation


@pytest.mark.parametrize(
    "field", [{"max_bytes": 0}, {"max_pixels": 10**12}, {"uniform_share": 1.0}, {"least_sharpness": -0.1}]
)
def test_limits_out_of_range_are_refused(field: dict) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(field))}=.*Allowed.*Write"):
        ImageSafety(**field)
