"""Pictures of WebDataset tars as a teacher: found by prompt, read by offset, nothing unpacked."""

from __future__ import annotations

import io
import json
import logging
import pickle
import tarfile
from pathlib import Path

import pytest

from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.store.images import decode_image
from evolvedirector.store.imports import tar_images
from evolvedirector.teachers.local.webdataset_teacher import WebDatasetTeacher
from tests.toys import flat_png


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def ask(teacher: WebDatasetTeacher, prompt: str, seed: int = 0) -> ImageReply:
    (reply,) = teacher.generate([ImageRequest("r", prompt, seed, 8, 8)])
    return reply


def tone(reply: ImageReply) -> int:
    assert reply.image is not None, reply.reason
    return int(decode_image(reply.image)[0, 0, 0])


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Two tars: captions as text and JSON, one prompt in both."""
    first = {"a.png": flat_png(10), "a.txt": b"A red fox.", "b.json": b'{"text": "two owls"}', "b.PNG": flat_png(20)}
    second = {"dir/a.png": flat_png(30), "dir/a.json": json.dumps({"prompt": "the red fox", "x": 1}).encode()}
    write_tar(tmp_path / "x-0.tar", first)
    write_tar(tmp_path / "x-1.tar", second)
    return str(tmp_path / "x-{0..1}.tar")


def test_pictures_are_found_by_prompt_and_chosen_by_seed(shards: str) -> None:
    teacher = WebDatasetTeacher(shards)
    teacher.verify()
    assert [tone(ask(teacher, "a red fox", seed)) for seed in range(3)] == [10, 30, 10]
    assert tone(ask(teacher, "Two Owls")) == 20
    assert (ask(teacher, "a unicorn").status, ask(teacher, "a unicorn").reason) == (
        "refusal",
        "no image of this prompt",
    )


def test_the_bytes_can_be_kept(shards: str) -> None:
    assert ask(WebDatasetTeacher(shards, fit="keep"), "two owls").image == flat_png(20)


def test_samples_that_cannot_be_used_are_told_and_nothing_is_executed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harmed",))

    path = write_tar(
        tmp_path / "x.tar",
        {
            **{"good.png": flat_png(1), "good.txt": b"good", "bare.png": flat_png(2), "words.txt": b"words"},
            **{"odd.png": flat_png(3), "odd.json": b"[" * 60_000, "long.png": flat_png(4), "long.txt": b"x" * 2**21},
            **{"harm.pickle": pickle.dumps(Harm()), "harm.png": flat_png(5), "../up.png": b"", "/abs.txt": b"abs"},
        },
    )
    with caplog.at_level(logging.WARNING):
        teacher = WebDatasetTeacher(str(path))
        assert tone(ask(teacher, "good")) == 1
    assert f"{path}: 7 samples cannot be used" in caplog.text
    assert not (tmp_path / "harmed").exists()


def test_a_tar_that_changed_gives_failures(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": flat_png(1), "a.txt": b"one"})
    teacher = WebDatasetTeacher(str(path))
    teacher.verify()
    content = path.read_bytes()
    path.write_bytes(content[:530])
    assert "has become shorter" in ask(teacher, "one").reason
    path.write_bytes(b"\0" * len(content))
    assert ask(teacher, "one").status == "failure"
    path.unlink()
    assert ask(teacher, "one").status == "failure"


def test_the_name_follows_from_what_is_there(shards: str, tmp_path: Path) -> None:
    before = WebDatasetTeacher(shards).fingerprint
    assert WebDatasetTeacher(shards).fingerprint == before
    write_tar(tmp_path / "x-1.tar", {"a.png": flat_png(30), "a.txt": b"another"})
    assert WebDatasetTeacher(shards).fingerprint != before


def test_what_is_no_whole_plain_tar_is_told(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", {"a.png": flat_png(1) * 20, "a.txt": b"one"})
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:900])
    packed = tmp_path / "x.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(whole, "x")
    (tmp_path / "backwards.tar").write_bytes(backwards())
    for name in ("cut.tar", "x.tar.gz", "missing.tar", "backwards.tar", "x-{0.tar"):
        with pytest.raises(ValueError, match=r"is cut short|compressed|does not exist|not understood|-512 bytes"):
            WebDatasetTeacher(str(tmp_path / name)).verify()
    with pytest.raises(ValueError, match="does not exist"):
        WebDatasetTeacher("pipe:cat x.tar").verify()
    with pytest.raises(ValueError, match="no picture with a caption"):
        WebDatasetTeacher(str(write_tar(tmp_path / "empty.tar", {}))).verify()
    with pytest.raises(ValueError, match="fit is 'stretch'"):
        WebDatasetTeacher("x.tar", fit="stretch")  # type: ignore[arg-type]


def test_teacher_and_import_read_the_same_samples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {
        **{
            "./b.txt": b"\xef\xbb\xbftwo\r\nowls",
            "a.png": flat_png(10),
            "b.png": flat_png(20),
            "a.json": b'{"text": "a fox"}',
        },
        **{
            "latin.png": flat_png(1),
            "latin.txt": b"caf\xe9",
            "list.png": flat_png(1),
            "list.json": b'{"caption": ["a"]}',
        },
        **{"skill.png": flat_png(1), "skill.json": b'{"text": "a", "skill": 7}', "._a.png": b"", "d.gif": flat_png(30)},
        **{
            "d.txt": b" ",
            "d.json": b'{"caption": "from json"}',
            "half.png": flat_png(1),
            "half.json": b'{"text": "\\ud83d"}',
        },
    }
    first, second = write_tar(tmp_path / "x.tar", members), write_tar(tmp_path / "y.tar", {"a.png": b"", "a.txt": b"x"})
    content = first.read_bytes()
    at = content.index(b"skill.png\0")
    joined = tmp_path / "joined.tar"
    joined.write_bytes(content[:at] + b"X" + content[at + 1 :] + second.read_bytes())
    teacher = WebDatasetTeacher(str(joined))
    with caplog.at_level(logging.WARNING):
        teacher.verify()
    problems: list[str] = []
    imported = list(tar_images(str(joined), problems))
    assert [(item.caption, item.image[:4]) for item in imported[:3]] == [
        ("two owls", b"\x89PNG"),
        ("a fox", b"\x89PNG"),
        ("from json", b"\x89PNG"),
    ]
    assert [tone(ask(teacher, item.caption)) for item in imported[:3]] == [20, 10, 30]
    told = [problem.rpartition("joined.tar")[2] for problem in teacher._index.left_out]
    assert [problem.rpartition("joined.tar")[2] for problem in problems] == [
        line for line in told if "half" not in line
    ]
    assert len(told) == 6 and "damaged at byte" in caplog.text and "half a character" in caplog.text


def backwards() -> bytes:
    """A member whose size is negative, so that the next header would be the same one again."""
    about = tarfile.TarInfo("a.png")
    header = bytearray(about.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + b"\0" * 1024
