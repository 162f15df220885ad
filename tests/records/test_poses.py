"""How one view is turned to give another."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evolvedirector.errors import UserError
from evolvedirector.pairs.drawn.changes import VIEWS, turned
from evolvedirector.pairs.drawn.drawn_views import VIEW_POSES
from evolvedirector.records.poses import Pose, check_turn, pose_of, turn_between

POSES = {"": Pose(), **VIEW_POSES}


def shown(picture: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Mirror, then roll: what a turn means."""
    return np.rot90(picture[:, ::-1] if pose[3] else picture, round(float(pose[2]) / 90))


@pytest.mark.parametrize("first", POSES)
@pytest.mark.parametrize("second", POSES)
def test_a_turn_makes_of_every_drawn_view_every_other_one(first: str, second: str) -> None:
    picture = np.random.default_rng(0).integers(256, size=(6, 6, 4), dtype=np.uint8)
    views = {"": picture, **{view: turned(picture, view) for view in VIEWS}}
    turn = turn_between(POSES[first], POSES[second])
    assert np.array_equal(shown(views[first], turn), views[second])


def test_camera_angles_are_differences_and_what_is_not_known_stays_so() -> None:
    turn = turn_between(Pose(azimuth_deg=350, elevation_deg=20), Pose(azimuth_deg=20, elevation_deg=-5))
    assert turn.tolist() == [30, -25, 0, 0]
    assert np.isnan(turn_between(None, Pose())).all() and np.isnan(turn_between(Pose(), None)).all()


def test_what_is_no_pose_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"The pose of 'left' is \[1, 2\]"):
        pose_of([1, 2], "'left'")
    with pytest.raises(UserError, match="all finite"):
        Pose(azimuth_deg=math.inf)
    for odd in (np.zeros(3), np.zeros((1, 4)), np.array([0, math.nan, 0, 0])):
        with pytest.raises(UserError, match="The pose is "):
            check_turn(odd)
    check_turn(np.full(4, math.nan))
