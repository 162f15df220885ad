"""A named file of a sample, a request or a reply: its content's name, and the content where it travels along."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

IMAGE_ROLE = "image"
"""The role of the picture itself; every other role (a mask, a source, a reference) stands beside it."""


MAX_ROLE_CHARACTERS = 28
_ROLE = re.compile(rf"[a-z][a-z0-9_]{{0,{MAX_ROLE_CHARACTERS - 1}}}")
_TAKEN = frozenset({IMAGE_ROLE, "prompt", "key", "skill", "sample_seed"})
"""Names that a training batch gives to something else; `image` is never among the further roles."""


def check_role(role: str) -> None:
    """Refuse the name of a further role that could not be a part of a file name and a name in a training batch.

    Raises:
        ValueError: With what is allowed.
    """
    if not _ROLE.fullmatch(role) or role in _TAKEN:
        raise ValueError(
            f"The role {role!r} cannot be used. Allowed are 1 to {MAX_ROLE_CHARACTERS} of a-z, 0-9 and '_', beginning"
            f" with a letter, but not {', '.join(sorted(_TAKEN))}. Write one such as 'mask' or 'reference_2'."
        )


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
