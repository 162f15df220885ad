"""Tars and pictures as nobody should make them, made here: what each is, and what may come of it."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.store.sample_files import npy, picture

BLOCK = 512
GOOD = "a good one"
"""Caption of the sample that stands first in every tar."""


@dataclass(frozen=True)
class Hostile:
    """A file, and how many samples of it may enter beside the good one."""

    name: str
    data: bytes
    entering: int = 0
    is_told: bool = True
    """Whether something of it is left out, which must then be said."""
    good_ones: int = 1


class Payload:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("pwned", "w"))


def member(name: str, data: bytes = b"", **fields: Any) -> bytes:
    """Make header and content of one member."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    form = fields.get("format", tarfile.GNU_FORMAT)
    return info.tobuf(form, errors="surrogateescape") + padded(data)


def padded(data: bytes) -> bytes:
    """Fill up the last block."""
    return data + bytes(-len(data) % BLOCK)


def sample(name: str = "good", caption: str = GOOD, image: bytes = b"") -> bytes:
    """Make the members of a sample."""
    return member(f"{name}.png", image or picture(7)) + member(f"{name}.txt", caption.encode())


def tar(*parts: bytes) -> bytes:
    """Put a good sample before them, and an end mark behind."""
    return sample() + b"".join(parts) + bytes(2 * BLOCK)


