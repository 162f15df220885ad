"""The shapes of the miniature world as cut-outs with exact alpha, each in several art sets; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from evolvedirector.records import seed_of
from evolvedirector.worlds.shapes.palette import COLOURS
from evolvedirector.worlds.shapes.shapes import PLURALS, outline

_SAMPLES = 4
"""Samples per pixel and axis."""


class ShapeCutOuts:
    """Draw concepts such as "red-blue star" (body and mark) in four art sets: flat, rimmed, bold and ringed."""

    @property
    def fingerprint(self) -> str:
        """Name the world."""
        return "shape cut-outs 1"

    @property
    def looks(self) -> tuple[str, ...]:
        """Name the art sets."""
        return ("flat", "rimmed", "bold", "ringed")

    def concepts(self) -> Sequence[str]:
        """List what can be drawn: every shape with every ordered pair of colours, 336 concepts."""
        pairs = [(body, mark) for body in COLOURS for mark in COLOURS if body != mark]
        named = [f"{body}-{mark} {shape}" for shape in PLURALS for body, mark in pairs]
        return sorted(named, key=lambda name: seed_of("shape cut-outs", name))

    def category(self, concept: str) -> str:
        """Return what a text calls it: the shape alone, so that subjects of one category differ."""
        return concept.rpartition(" ")[2]

    def cut_out(self, concept: str, look: str, size_px: int) -> Image.Image:
        """Draw a concept as a tight RGBA square.

        Args:
            concept: One of `concepts`.
            look: One of `looks`.
            size_px: Side.
        """
        colours, _, shape = concept.rpartition(" ")
        body, mark = (COLOURS[name] for name in colours.split("-"))
        side = size_px * _SAMPLES
        image = Image.new("RGBA", (side, side))
        pencil = ImageDraw.Draw(image)
        corners = outline(shape)
        half = float(np.abs(corners).max())
        scale = (side / 2 - 1) / half

        def points(share: float, down: float = 0.0) -> list[tuple[float, float]]:
            return [(side / 2 + x * scale * share, side / 2 + (y * share + down) * scale) for x, y in corners]

        rim = (40, 36, 48) if look in ("rimmed", "bold") else body
        pencil.polygon(points(1.0), fill=(*rim, 255))
        pencil.polygon(points({"rimmed": 0.88, "bold": 0.74}.get(look, 1.0)), fill=(*body, 255))
        if look == "ringed":
            pencil.polygon(points(0.8), fill=(250, 250, 250, 255))
            pencil.polygon(points(0.66), fill=(*body, 255))
        pencil.polygon(points(0.34, down=0.12), fill=(*mark, 255))
        return image.reduce(_SAMPLES)
