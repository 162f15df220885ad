"""Pictures of a folder as a teacher: found by prompt, chosen by seed, nothing outside of the folder."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.store.images import decode_image
from evolvedirector.teachers.local.folder_teacher import FolderTeacher
from tests.toys import flat_png


def ask(teacher: FolderTeacher, prompt: str, seed: int = 0, width_px: int = 8, height_px: int = 8) -> ImageReply:
    (reply,) = teacher.generate([ImageRequest("r", prompt, seed, width_px, height_px)])
    return reply


def tone(reply: ImageReply) -> int:
    assert reply.image is not None, reply.reason
    return int(decode_image(reply.image)[0, 0, 0])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three captioned pictures: two of one prompt, one below a folder; and one without a caption."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for name, caption, brightness in (("a", "A red fox.", 10), ("b", "the red  fox", 20), ("more/c", "two owls", 30)):
        (folder / f"{name}.png").write_bytes(flat_png(brightness, 16))
        (folder / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")
    (folder / "lonely.png").write_bytes(flat_png(99))
    return folder


def test_pictures_are_found_by_prompt_and_chosen_by_seed(pictures: Path) -> None:
    teacher = FolderTeacher(str(pictures))
    teacher.verify()
    assert [tone(ask(teacher, "a Red Fox", seed)) for seed in range(4)] == [10, 20, 10, 20]
    assert tone(ask(teacher, "Two owls.")) == 30
    reply = ask(teacher, "a unicorn")
    assert (reply.status, reply.reason) == ("refusal", "no image of this prompt")
    assert ask(teacher, "lonely").status == "refusal"


def test_pictures_are_cropped_to_the_size_asked_for_or_kept(pictures: Path) -> None:
    reply = ask(FolderTeacher(str(pictures)), "two owls", 0, 12, 4)
    assert decode_image(reply.image or b"").shape == (4, 12, 3)
    kept = ask(FolderTeacher(str(pictures), fit="keep"), "two owls", 0, 12, 4)
    assert kept.image == (pictures / "more/c.png").read_bytes()


def test_a_crop_keeps_proportions_and_centre(tmp_path: Path) -> None:
    from PIL import Image

    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 255
    Image.fromarray(stripes).save(tmp_path / "s.png")
    (tmp_path / "s.txt").write_text("stripes", encoding="utf-8")
    image = decode_image(ask(FolderTeacher(str(tmp_path)), "stripes", 0, 10, 10).image or b"")
    assert image[5, 3:7].min() > 250


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_captions_may_stand_in_one_file(pictures: Path, kind: str) -> None:
    rows = [("a.png", "first"), ("more/c.png", "second")]
    if kind == "jsonl":
        text = "\n".join(json.dumps({"file_name": name, "text": caption}) for name, caption in rows) + "\n\n"
    else:
        text = "image,prompt\n" + "\n".join(f'"{name}","{caption}"' for name, caption in rows)
    (pictures / f"list.{kind}").write_text(text, encoding="utf-8")
    teacher = FolderTeacher(str(pictures), f"list.{kind}")
    assert tone(ask(teacher, "first")) == 10 and tone(ask(teacher, "second")) == 30
    assert ask(teacher, "red fox").status == "refusal"


@pytest.mark.parametrize(
    "name", ["../outside.png", "/etc/hostname", "more/../../outside.png", "..\\outside.png", "link.png", "down/x.png"]
)
def test_nothing_outside_of_the_folder_is_read(pictures: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    outside = pictures.parent / "outside.png"
    outside.write_bytes(flat_png(66))
    (pictures.parent / "x.png").write_bytes(flat_png(66))
    (pictures / "link.png").symlink_to(outside)
    (pictures / "down").symlink_to(pictures.parent)
    (pictures / "link.txt").write_text("link", encoding="utf-8")
    (pictures / "list.jsonl").write_text(
        json.dumps({"image": name, "prompt": "it"}) + "\n" + json.dumps({"image": "a.png", "prompt": "fine"}),
        encoding="utf-8",
    )
    teacher = FolderTeacher(str(pictures), "list.jsonl")
    with caplog.at_level(logging.WARNING):
        assert ask(teacher, "it").status == "refusal" and ask(teacher, "fine").status == "image"
    assert "entry 1 of list.jsonl" in caplog.text
    assert ask(FolderTeacher(str(pictures)), "link").status == "refusal"


def test_a_picture_that_becomes_a_link_afterwards_is_not_followed(pictures: Path) -> None:
    teacher = FolderTeacher(str(pictures))
    teacher.verify()
    (pictures.parent / "outside.png").write_bytes(flat_png(66))
    (pictures / "more/c.png").unlink()
    (pictures / "more/c.png").symlink_to(pictures.parent / "outside.png")
    assert ask(teacher, "two owls").status == "failure"


def test_pictures_that_cannot_be_used_are_failures(pictures: Path) -> None:
    teacher = FolderTeacher(str(pictures))
    teacher.verify()
    for damaged in (b"no picture", flat_png(3)[:40]):
        (pictures / "more/c.png").write_bytes(damaged)
        reply = ask(teacher, "two owls")
        assert reply.status == "failure" and reply.reason.startswith("unusable image: ")
    (pictures / "more/c.png").unlink()
    assert ask(teacher, "two owls").status == "failure"


def test_more_pixels_than_allowed_are_not_decoded(pictures: Path) -> None:
    from PIL import Image

    Image.new("1", (6_000, 6_000)).save(pictures / "more/c.png")
    assert "6000 x 6000" in ask(FolderTeacher(str(pictures)), "two owls").reason


def test_the_name_follows_from_what_is_there_and_not_from_when(pictures: Path) -> None:
    before = FolderTeacher(str(pictures)).fingerprint
    os.utime(pictures / "a.png", (1, 1))
    assert FolderTeacher(str(pictures)).fingerprint == before
    assert FolderTeacher(str(pictures), fit="keep").fingerprint != before
    (pictures / "b.txt").write_text("a blue fox", encoding="utf-8")
    assert FolderTeacher(str(pictures)).fingerprint != before


def test_forms_and_captions_are_read_as_an_import_reads_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "a.bmp")
    (tmp_path / "a.TXT").write_bytes(b" \r\n")
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"text": "from json"}')
    for name, content in (("b", "caf\xe9".encode("latin-1")), ("c", b"a\0b")):
        (tmp_path / f"{name}.png").write_bytes(flat_png(1))
        (tmp_path / f"{name}.txt").write_bytes(content)
    teacher = FolderTeacher(str(tmp_path), fit="keep")
    with caplog.at_level(logging.WARNING):
        assert (ask(teacher, "from json").image or b"").startswith(b"\x89PNG")
    assert "2 pictures cannot be used" in caplog.text
    assert "b.png: its txt cannot be read: byte 0xE9" in caplog.text and "c.png: The prompt holds" in caplog.text


def test_what_cannot_be_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        FolderTeacher(str(tmp_path / "missing")).verify()
    with pytest.raises(ValueError, match="no picture that can be found"):
        FolderTeacher(str(tmp_path)).verify()
    with pytest.raises(ValueError, match="is no file in"):
        FolderTeacher(str(tmp_path), "list.jsonl").verify()
    with pytest.raises(ValueError, match="leads out of the folder"):
        FolderTeacher(str(tmp_path), "../list.jsonl").verify()
    (tmp_path / "list.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be read"):
        FolderTeacher(str(tmp_path), "list.jsonl").verify()
    (tmp_path / "list.xlsx").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"Allowed are \.jsonl and \.csv"):
        FolderTeacher(str(tmp_path), "list.xlsx").verify()
    with pytest.raises(ValueError, match="fit is 'stretch'"):
        FolderTeacher(str(tmp_path), fit="stretch")  # type: ignore[arg-type]
