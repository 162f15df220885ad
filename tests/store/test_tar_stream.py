"""Every member of a foreign tar is in a sample or named, whatever happened to the tar."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from evolvedirector.store import StoreError
from evolvedirector.store.tar_stream import Span, read_span, tar_samples

LONG = "d" * 120


def tar(*names: str, format: int = tarfile.GNU_FORMAT, links: dict[str, tuple[bytes, str]] | None = None) -> bytes:
    """A tar whose members hold their own names, then links by name: kind and target."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name.encode())
            archive.addfile(member, io.BytesIO(name.encode()))
        for name, (kind, target) in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return buffer.getvalue()


def damaged(content: bytes, *names: str) -> bytes:
    """Change one byte of the headers of members, so that their check sums no longer fit."""
    for name in names:
        at = content.index(name.encode() + b"\0")
        content = content[:at] + b"X" + content[at + 1 :]
    return content


def claiming(size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that claims a size, with the right check sum."""
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136], header[156:157], header[148:156] = size, kind, b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


PAIRS = ("a.png", "a.txt", "b.png", "b.txt")
WHOLE = tar(*PAIRS)
CUT = WHOLE[: 5 * 512]
"""Whole up to `a.txt`; of `b.png` there is the header alone, so a tar joined to it loses its first block to it."""


@pytest.mark.parametrize(
    ("content", "samples", "named"),
    [
        (WHOLE, {"a": "png txt", "b": "png txt"}, []),
        (tar("b.txt", "a.png", "b.png", "a.txt"), {"b": "txt png", "a": "png txt"}, []),
        (tar("./a.png", "a.txt", "x//b.png", "x/./b.txt"), {"a": "png txt", "x/b": "png txt"}, []),
        (tar("A.PNG", "A.Txt"), {"A": "png txt"}, []),
        (tar(f"{LONG}.png", f"{LONG}.txt"), {LONG: "png txt"}, []),
        (tar(f"{LONG}.png", "ü.png", format=tarfile.PAX_FORMAT), {LONG: "png", "ü": "png"}, []),
        (damaged(WHOLE, "a.txt"), {"a": "png", "b": "png txt"}, ["damaged at byte 1024, after 'a.png'"]),
        (damaged(WHOLE, "a.png"), {"a": "txt", "b": "png txt"}, ["damaged at byte 0, after its beginning"]),
        (damaged(WHOLE, "a.png", "b.txt"), {"a": "txt", "b": "png"}, ["byte 0", "damaged at byte 3072"]),
        (tar("a.png", "a.txt") + tar("b.png", "b.txt"), {"a": "png txt", "b": "png txt"}, []),
        (tar("a.png", "a.txt") * 2, {"a": "png txt", "a#2": "png txt"}, []),
        (tar("a.png", "a.txt", "a.png", "a.txt"), {"a": "png txt", "a#2": "png txt"}, []),
        (tar("b.png") + tar("a.png", "b.txt"), {"b": "png", "a": "png", "b#2": "txt"}, []),
        (CUT, {"a": "png txt"}, ["'b.png' is cut short or damaged (0 of its 5 bytes are there)"]),
        (CUT + WHOLE, {"a": "png txt", "b": "png", "a#2": "txt", "b#2": "png txt"}, ["a header"]),
        (WHOLE[:2048], {"a": "png txt"}, ["no end mark after 'a.txt'"]),
        (WHOLE[:2048] + WHOLE, {"a": "png txt", "a#2": "png txt", "b": "png txt"}, []),
        (WHOLE + b"<html>", {"a": "png txt", "b": "png txt"}, ["after 'b.txt': a header cannot be read (trunc"]),
        (tar("._a.png", "__MACOSX/a.txt", "a.png"), {"a": "png"}, ["._a.png: macOS", "__MACOSX/a.txt: macOS"]),
        (tar("README", ".a.png", "x.d/y", "a.png"), {"a": "png"}, ["README: its", ".a.png: its", "x.d/y: its"]),
        (tar("p.v1.png", "p.v1.txt", "p.v2.png", "p.v2.json"), {"p.v1": "png txt", "p.v2": "png json"}, []),
        (tar("p.v1.png", "p.v1.txt", "p.cls"), {"p.v1": "png txt", "p": "cls"}, []),
        (tar("p.png", "p.v1.png", "p.v1.txt"), {"p": "png v1.png v1.txt"}, ["p.v1.{png,txt}: WebDataset cuts"]),
        (tar("a.png", "a.mask.png"), {"a": "png mask.png"}, []),
        (tar("a.png", links={"a.txt": (tarfile.LNKTYPE, "./a.png")}), {"a": "png txt"}, []),
        (tar("a.png", links={"a.txt": (tarfile.SYMTYPE, "b")}), {"a": "png"}, ["a.txt: it is a link to 'b'"]),
        (tar("a.png", links={"a.txt": (tarfile.FIFOTYPE, "")}), {"a": "png"}, ["a.txt: it is no plain file"]),
        (tar("a.png", links={"dir": (tarfile.DIRTYPE, "")}), {"a": "png"}, []),
        (claiming((-512).to_bytes(12, "big", signed=True)) + WHOLE, {"a": "png txt", "b": "png txt"}, ["-512 bytes"]),
        (claiming(b"77777777777\0") + WHOLE, {"a": "png txt", "b": "png txt"}, ["of its 8589934591 bytes"]),
        (claiming(b"77777777777\0", b"L") + WHOLE, {"a": "png txt", "b": "png txt"}, ["a long name claims"]),
        (claiming(b"00000000000\0", b"L") * 600, {}, ["a header cannot be read (too many long names"]),
        (b"", {}, ["it is empty"]),
        (bytes(10240), {}, ["it is empty"]),
        (b"<html>" * 500, {}, ["it is no tar: a header cannot be read"]),
        (b"\x1f\x8b" + WHOLE, {}, ["it is compressed (gzip)"]),
    ],
)
def test_members_are_in_a_sample_or_named(
    tmp_path: Path, content: bytes, samples: dict[str, str], named: list[str]
) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    problems: list[str] = []
    found = tar_samples(str(tmp_path / "x.tar"), problems)
    assert {sample.key: " ".join(sample.parts) for sample in found} == samples
    assert len(problems) == len(named), problems
    for part, problem in zip(named, problems, strict=True):
        assert part in problem and problem.startswith(str(tmp_path / "x.tar"))


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is what it is compared with")
def test_counts_add_up_to_what_gnu_tar_lists(tmp_path: Path) -> None:
    names = ["a.png", "./a.txt", "._a.png", "README", f"{LONG}.png", f"{LONG}.txt", "b.png", "c.png", "b.txt", "d.txt"]
    links = {"c.txt": (tarfile.LNKTYPE, "b.txt"), "e.png": (tarfile.SYMTYPE, "a.png")}
    content = damaged(tar(*names, links=links), "c.png") + tar(*PAIRS, format=tarfile.PAX_FORMAT)
    (tmp_path / "x.tar").write_bytes(content)
    listed = subprocess.run(["tar", "-itf", str(tmp_path / "x.tar")], capture_output=True, text=True).stdout.split()
    problems: list[str] = []
    parts = sum(len(sample.parts) for sample in tar_samples(str(tmp_path / "x.tar"), problems))
    damage = [problem for problem in problems if "damaged at byte" in problem]
    assert len(listed) == parts + len(problems) - len(damage) == 15 and len(damage) == 1


def test_a_member_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(WHOLE)
    (sample, _) = tar_samples(str(tmp_path / "x.tar"), [])
    assert sample.picture is not None and read_span(sample.picture[1], 5) == b"a.png"
    with pytest.raises(StoreError, match="5 bytes; at most 4"):
        read_span(sample.picture[1], 4)
    with pytest.raises(StoreError, match="has become shorter"):
        read_span(Span(str(tmp_path / "x.tar"), len(WHOLE) - 2, 5), 5)
