"""Judges see every image alike, whatever its file was."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from evolvedirector.judges.judge_images import judge_image, judge_png, side_by_side
from evolvedirector.store.errors import StoreError


def encode(picture: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **settings)
    return out.getvalue()


def halves(width: int = 40, height: int = 40) -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (width, height), "red")
    picture.paste("blue", (width // 2, 0, width, height))
    return picture


def test_the_format_of_a_file_cannot_be_told_from_what_the_judge_sees() -> None:
    picture = halves()
    note = PngImagePlugin.PngInfo()
    note.add_text("Software", "the teacher")
    lossless = [encode(picture), encode(picture, "WEBP", lossless=True), encode(picture, pnginfo=note)]
    assert len({judge_png(data, 32) for data in lossless}) == 1
    assert len({judge_png(encode(picture.convert(mode)), 32) for mode in ("RGB", "RGBA", "P")}) == 1


def test_nothing_but_pixels_is_kept() -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("parameters", "made by the student")
    exif = Image.Exif()
    exif[0x010F] = "camera of the teacher"
    for data in (encode(halves(), pnginfo=note), encode(halves(), "JPEG", exif=exif)):
        seen = judge_png(data, 32)
        opened = Image.open(io.BytesIO(seen))
        assert (opened.format, opened.mode, opened.size, opened.info) == ("PNG", "RGB", (32, 32), {})
        assert b"student" not in seen
        assert b"camera" not in seen


def test_a_camera_s_orientation_is_applied_before_it_is_dropped() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = np.asarray(judge_image(encode(halves(), "JPEG", exif=exif, quality=95), 32))
    assert turned[16, 4, 2] > 200  # what was on the right is on the left
    assert turned[16, 28, 0] > 200


def test_transparent_parts_are_white() -> None:
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert np.asarray(judge_image(encode(clear), 16)).min() == 255


def test_a_wide_image_is_shown_whole_and_undistorted() -> None:
    seen = np.asarray(judge_image(encode(halves(80, 20)), 64))
    assert seen.shape == (64, 64, 3)
    assert tuple(seen[32, 2]) == (255, 0, 0)
    assert tuple(seen[32, 61]) == (0, 0, 255)
    assert tuple(seen[2, 32]) == (255, 255, 255)
    assert (seen[:, 8] == (255, 0, 0)).all(axis=1).sum() == 16  # a quarter as high as wide, as it was


def test_two_images_side_by_side_keep_their_order_and_never_touch() -> None:
    red, blue = (encode(Image.new("RGB", (8, 8), colour)) for colour in ("red", "blue"))
    seen = np.asarray(Image.open(io.BytesIO(side_by_side(red, blue, 32))))
    assert seen.shape == (32, 66, 3)
    assert tuple(seen[5, 5]) == (255, 0, 0)
    assert tuple(seen[5, 60]) == (0, 0, 255)
    assert tuple(seen[5, 32]) == (128, 128, 128)


@pytest.mark.parametrize("data", [b"", b"GIF89a....", b"\x89PNG\r\n\x1a\n broken", encode(halves())[:-20]])
def test_what_is_no_whole_image_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError):
        judge_png(data, 32)


def test_a_bomb_is_refused_before_it_unfolds() -> None:
    bomb = encode(Image.new("1", (6000, 6000)))
    assert len(bomb) < 100_000
    with pytest.raises(StoreError, match="pixels"):
        judge_png(bomb, 32)


@pytest.mark.parametrize("size_px", [0, -5, 100_000])
def test_a_size_that_nobody_could_mean_is_refused(size_px: int) -> None:
    with pytest.raises(ValueError, match="Write 448"):
        judge_png(encode(halves()), size_px)
