"""Subjects from a folder of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.pairs.pair_records import (
    REFERENCE,
    REFERENCE_MASK,
    PairReply,
    PairRequest,
    Subject,
    failed,
    refused,
)
from evolvedirector.pairs.pictures import mask_file, picture_file, split_alpha
from evolvedirector.records import digest
from evolvedirector.store import StoreError
from evolvedirector.store.images import MAX_IMAGE_BYTES, decode_grey
from evolvedirector.store.paths import user_path

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MASK_SUFFIX = ".mask"
"""Before `.png`: `rex.mask.png` is the outline of `rex.jpg`."""
MAX_CATEGORY_CHARACTERS = 200


class FolderSubjects:
    """Take each picture of a folder as a subject: `dogs/rex.png`, with its outline in `dogs/rex.mask.png` or in alpha.

    What a text calls it stands in `dogs/rex.txt`; without one it is the name of the folder. Pictures of one folder are
    a group. Where neither mask nor alpha is there, the builder asks its mask stage.
    """

    def __init__(self, folder: str) -> None:
        """Name the folder.

        Args:
            folder: With pictures (png, jpg, webp), also in folders below it.
        """
        self.folder = folder

    @property
    def fingerprint(self) -> str:
        """Name the pictures by path, size and time of writing: others are other subjects."""
        listed: list[str | int] = []
        for path in self._paths.values():
            for file in (path, *self._beside(path)):
                about = file.stat()
                listed += [file.relative_to(self._root).as_posix(), about.st_size, about.st_mtime_ns]
        return f"folder subjects 1 {digest(*listed)}"

    def verify(self) -> None:
        """See that the folder has pictures, and that every mask belongs to one.

        Raises:
            UserError: It has none, or a mask would not be read.
        """
        if not self._paths:
            raise UserError(
                f"The folder '{self.folder}' has no picture. Allowed are png, jpg and webp files, also in folders below"
                " it. Correct its path."
            )
        refuse_lone_masks(self._found, {file for path in self._paths.values() for file in self._beside(path)})

    def subjects(self) -> Sequence[Subject]:
        """List the pictures by path."""
        return [Subject(name, self._category(path), path.parent.name) for name, path in self._paths.items()]

    def load(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield each picture, scaled down to the size of the pairs where it is larger, with its mask where it has one.

        A picture that is damaged, or whose mask has another size, is a refusal. One that the disk does not give is a
        failure: it is asked for again.
        """
        for request in requests:
            path = self._paths[request.subject.name]
            try:
                yield self._loaded(request, path)
            except StoreError as error:
                yield refused(request, f"The picture of '{request.subject.name}' cannot be read: {error}")
            except OSError as error:
                yield failed(request, f"The picture of '{request.subject.name}' cannot be read now: {error}")

    def _loaded(self, request: PairRequest, path: Path) -> PairReply:
        pixels, mask = split_alpha(read_picture(path))
        for beside in self._beside(path):
            if beside.suffix != ".txt":
                mask = decode_grey(read_picture(beside))[:, :, 0] >= 128
        if mask is not None and mask.shape != pixels.shape[:2]:
            have, need = (f"{shape[1]}x{shape[0]}" for shape in (mask.shape, pixels.shape))
            name = request.subject.name
            return refused(request, f"The mask of '{name}' has {have} px, its picture {need}: both must have one size.")
        size = _fitting(pixels.shape[1], pixels.shape[0], request.width_px, request.height_px)
        files = {REFERENCE: picture_file(np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)))}
        if mask is not None:
            scaled = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).resize(size, Image.Resampling.BOX)
            files[REFERENCE_MASK] = mask_file(np.asarray(scaled) >= 128)
        return PairReply(request.request_id, files=files)

    @cached_property
    def _root(self) -> Path:
        return user_path(self.folder)

    @cached_property
    def _found(self) -> list[Path]:
        return pictures_below(self._root)

    @cached_property
    def _paths(self) -> dict[str, Path]:
        pictures = [path for path in self._found if not path.stem.endswith(MASK_SUFFIX)]
        return {path.relative_to(self._root).as_posix(): path for path in pictures}

    def _beside(self, path: Path) -> list[Path]:
        named = (path.with_name(f"{path.stem}{MASK_SUFFIX}.png"), path.with_suffix(".txt"))
        return [file for file in named if file.is_file()]

    def _category(self, path: Path) -> str:
        text = path.with_suffix(".txt")
        if text.is_file():
            written = read_picture(text).decode("utf-8", "replace").strip()[:MAX_CATEGORY_CHARACTERS]
            if written:
                return " ".join(written.split())
        return path.parent.name.replace("_", " ")


def pictures_below(root: Path) -> list[Path]:
    """List the pictures and masks of a folder and of those below it, by path.

    Args:
        root: The folder.
    """
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())


def refuse_lone_masks(found: Sequence[Path], read: Set[Path]) -> None:
    """Refuse masks that would not be read: the whole picture would count in silence.

    Args:
        found: Pictures and masks.
        read: Masks that belong to a picture.

    Raises:
        UserError: There is one.
    """
    if unread := [path for path in found if path.stem.endswith(MASK_SUFFIX) and path not in read]:
        raise UserError(
            f"The mask '{unread[0].name}' belongs to no picture, or is no png. Allowed for a picture 'rex.jpg' is"
            " 'rex.mask.png' beside it. Rename it, or save it as png."
        )


def read_picture(path: Path) -> bytes:
    """Read a file that is not larger than a picture may be.

    Args:
        path: Of the file.

    Raises:
        StoreError: It is larger.
    """
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise StoreError(f"'{path.name}' has over {MAX_IMAGE_BYTES} bytes")
    return path.read_bytes()


def _fitting(width_px: int, height_px: int, most_width_px: int, most_height_px: int) -> tuple[int, int]:
    scale = min(1.0, most_width_px / width_px, most_height_px / height_px)
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))
