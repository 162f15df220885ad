"""Objects with several views from a folder of folders, as MVImgNet and pictures of a turntable come."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.pairs.folder_subjects import MASK_SUFFIX, pictures_below, read_picture, refuse_lone_masks
from evolvedirector.pairs.key_ground import centred
from evolvedirector.pairs.pictures import MASK_LEVEL, split_alpha
from evolvedirector.pairs.view_source import ViewedObject
from evolvedirector.records import digest
from evolvedirector.records.poses import Pose
from evolvedirector.store import StoreError
from evolvedirector.store.images import decode_grey, image_size
from evolvedirector.store.paths import user_path

POSES = "views.json"
_FIELDS = ("azimuth_deg", "elevation_deg", "roll_deg", "mirrored")
_MOST_POSES_BYTES = 2**24
_MOST_DEG = 1e6
_CHECKED = 1000
"""Objects whose sizes are compared before training; those of the others when they are read."""


class FolderViews:
    """Take each folder of pictures as an object: `chairs/red_one/01.jpg`, `02.jpg` ... are its views.

    An outline stands in `01.mask.png` beside `01.jpg`, or in alpha; without one the whole picture counts, and its
    middle square is read. Poses stand in `views.json` of the object's folder: `{"01.jpg": {"azimuth_deg": 30}}`, with
    `elevation_deg`, `roll_deg` and `mirrored` where they are not 0; a view that is not named there has none, and
    trains the network to draw some other view. What a text calls an object is the name of the folder above its own.
    """

    def __init__(self, folder: str) -> None:
        """Name the folder.

        Args:
            folder: With a folder for each object, at any depth; pictures are png, jpg or webp.
        """
        self.folder = folder

    @property
    def fingerprint(self) -> str:
        """Name the views by path, size and time of writing."""
        return self._fingerprint

    def verify(self) -> None:
        """See that every object has two views or more, of one size, with poses that can be read, and every mask a view.

        Raises:
            UserError: One has not.
        """
        for viewed in self.objects()[:_CHECKED]:
            self._sizes(viewed.name)
        views = [path for paths in self._paths.values() for path in paths]
        refuse_lone_masks(self._found, set(filter(None, map(_mask_beside, views))))

    def objects(self) -> Sequence[ViewedObject]:
        """List the objects by path; each is a group of its own.

        Raises:
            UserError: There is none, one has a single view, or its poses cannot be read.
        """
        return self._objects

    def view(self, viewed: ViewedObject, number: int, side_px: int) -> np.ndarray:
        """Return one view, uint8 RGBA [side, side, 4].

        Args:
            viewed: Of `objects`.
            number: Of the view, by the names of its files.
            side_px: Wanted.

        Raises:
            UserError: It cannot be read, its mask is empty, or sizes differ.
        """
        self._sizes(viewed.name)
        path = self._paths[viewed.name][number]
        try:
            pixels, mask = split_alpha(read_picture(path))
            beside = _mask_beside(path)
            if beside is not None:
                mask = decode_grey(read_picture(beside))[:, :, 0] >= MASK_LEVEL
        except (OSError, StoreError) as error:
            raise UserError(
                f"The view '{self._named(path)}' cannot be read ({error}). Allowed are png, jpg and webp pictures. "
                "Save it anew, or take it out."
            ) from error
        if mask is not None and mask.shape != pixels.shape[:2]:
            have, need = (f"{shape[1]}x{shape[0]}" for shape in (mask.shape, pixels.shape))
            raise UserError(
                f"The mask of '{self._named(path)}' has {have} px, its picture {need}. Both must have one size. Scale "
                "the mask."
            )
        if mask is not None and not mask.any():
            raise UserError(
                f"The mask of '{self._named(path)}' is empty: no pixel of it is {MASK_LEVEL} or more. White must mark "
                "the object. Give it a white part, or take the view out."
            )
        return centred(pixels, mask, side_px)

    @cached_property
    def _root(self) -> Path:
        return user_path(self.folder)

    @cached_property
    def _found(self) -> list[Path]:
        return pictures_below(self._root)

    @cached_property
    def _paths(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in self._found:
            if not path.stem.endswith(MASK_SUFFIX):
                found.setdefault(path.parent.relative_to(self._root).as_posix(), []).append(path)
        return found

    @cached_property
    def _objects(self) -> list[ViewedObject]:
        if not self._paths:
            raise UserError(
                f"The folder '{self.folder}' has no picture. Allowed is a folder with a folder for each object, in "
                "which its views lie as png, jpg or webp. Correct its path."
            )
        return [self._object(name, paths) for name, paths in self._paths.items()]

    @cached_property
    def _fingerprint(self) -> str:
        listed: list[str | int] = []
        for paths in self._paths.values():
            for path in paths:
                for file in filter(None, (path, _mask_beside(path))):
                    about = file.stat()
                    listed += [self._named(file), about.st_size, about.st_mtime_ns]
        poses = [repr(viewed.poses) for viewed in self._objects]
        return f"folder views 1 {digest(*listed, *poses)}"

    @cached_property
    def _checked(self) -> set[str]:
        return set()

    def _object(self, name: str, paths: Sequence[Path]) -> ViewedObject:
        if len(paths) < 2:
            raise UserError(
                f"The object '{name}' of '{self.folder}' has one view, '{paths[0].name}'. A view generator learns from "
                "two or more of each object. Give it another one, or take its folder out."
            )
        folder = paths[0].parent
        poses = _poses(folder / POSES, {path.name for path in paths})
        above = folder.parent if folder.parent != self._root and folder != self._root else folder
        return ViewedObject(
            name, " ".join(above.name.replace("_", " ").split()), name, tuple(poses.get(p.name) for p in paths)
        )

    def _sizes(self, name: str) -> None:
        """Refuse an object whose views have several sizes, from the heads of its files."""
        if name in self._checked:
            return
        sizes = {path: _size_of(path, self._named(path)) for path in self._paths[name]}
        first, *others = sizes
        for path in others:
            if sizes[path] != sizes[first]:
                have, need = (f"{width}x{height}" for width, height in (sizes[path], sizes[first]))
                raise UserError(
                    f"The views of '{name}' have different sizes: '{path.name}' has {have} px, '{first.name}' {need}. "
                    "Views of one object must have one size, so that they show it at one scale. Scale them, or take "
                    "one out."
                )
        self._checked.add(name)

    def _named(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _mask_beside(path: Path) -> Path | None:
    beside = path.with_name(f"{path.stem}{MASK_SUFFIX}.png")
    return beside if beside.is_file() else None


def _size_of(path: Path, name: str) -> tuple[int, int]:
    try:
        return image_size(read_picture(path))
    except (OSError, StoreError) as error:
        raise UserError(
            f"The view '{name}' cannot be read ({error}). Allowed are png, jpg and webp pictures. Save it anew, or take"
            " it out."
        ) from error


def _poses(path: Path, views: set[str]) -> dict[str, Pose]:
    """Read the poses of an object; none where there is no file.

    Raises:
        UserError: The file cannot be read, or names a view that is not there.
    """
    if not path.is_file():
        return {}
    example = 'Allowed is such as {"01.jpg": {"azimuth_deg": 30, "elevation_deg": 10}}. Correct it.'
    try:
        if path.stat().st_size > _MOST_POSES_BYTES:
            raise ValueError(f"it has over {_MOST_POSES_BYTES} bytes")
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is no JSON ({error}). {example}") from error
    if not isinstance(found, dict):
        raise UserError(f"'{path}' holds a {type(found).__name__}. {example}")
    for view, fields in found.items():
        if view not in views:
            raise UserError(
                f"'{path}' names the view '{view}', which is not there. Allowed are {', '.join(sorted(views)[:8])}. "
                "Take it out."
            )
        if not isinstance(fields, dict) or not set(fields) <= set(_FIELDS) or not all(map(_is_number, fields.values())):
            raise UserError(f"'{path}' says {fields!r} of the view '{view}'. {example}")
    return {view: _pose(fields) for view, fields in found.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not abs(value) > _MOST_DEG


def _pose(fields: Mapping[str, float]) -> Pose:
    azimuth, elevation, roll = (float(fields.get(name, 0.0)) for name in _FIELDS[:3])
    return Pose(azimuth, elevation, roll, bool(fields.get("mirrored", False)))
