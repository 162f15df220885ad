"""From where an object is seen, and how one view of it is turned to give another."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.records.files import FileRef

POSE = "pose"
"""Role of a pose: an npy array of 4 floats; four NaN: some other view, nobody knows which."""
POSE_VALUES = 4


@dataclass(frozen=True, slots=True)
class Pose:
    """Say from where an object is seen, against a view of it that all of its poses are told from.

    Azimuth and elevation are those of the camera (Zero-1-to-3, Liu et al. 2023, arXiv:2303.11328, section 3.2); roll
    and mirroring turn the picture in its own plane. It is mirrored first, then rolled.

    Args:
        azimuth_deg: Of the camera around the object.
        elevation_deg: Of the camera over it.
        roll_deg: Of the picture, anticlockwise.
        mirrored: Left and right are exchanged.
    """

    azimuth_deg: float = 0.0
    elevation_deg: float = 0.0
    roll_deg: float = 0.0
    mirrored: bool = False

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in astuple(self)):
            raise UserError(
                f"The pose is {astuple(self)}. It must be azimuth, elevation and roll in degrees, all finite, and 0 "
                "or 1. Write such as [30, 0, 0, 0]."
            )

    def values(self) -> np.ndarray:
        """Return azimuth, elevation, roll and 0 or 1, float32 [4]."""
        return np.array(astuple(self), np.float32)


def pose_of(values: Sequence[float], name: str) -> Pose:
    """Make a pose of what a user wrote.

    Args:
        values: Azimuth, elevation and roll in degrees, and whether it is mirrored.
        name: What the setting is called, for the sentence.

    Raises:
        UserError: It is no pose.
    """
    if len(values) != POSE_VALUES or any(isinstance(value, str) for value in values):
        raise UserError(
            f"The pose of {name} is {list(values)}. It must be azimuth, elevation and roll in degrees, and whether it "
            "is mirrored. Write such as [30, 0, 0, 0]."
        )
    azimuth, elevation, roll, mirrored = values
    return Pose(float(azimuth), float(elevation), float(roll), bool(mirrored))


def turn_between(first: Pose | None, second: Pose | None) -> np.ndarray:
    """Return how the first view is turned to give the second, float32 [4]; NaN where one of them is not known.

    In the plane a view is R(roll) M^mirrored, so the turn is R(b) M^n (R(a) M^m)^-1: R(b - a) where both are mirrored
    or neither is, else R(b + a) M, since M R(-a) = R(a) M.

    Args:
        first: Of the reference. None: not known.
        second: Of the view that is wanted. None: not known.
    """
    if first is None or second is None:
        return np.full(POSE_VALUES, np.nan, np.float32)
    differ = first.mirrored != second.mirrored
    roll = second.roll_deg + first.roll_deg if differ else second.roll_deg - first.roll_deg
    azimuth = second.azimuth_deg - first.azimuth_deg
    return Pose(azimuth % 360, second.elevation_deg - first.elevation_deg, roll % 360, differ).values()


def pose_file(values: np.ndarray) -> FileRef:
    """Encode a turn as an npy array.

    Args:
        values: float32 [4].
    """
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return FileRef.of(buffer.getvalue(), "application/x-npy")


def check_turn(values: np.ndarray) -> None:
    """Refuse a pose that is none; four NaN, one that is not known, may pass.

    Args:
        values: Of the role `pose`.

    Raises:
        UserError: It is none.
    """
    is_row = values.shape == (POSE_VALUES,) and values.dtype.kind in "fiu"
    if is_row and (np.isfinite(values).all() or np.isnan(values).all()):
        return
    raise UserError(
        f"The {POSE} is {values.tolist()}. It must be azimuth, elevation and roll in degrees and 0 or 1 for mirrored, "
        "or four NaN for one that is not known. Write such as [0, 0, 90, 0]."
    )
