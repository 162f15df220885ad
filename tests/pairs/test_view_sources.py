"""Objects with several views: drawn ones, and folders of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.pairs import DrawnSubjects, DrawnViews, FolderViews
from evolvedirector.pairs.drawn.changes import VIEWS, turned
from evolvedirector.records.poses import Pose
from evolvedirector.worlds.shapes.cut_outs import ShapeCutOuts


def save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def picture(shade: int, side: int = 12) -> np.ndarray:
    return np.full((side, side, 3), shade, np.uint8)


def mask(side: int = 12) -> np.ndarray:
    found = np.zeros((side, side), np.uint8)
    found[2:8, 2:8] = 255
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for view in ("01", "02", "03"):
        save(tmp_path / "dining_chairs/red" / f"{view}.png", picture(int(view) * 10))
        save(tmp_path / "dining_chairs/red" / f"{view}.mask.png", mask())
    save(tmp_path / "cups/1.png", np.dstack([picture(50), mask()]))
    save(tmp_path / "cups/2.jpg", picture(60))
    poses = {"01.png": {"azimuth_deg": 0}, "03.png": {"azimuth_deg": 90, "elevation_deg": 10, "mirrored": True}}
    (tmp_path / "dining_chairs/red/views.json").write_text(json.dumps(poses))
    return tmp_path


def test_drawn_views_are_the_turned_picture_to_the_pixel_and_name_their_pose() -> None:
    views = DrawnViews(DrawnSubjects(ShapeCutOuts(), ["flat", "bold"], tints=1))
    viewed = views.objects()[-1]
    assert len(views.objects()) == 336 * 4 and viewed.poses[0] == Pose() and len(viewed.poses) == 5
    upright = views.view(viewed, 0, 32)
    for number, view in enumerate(VIEWS, 1):
        assert np.array_equal(views.view(viewed, number, 32), turned(upright, view))
    assert {v.group for v in views.objects() if v.name.startswith(viewed.group)} == {viewed.group}


def test_other_subjects_of_a_world_are_another_source() -> None:
    names = {
        DrawnViews(DrawnSubjects(ShapeCutOuts(), **settings)).fingerprint
        for settings in ({}, {"looks": ["flat"]}, {"tints": 1}, {"split": "train"})  # type: ignore[arg-type]
    }
    assert len(names) == 4


def test_a_folder_of_folders_gives_objects_with_poses_and_outlines(folder: Path) -> None:
    views = FolderViews(str(folder))
    views.verify()
    cup, chair = views.objects()
    assert (chair.name, chair.category, chair.group) == ("dining_chairs/red", "dining chairs", "dining_chairs/red")
    assert chair.poses == (Pose(), None, Pose(90, 10, 0, True)) and cup.poses == (None, None)
    assert cup.category == "cups"
    cut = views.view(chair, 2, 10)
    assert cut.shape == (10, 10, 4) and (cut[..., 3] >= 128).sum() == 64 and cut[5, 5].tolist() == [30, 30, 30, 255]
    assert (views.view(cup, 0, 10)[..., 3] >= 128).sum() == 64  # alpha
    assert (views.view(cup, 1, 10)[..., 3] == 255).all()


def test_other_pictures_and_other_poses_are_another_source(folder: Path) -> None:
    first = FolderViews(str(folder)).fingerprint
    (folder / "dining_chairs/red/views.json").write_text("{}")
    second = FolderViews(str(folder)).fingerprint
    save(folder / "cups/2.jpg", picture(61))
    assert len({first, second, FolderViews(str(folder)).fingerprint}) == 3


def test_what_cannot_be_learned_from_is_one_sentence_each(folder: Path) -> None:
    def said(change: Any) -> str:
        change()
        views = FolderViews(str(folder))
        with pytest.raises(UserError) as error:
            views.verify()
            for viewed in views.objects():
                for number in range(len(viewed.poses)):
                    views.view(viewed, number, 8)
        return str(error.value)

    chair, cups = folder / "dining_chairs/red", folder / "cups"
    assert "The mask of 'cups/2.jpg' is empty" in said(lambda: save(cups / "2.mask.png", mask() * 0))
    assert "The mask of 'cups/2.jpg' has 5x5 px, its picture 12x12" in said(lambda: save(cups / "2.mask.png", mask(5)))
    assert "views of 'cups' have different sizes: '2.jpg' has 9x9" in said(lambda: save(cups / "2.jpg", picture(1, 9)))
    assert "The object 'cups' of" in said((cups / "2.jpg").unlink)
    save(cups / "2.jpg", picture(60))
    (cups / "2.mask.png").unlink()
    for text, reason in (
        ("[", "is no JSON"),
        ("[]", "holds a list"),
        ('{"09.png": {}}', "names the view '09.png', which is not there"),
        ('{"01.png": {"azimuth": 3}}', "says {'azimuth': 3} of the view '01.png'"),
        ('{"01.png": {"azimuth_deg": "3"}}', "says {'azimuth_deg': '3'}"),
        ('{"01.png": {"azimuth_deg": NaN}}', "all finite"),
        (f'{{"01.png": {{"azimuth_deg": 1{"0" * 400}}}}}', "of the view '01.png'"),
    ):
        assert reason in said(lambda text=text: (chair / "views.json").write_text(text))
    (chair / "views.json").unlink()
    assert "The mask '2.mask.jpg' belongs to no picture, or is no" in said(lambda: save(cups / "2.mask.jpg", mask()))
    (cups / "2.mask.jpg").unlink()
    assert "The view 'cups/1.png' cannot be read" in said(lambda: (cups / "1.png").write_bytes(b"no picture"))


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no picture\. Allowed is a folder with a folder for each object"):
        FolderViews(str(tmp_path)).verify()
