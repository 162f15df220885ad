"""What the server draws: textured pictures whose mean brightness is known, and bytes that no client should decode."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

from evolvedirector.records import seed_of


@cache
def picture(prompt: str, seed: int, width_px: int, height_px: int) -> bytes:
    """A checkerboard: no filter takes it for black or blurred. `tone 200` is 200 bright on average."""
    words = prompt.split()
    tone = int(words[1]) if words[:1] == ["tone"] and len(words) == 2 else seed_of(prompt, seed) % 200 + 28
    swing = min(tone, 255 - tone, 60)
    board = (np.indices((height_px, width_px)).sum(0) % 2) * 2 - 1
    return _png(np.repeat((tone + swing * board).astype(np.uint8)[..., None], 3, axis=2))


@cache
def black(width_px: int, height_px: int) -> bytes:
    return _png(np.zeros((height_px, width_px, 3), np.uint8))


@cache
def blurred(width_px: int, height_px: int) -> bytes:
    """A soft gradient from one grey to another: what is left of a picture behind a safety filter."""
    ramp = np.linspace(110, 140, width_px)[None, :, None] + np.linspace(0, 10, height_px)[:, None, None]
    return _png(np.repeat(ramp.astype(np.uint8), 3, axis=2))


@cache
def bomb_header(side_px: int = 50_000) -> bytes:
    """A PNG that promises 2.5 thousand million pixels in a few bytes."""
    return _chunks(side_px, zlib.compress(b"\0" * 1000))


@cache
def bomb_uniform(side_px: int = 12_000) -> bytes:
    """A whole PNG of 144 million black pixels in some hundred kilobytes."""
    rows = 100
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(rows * (side_px + 1))) + packer.flush(zlib.Z_FULL_FLUSH)  # stands for itself
    size = side_px * (side_px + 1)
    checksum = struct.pack(">HH", size % 65521, 1)  # Adler-32 of zeros
    return _chunks(side_px, b"\x78\x9c" + block * (side_px // rows) + b"\x03\x00" + checksum)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _chunks(side_px: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
