"""Files that a network reads beside text: decoded for training by the datamodule, for drawing here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.records import FileRef, ImageRequest, LossRequest
from evolvedirector.records.condition import Extras
from evolvedirector.store.files import decode_file, extension_of
from evolvedirector.store.images import fit_square

CUT = ("original_size_px", "crop_top_left_px")
"""What a batch may say of how its images were cut: rows and columns, int64[batch, 2]."""
_IMAGES = ("image/png", "image/jpeg", "image/webp")


def roles_of_batch(batch: Mapping[str, Any], roles: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """Take the files that a family reads from a training batch.

    Args:
        batch: Decoded, each role under its name.
        roles: Named by the family.
        device: Where they are wanted.

    Raises:
        UserError: The batch lacks one.
    """
    for role in roles:
        if not isinstance(batch.get(role), Tensor):
            raise UserError(
                f"The training batch has no tensor {role!r}, which the family reads; it has {sorted(batch)}. Every "
                f"sample needs that file. Name the role to the datamodule, and fill it before training."
            )
    return {role: batch[role].to(device, non_blocking=True) for role in roles}


def extras_of_batch(batch: Mapping[str, Any], roles: Sequence[str], device: torch.device) -> Extras:
    """Take what a family reads beside texts from a training batch: files, and how the images were cut.

    Args:
        batch: As the datamodule delivers it; `original_size_px` and `crop_top_left_px` may be left out.
        roles: Named by the family.
        device: Where they are wanted.

    Raises:
        UserError: The batch lacks a file.
    """
    cut = {name: batch[name].to(device, non_blocking=True) for name in CUT if name in batch}
    return Extras(roles_of_batch(batch, roles, device), **cut)


def roles_of_requests(
    requests: Sequence[ImageRequest | LossRequest],
    roles: Sequence[str],
    device: torch.device,
    side_px: int | None = None,
) -> dict[str, Tensor]:
    """Decode the files that come with requests; those of one role must have one shape.

    Args:
        requests: Drawn together.
        roles: Named by the family.
        device: Where they are wanted.
        side_px: Scale and crop images to squares of this side, as for training. None: as they are.

    Raises:
        UserError: A request lacks a file or its content, or the shapes differ.
    """
    found = {}
    for role in roles:
        parts = [_decoded(request, role, side_px) for request in requests]
        if len({part.shape for part in parts}) > 1:
            raise UserError(
                f"The files of the role {role!r} have the shapes {sorted({tuple(part.shape) for part in parts})}. "
                "Images that are drawn together need one. State width_px and height_px in each FileRef."
            )
        found[role] = torch.stack(parts).to(device, non_blocking=True)
    return found


def _decoded(request: ImageRequest | LossRequest, role: str, side_px: int | None) -> Tensor:
    return as_tensor(file_of(request, role), request.files[role].media_type, side_px)


def file_of(request: ImageRequest | LossRequest, role: str) -> np.ndarray:
    """Decode a file that comes with a request: a picture [height, width, channel], or any array.

    Args:
        request: With files.
        role: Of the one.

    Raises:
        UserError: There is none with its content, or it is no array.
    """
    file: FileRef | None = request.files.get(role)
    if file is None or file.content is None:
        raise UserError(
            f"Request {request.request_id!r} brings no content for the role {role!r}, which the family reads. Every "
            f"request needs it. Write files={{{role!r}: FileRef.of(content, media_type)}}."
        )
    value = decode_file(file.content, extension_of(file.media_type), role)
    if not isinstance(value, np.ndarray):
        raise UserError(
            f"The file of the role {role!r} is {file.media_type}, which is no tensor. Allowed are images and npy "
            "arrays. Give the family one of these."
        )
    return value


def as_tensor(value: np.ndarray, media_type: str, side_px: int | None) -> Tensor:
    """Return a decoded file as a family reads it, pictures with channels first.

    Args:
        value: Of `file_of`.
        media_type: Of the file.
        side_px: Scale and crop a picture to a square of this side. None: as it is.
    """
    if media_type not in _IMAGES:
        return torch.from_numpy(value.copy())
    fitted = value if side_px is None else fit_square(value, side_px)
    return torch.from_numpy(fitted.transpose(2, 0, 1).copy())
