"""The files of a subject pair by role: references of the subject, what is edited, and where the subject stands."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from evolvedirector.errors import UserError

REFERENCES = ("reference", "reference_2", "reference_3", "reference_4")
"""Pictures of the subject; each may have a mask of the subject beside it, under its name and `_mask`."""
SOURCE, MASK, DEPTH = "source", "mask", "depth"
"""An edit's picture before it, white where it is drawn anew, and a depth map."""
SUBJECT_BOX = "subject_box"
"""Where the subject is to stand: left, top, right, bottom as shares of the canvas, an array of 4 floats."""
FEATURES = "features"
"""Patch features that a refiner draws from, an array [row, column, dimension]; no role of a subject pair."""
_REFERENCE = re.compile(r"reference(?:_\d+)?(?:_mask)?")


def mask_of(reference: str) -> str:
    """Return the role of a reference's mask."""
    return f"{reference}_mask"


SUBJECT_ROLES = (*REFERENCES, *map(mask_of, REFERENCES), SOURCE, MASK, DEPTH, SUBJECT_BOX)
"""All roles of a subject pair beside `image`."""


def check_references(roles: Iterable[str]) -> None:
    """Refuse a fifth reference.

    Args:
        roles: Of a sample, a batch or a request; others pass.

    Raises:
        UserError: There is one.
    """
    odd = [role for role in roles if _REFERENCE.fullmatch(role) and role not in SUBJECT_ROLES]
    if odd:
        raise UserError(
            f"The role {odd[0]!r} is no reference that is read. Allowed are up to {len(REFERENCES)} of one subject: "
            f"{', '.join(REFERENCES)}. Choose the {len(REFERENCES)} that show it best."
        )


def check_mask(mask: Any, role: str, picture_px: tuple[int, int], of: str) -> None:
    """Refuse a mask of another size than its picture, or one that shows nothing.

    Args:
        mask: Array of 0 to 255, [height, width] or [height, width, 1].
        role: Its name.
        picture_px: Height and width of the picture.
        of: The picture's name.

    Raises:
        UserError: One is so.
    """
    if tuple(mask.shape[:2]) != tuple(picture_px):
        raise UserError(
            f"The {role} has {mask.shape[1]} x {mask.shape[0]} px, its {of} {picture_px[1]} x {picture_px[0]} px "
            "(width x height). Both must have one size. Scale the mask to its picture."
        )
    if not (mask >= 128).any():
        raise UserError(
            f"The {role} is empty: no pixel of it is 128 or more. White must mark at least one pixel. Give a mask with "
            "a white part, or leave it out."
        )


def check_edit(roles: Iterable[str]) -> None:
    """Refuse half an edit: a mask without its source, or a source without its mask.

    Args:
        roles: Of a sample, a batch or a request.

    Raises:
        UserError: One is missing.
    """
    found = set(roles) & {SOURCE, MASK}
    if len(found) == 1:
        missing = ({SOURCE, MASK} - found).pop()
        raise UserError(
            f"There is a {found.pop()} without a {missing}. An edit needs both, a new picture neither. Give the "
            f"{missing}, too, or leave both out."
        )


def check_box(box: Sequence[float]) -> None:
    """Refuse a box that does not lie on the canvas; four NaN, a place that is not known, may pass.

    Args:
        box: Left, top, right, bottom as shares of the canvas.

    Raises:
        UserError: It does not.
    """
    is_row = isinstance(box, Sequence) and len(box) == 4 and not any(isinstance(side, Sequence) for side in box)
    if is_row and all(math.isnan(side) for side in box):
        return
    if not is_row or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise UserError(
            f"The {SUBJECT_BOX} is {box}. It must be left, top, right and bottom as shares of the canvas, 0 to 1,"
            " the first below the third, the second below the fourth. Write such as [0.1, 0.5, 0.4, 0.9]."
        )
