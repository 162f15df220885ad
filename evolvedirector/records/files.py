"""A named file of a sample, a request or a reply: its content's name, and the content where it travels along."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

IMAGE_ROLE = "image"
"""The role of the picture itself; every other role (a mask, a source, a reference) stands beside it."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """Name a file by its content.

    Args:
        sha256: Of the content, in hex; under this name it lies in the store.
        size_bytes: Length of the content.
        media_type: `image/png`, `application/x-npy`, ...
        width_px: Of an image; 0 for anything else.
        height_px: Likewise.
        content: The bytes, where the file crosses to a part or comes from one; None in a sample, whose bytes lie in
            the store. Two files are equal when their content has one name, whether it travels along or not.
    """

    sha256: str
    size_bytes: int
    media_type: str
    width_px: int = 0
    height_px: int = 0
    content: bytes | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, content: bytes, media_type: str, width_px: int = 0, height_px: int = 0) -> FileRef:
        """Name bytes, and take them along."""
        return cls(hashlib.sha256(content).hexdigest(), len(content), media_type, width_px, height_px, content)