def header(
    name: str = "x.png", size: bytes | None = None, kind: bytes = b"0", check: bool = True, **at: bytes
) -> bytes:
    """Make a header by hand: with another size field, type, or bytes at a place."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[156:157] = kind
    if size is not None:
        block[124:136] = size.ljust(12, b"\0")
    for place, data in at.items():
        start = int(place.removeprefix("at"))
        block[start : start + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) + (0 if check else 1))
    return bytes(block)


def pax(fields: bytes) -> bytes:
    """Make an extended header of raw bytes."""
    return member("pax", fields, type=tarfile.XHDTYPE) + sample("behind", "behind it")


def record(key: str, value: str) -> bytes:
    """Write a field of an extended header."""
    body = f" {key}={value}\n".encode()
    length = len(body) + len(str(len(body)))
    length = len(body) + len(str(length))
    return str(length).encode() + body


def tars() -> Iterator[Hostile]:
    """Yield hostile tars."""
    yield from _names()
    yield from _kinds()
    yield from _headers()
    yield from _members()
    yield from _cuts()


def _names() -> Iterator[Hostile]:
    taken = {
        "up": "../../outside",
        "absolute": "/tmp/outside",
        "up in the middle": "a/../../outside",
        "backslash": "a\\..\\outside",
        "line end": "out\nside",
        "terminal codes": "\x1b[31mout\x1b[0m",
        "right to left": "\u202egnp.out",
        "option": "-rf",
        "command": "$(touch pwned)",
        "pipe": "|touch pwned;",
        "pipe of webdataset": "pipe:touch pwned",
        "address": "http://localhost/x",
        "long": "n" * 5000,
        "deep": "/".join(["d"] * 300) + "/x",
        "percent": "%s%s%n",
        "not UTF-8": "\udcff\udcfe",
    }
    for name, key in taken.items():
        yield Hostile(f"name {name}", tar(sample(key, f"a thing of {name}")), 1, is_told=False)
    for name, key in {"empty": "", "dots": "..", "hidden": ".hidden", "folder alone": "a/", "macOS": "._x"}.items():
        parts = member(f"{key}.png", picture(1)) + member(f"{key}.txt", b"hidden")
        yield Hostile(f"name {name}", tar(parts))
    yield Hostile("dotted keys", tar(sample("a.b.c", "dotted")), 1, is_told=False)
    yield Hostile("a dotted key beside its stem", tar(sample("a", "one"), sample("a.v2", "two")), 1)
    yield Hostile("keys twice", tar(sample("a", "one"), sample("a", "two")), 2, is_told=False)
    yield Hostile("a file twice", tar(sample("a", "one"), member("a.png", picture(9))), 1)
    yield Hostile("another case", tar(member("a.PNG", picture(9)), member("a.TXT", b"shouting")), 1, is_told=False)
    yield Hostile("no extension", tar(member("abc", b"x")))
    yield Hostile("no caption", tar(member("a.png", picture(9))))
    yield Hostile("no picture", tar(member("a.txt", b"words")))


def _kinds() -> Iterator[Hostile]:
    def linked(kind: bytes, target: str) -> bytes:
        return tar(member("x.png", type=kind, linkname=target), member("x.txt", b"linked"))

    for name, target in {"file": "/etc/passwd", "up": "../../../etc/passwd", "itself": "x.png", "folder": "/"}.items():
        yield Hostile(f"symbolic link: {name}", linked(tarfile.SYMTYPE, target))
        yield Hostile(f"hard link: {name}", linked(tarfile.LNKTYPE, target))
    yield Hostile("hard link to the good one", linked(tarfile.LNKTYPE, "good.png"), 1, is_told=False)
    kinds = {"character device": tarfile.CHRTYPE, "block device": tarfile.BLKTYPE, "fifo": tarfile.FIFOTYPE}
    for name, kind in {**kinds, "unknown type": b"Z", "volume": b"V", "multi-volume": b"M"}.items():
        yield Hostile(name, tar(member("x.png", type=kind, devmajor=1, devminor=5), member("x.txt", b"device")))
    yield Hostile(
        "a folder with the name of a picture", tar(member("x.png", type=tarfile.DIRTYPE), member("x.txt", b"w"))
    )
    holes = [record("GNU.sparse.major", "1"), record("GNU.sparse.minor", "0"), record("GNU.sparse.name", "x.png")]
    size = record("GNU.sparse.realsize", str(2**60))
    sparse = member("pax", b"".join([*holes, size]), type=tarfile.XHDTYPE) + member("x.png", b"1\n0\n1\n".ljust(BLOCK))
    yield Hostile("a sparse file of an exabyte", tar(sparse, member("x.txt", b"holes")))
    old = header("x.png", b"%011o" % 0, b"S", at386=b"%011o\0%011o\0" % (0, 1), at483=b"%011o" % (2**32))
    yield Hostile("an old sparse file", tar(old, member("x.txt", b"holes")))


def _headers() -> Iterator[Hostile]:
    yield Hostile("a size of 8 EiB", tar(header(size=b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7)))
    yield Hostile("a negative size", tar(header(size=b"\xff" * 12)))
    yield Hostile("a size of 8 GiB", tar(header(size=b"77777777777")))
    yield Hostile("a size of letters", tar(header(size=b"not a number")))
    yield Hostile("a wrong check sum", tar(header(check=False), sample("behind", "behind it")), 1)
    yield Hostile("an extended header of 4 GiB", tar(header("pax", b"40000000000", b"x")))
    yield Hostile("a long name of 4 GiB", tar(header("@LongLink", b"40000000000", b"L")))
    yield Hostile("many extended headers", tar(member("pax", b"", type=tarfile.XHDTYPE) * 200, sample("b", "b")), 1)
    yield Hostile("many long names", tar(member("@LongLink", b"x", type=b"L") * 200, sample("b", "b")))
    yield Hostile("an extended header of wrong lengths", tar(pax(b"99999 path=x.png\n")))
    yield Hostile("an extended header without lengths", tar(pax(b"path=../x.png\n")), 1, is_told=False)
    yield Hostile("an extended size that lies", tar(pax(record("size", str(2**62)))), 1)
    yield Hostile("an extended size that is negative", tar(pax(record("size", "-1"))), 1)
    yield Hostile(
        "a global name for all", tar(member("pax", record("path", "x.png"), type=tarfile.XGLTYPE), sample("b", "b"))
    )


def _members() -> Iterator[Hostile]:
    code = pickle.dumps(Payload())
    for extension in ("pyd", "pkl", "pickle", "pth", "pt"):
        parts = sample("x", "with a pickle"), member(f"x.{extension}", code)
        yield Hostile(f"a pickle as .{extension}", tar(*parts), 1, is_told=False)
    yield Hostile("a pickle as the picture", tar(sample("x", "a pickle", code)))
    objects = io.BytesIO()
    np.save(objects, np.array([Payload()], object), allow_pickle=True)
    tensors = struct.pack("<Q", 2**62) + b"{}"
    masks = {
        "png": code,
        "npy": objects.getvalue(),
        "safetensors": tensors,
        "json": b"[" * 10**6,
        "txt": b"\xff\xfe\x00",
    }
    for extension, data in masks.items():
        yield Hostile(
            f"mask: {extension}", tar(sample("x", "masked"), member(f"x.mask.{extension}", data)), good_ones=0
        )
    lying = bytearray(npy([1.0]))
    claim = lying.index(b"(1,)")
    lying[claim : claim + 15] = b"(9999999999,), "[:15]
    yield Hostile("mask: a large claim", tar(sample("x", "m"), member("x.mask.npy", bytes(lying))), good_ones=0)
    yield Hostile("a caption of JSON, a million deep", tar(member("x.png", picture(1)), member("x.json", b"[" * 10**6)))
    yield Hostile("a caption of 8 MiB", tar(member("x.png", picture(1)), member("x.txt", b"word " * 2**21)))
    yield Hostile("a caption with NUL", tar(sample("x", "a\0b")))
    yield Hostile("a caption that is no UTF-8", tar(member("x.png", picture(1)), member("x.txt", b"\xff\xfe\xff")))


def _cuts() -> Iterator[Hostile]:
    whole = tar(sample("last", "the last one"))
    places = {
        "in the first header": 100,
        "in the first picture": BLOCK + 20,
        "in the first padding": BLOCK + len(picture(7)) + 5,
        "between the first members": BLOCK + len(padded(picture(7))),
        "in the last header": 3 * BLOCK + len(padded(picture(7))) + 100,
        "before the end mark": len(whole) - 2 * BLOCK,
        "in the end mark": len(whole) - BLOCK - 7,
    }
    good = {
        "in the first header": 0,
        "in the first picture": 0,
        "in the first padding": 0,
        "between the first members": 0,
    }
    for name, place in places.items():
        last = int("end mark" in name)
        yield Hostile(f"cut {name}", whole[:place], last, name != "in the end mark", good.get(name, 1))
    yield Hostile("empty", b"", good_ones=0)
    yield Hostile("zeros alone", bytes(10 * BLOCK), good_ones=0)
    yield Hostile("noise", np.random.default_rng(0).bytes(20 * BLOCK), good_ones=0)
    yield Hostile("a web page", b"<!doctype html><title>404</title>" * 50, good_ones=0)
    yield Hostile("compressed zeros", gzip.compress(bytes(2**24)), good_ones=0)
    yield Hostile("compressed", gzip.compress(tar()), good_ones=0)
    yield Hostile("two tars, one after the other", tar() + tar(sample("b", "b")), 1, is_told=False, good_ones=2)
    yield Hostile(
        "noise between", sample() + np.random.default_rng(1).bytes(5 * BLOCK) + tar(sample("b", "b")), 1, good_ones=2
    )


# ---- pictures


def chunk(kind: bytes, data: bytes) -> bytes:
    """Make a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2, rows: bytes | None = None) -> bytes:
    """Make a PNG by hand, whose size may be a lie."""
    data = rows if rows is not None else bytes((3 * width + 1) * height if width * height < 10**6 else 100)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pictures() -> Iterator[tuple[str, str, bytes, bool]]:
    """Yield name, extension, bytes, and whether it is a picture that may be taken."""
    flat = Image.new("RGB", (16, 8), (200, 100, 50))
    frames = [Image.new("RGB", (8, 8), (n, n, n)) for n in (0, 100, 200)]
    animated = {"save_all": True, "append_images": frames[1:]}
    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg, webp = encoded(flat, "JPEG"), encoded(flat, "WEBP", lossless=True)
    grey16 = Image.fromarray(np.full((8, 8), 40000, np.uint16))
    text_bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26)))
    colour_bomb = chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2**26)))
    yield "a picture of ten gigapixels", "png", png(100_000, 100_000), False
    yield "one pixel too many", "png", png(33_000_001, 1), False
    yield "a real bomb", "png", encoded(Image.new("1", (20_000, 20_000)), "PNG"), False
    yield "text that unfolds", "png", png(4, 4, text_bomb), False
    yield "a profile that unfolds", "png", png(4, 4, colour_bomb), False
    yield "no pixels", "png", png(0, 0), False
    yield "pixels that are missing", "png", png(64, 64, rows=b"\0" * 50), False
    yield "a wrong check sum", "png", png(4, 4).replace(b"IDAT", b"IDAX"), False
    yield "ten thousand chunks", "png", png(4, 4, *[chunk(b"tEXt", b"k\0v")] * 10_000), True
    yield "an unknown colour type", "png", png(4, 4, colour=7), False
    yield "16 bits of grey", "png", encoded(grey16, "PNG"), True
    yield "16 bits of colour", "png", png(4, 4, depth=16, rows=bytes((6 * 4 + 1) * 4)), True
    yield "a bit of black", "png", encoded(Image.new("1", (8, 8)), "PNG"), True
    yield "a palette with holes", "png", encoded(flat.quantize(4), "PNG", transparency=0), True
    yield "animated", "png", encoded(frames[0], "PNG", **animated), False
    yield "animated", "webp", encoded(frames[0], "WEBP", **animated), False
    yield "animated", "gif", encoded(frames[0], "GIF", **animated), False
    yield "pages", "tiff", encoded(frames[0], "TIFF", **animated), False
    yield "turned by its camera", "jpg", encoded(flat, "JPEG", exif=turned), True
    yield "a damaged EXIF", "jpg", encoded(flat, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), True
    yield "CMYK", "jpg", encoded(flat.convert("CMYK"), "JPEG"), True
    yield "grey", "jpg", encoded(flat.convert("L"), "JPEG"), True
    yield "half a JPEG", "jpg", jpeg[: len(jpeg) // 2], False
    yield "half a WebP", "webp", webp[: len(webp) // 2], False
    yield "a JPEG of 4 gigapixels", "jpg", _resized_jpeg(jpeg), False
    yield "a web page", "png", b"<!DOCTYPE html><html><script>alert(1)</script></html>", False
    yield "a drawing with a script", "png", b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", False
    yield "a program", "png", b"\x7fELF" + bytes(100), False
    yield "PostScript", "eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(pwned) (w) file\n", False
    yield "PostScript as PNG", "png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", False
    yield "a document", "pdf", b"%PDF-1.4\n1 0 obj<</JavaScript>>", False
    yield "nothing", "png", b"", False
    yield "a signature alone", "png", b"\x89PNG\r\n\x1a\n", False
    yield (
        "a bitmap of a billion rows",
        "bmp",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 9, 2**30, 1, 24, *[0] * 6),
        False,
    )
    yield "a pixmap that lies", "ppm", b"P6 99999 99999 255\n" + bytes(10), False
    yield "a GIF of four gigapixels", "gif", b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(20), False
    yield "a picture with a zip behind", "png", png(4, 4) + b"PK\x03\x04" + bytes(50), True
    yield "floats", "tiff", encoded(Image.new("F", (8, 8)), "TIFF"), False
    yield "more than it says", "ico", encoded(Image.new("RGB", (16, 16)), "ICO"), True


def _resized_jpeg(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:start] + struct.pack(">HH", 65500, 65500) + jpeg[start + 4 :]
