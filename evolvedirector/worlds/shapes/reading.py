"""What was seen in an image of the miniature world."""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN = "unknown"
"""The word for a shape or colour that is none of the world's."""


@dataclass(frozen=True, slots=True)
class SeenObject:
    """One object found in an image, with how well each word of the world fits it."""

    shape: str
    colour: str
    x: float
    """Centre from the left, in shortest image sides."""
    y: float
    """Centre from the top, in shortest image sides."""
    area: float
    """Covered share of the image."""
    shape_probability: dict[str, float]
    colour_probability: dict[str, float]

    def resembles(self, shape: str, colour: str) -> float:
        """Return the probability that this is a `shape` in `colour`."""
        return self.shape_probability.get(shape, 0.0) * self.colour_probability.get(colour, 0.0)


@dataclass(frozen=True, slots=True)
class SeenScene:
    """Everything found in one image."""

    objects: tuple[SeenObject, ...]
    sharpness: float
    """1: every pixel is background or full colour; towards 0: blur, noise and smear."""

    def count(self, shape: str, colour: str) -> int:
        """Count the objects that were read as this shape in this colour."""
        return sum(seen.shape == shape and seen.colour == colour for seen in self.objects)
