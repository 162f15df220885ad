"""A subject comes off its ground as it was laid on it."""

from __future__ import annotations

import numpy as np
import pytest

from evolvedirector.pairs import DrawnSubjects, DrawnViews
from evolvedirector.pairs.key_ground import GROUNDS, centred, key_ground, off_ground, on_ground
from evolvedirector.worlds.shapes.cut_outs import ShapeCutOuts

VIEWS = DrawnViews(DrawnSubjects(ShapeCutOuts()))


@pytest.mark.parametrize("number", range(0, 1344, 149))
def test_outline_and_colours_are_those_that_were_laid_down(number: int) -> None:
    cut = VIEWS.view(VIEWS.objects()[number], 1, 48)
    found = off_ground(on_ground(cut, key_ground(cut)), key_ground(cut))
    inside = cut[..., 3] == 255
    clear = np.abs(cut[..., 3].astype(int) - 128) > 64  # half a pixel of an edge may fall to either side
    assert ((found[..., 3] >= 128) == (cut[..., 3] >= 128))[clear].mean() > 0.985
    assert np.abs(found[inside][:, :3].astype(int) - cut[inside][:, :3]).mean() < 1
    again = on_ground(found, (120, 120, 120)).astype(int)
    assert np.abs(again - on_ground(cut, (120, 120, 120))).mean() < 2.5


def test_the_ground_is_of_a_colour_that_the_subject_lacks() -> None:
    for ground in GROUNDS[:2]:
        cut = np.zeros((8, 8, 4), np.uint8)
        cut[2:6, 2:6] = (*ground, 255)
        assert key_ground(cut) != ground
        assert off_ground(on_ground(cut, key_ground(cut)), key_ground(cut))[..., 3].sum() == 16 * 255


def test_a_hole_of_the_ground_is_no_part_of_the_subject() -> None:
    cut = np.zeros((12, 12, 4), np.uint8)
    cut[1:11, 1:11] = (200, 30, 30, 255)
    cut[4:8, 4:8] = 0
    found = off_ground(on_ground(cut, key_ground(cut)), key_ground(cut))
    assert found[5, 5, 3] == 0 and found[2, 2, 3] == 255


def test_a_subject_stands_in_the_middle_and_fills_four_fifths_whatever_its_picture() -> None:
    pixels = np.full((20, 40, 3), 7, np.uint8)
    mask = np.zeros((20, 40), bool)
    mask[1:5, 30:38] = True
    cut = centred(pixels, mask, 20)
    rows, columns = np.nonzero(cut[..., 3] >= 128)
    assert (columns.min(), columns.max()) == (2, 17) and (rows.min(), rows.max()) == (6, 13)


def test_a_picture_without_an_outline_is_opaque_and_cut_to_its_middle_square() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    cut = centred(pixels, None, 10)
    assert (cut[..., 3] == 255).all() and (cut[..., :3] == 200).all()
