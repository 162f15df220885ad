"""The colours of the miniature world, far enough apart that a blurred edge never looks like another colour."""

from __future__ import annotations

from types import MappingProxyType

COLOURS = MappingProxyType(
    {
        "red": (222, 34, 44),
        "green": (28, 152, 62),
        "blue": (36, 78, 216),
        "yellow": (240, 200, 24),
        "purple": (142, 46, 186),
        "orange": (246, 128, 20),
        "black": (28, 28, 30),
        "cyan": (24, 184, 204),
    }
)
"""Name to sRGB value, 0-255."""
