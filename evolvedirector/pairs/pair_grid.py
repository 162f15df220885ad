"""A picture of pairs: reference, draft, refined, mask, result and source side by side, one pair a row."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evolvedirector.pairs.pair_book import PairRow
from evolvedirector.pairs.pair_records import DRAFT, IMAGE, MASK, REFERENCE, REFINED, SOURCE
from evolvedirector.pairs.pictures import pixels_of
from evolvedirector.records import FileRef
from evolvedirector.store import Blobs

COLUMNS = (REFERENCE, DRAFT, REFINED, MASK, IMAGE, SOURCE)
TITLES = {IMAGE: "result", SOURCE: "source (editing)"}
_GAP_PX, _LINE_PX = 6, 15


def pair_grid(rows: Sequence[PairRow], blobs: Blobs, tile_px: int = 128) -> bytes:
    """Draw pairs as a PNG: a row of pictures each, under it the prompt, the scores and why it was rejected.

    Args:
        rows: Pairs, in the order in which they are shown.
        blobs: Where their files lie.
        tile_px: Side of a picture.
    """
    step = tile_px + _GAP_PX
    row_px = tile_px + 3 * _LINE_PX + _GAP_PX
    width_px = _GAP_PX + step * len(COLUMNS)
    page = Image.new("RGB", (width_px, 2 * _LINE_PX + row_px * len(rows)), "white")
    pencil, font = ImageDraw.Draw(page), ImageFont.load_default(size=11)
    for number, role in enumerate(COLUMNS):
        pencil.text((_GAP_PX + number * step, 6), TITLES.get(role, role), fill="black", font=font)
    for place, row in enumerate(rows):
        top = 2 * _LINE_PX + place * row_px
        for number, role in enumerate(COLUMNS):
            if role in row.body["files"]:
                tile = _tile(FileRef(**row.body["files"][role]), blobs, tile_px)
                page.paste(tile, (_GAP_PX + number * step, top))
        for line, (text, colour) in enumerate(_lines(row)):
            fitting = _cut(text, width_px - 2 * _GAP_PX, font)
            pencil.text((_GAP_PX, top + tile_px + 2 + line * _LINE_PX), fitting, fill=colour, font=font)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def _tile(file: FileRef, blobs: Blobs, tile_px: int) -> Image.Image:
    pixels = pixels_of(replace(file, content=blobs.get(file.sha256)))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((tile_px, tile_px))
    return image.resize((tile_px, tile_px), Image.Resampling.NEAREST) if image.width < tile_px / 2 else image


def _lines(row: PairRow) -> list[tuple[str, str]]:
    body = row.body
    scores = ", ".join(f"{name} {value:.2f}" for name, value in body["scores"].items())
    fate = "kept" if row.status == "kept" else f"rejected for {row.cause}: {body['reason']}"
    subject = f"{body['subject']['name']} ({body['subject']['category']})"
    return [
        (f"{row.kind}, {row.use}: {body['prompt'] or subject}", "black"),
        (scores or subject, "#555555"),
        (fate, "#1b7f3b" if row.status == "kept" else "#b3261e"),
    ]


def _cut(text: str, width_px: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while text and font.getlength(text) > width_px:
        text = text[:-2]
    return text
