"""Files that a network reads beside text: decoded for training by the datamodule, for drawing here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.records import FileRef, ImageRequest
from evolvedirector.store.files import decode_file, extension_of

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


def roles_of_requests(
    requests: Sequence[ImageRequest], roles: Sequence[str], device: torch.device
) -> dict[str, Tensor]:
    """Decode the files that come with requests; those of one role must have one shape.

    Args:
        requests: Drawn together.
        roles: Named by the family.
        device: Where they are wanted.

    Raises:
        UserError: A request lacks a file or its content, or the shapes differ.
    """
    found = {}
    for role in roles:
        parts = [_decoded(request, role) for request in requests]
        if len({part.shape for part in parts}) > 1:
            raise UserError(
                f"The files of the role {role!r} have the shapes {sorted({tuple(part.shape) for part in parts})}. "
                "Images that are drawn together need one. State width_px and height_px in each FileRef."
            )
        found[role] = torch.stack(parts).to(device, non_blocking=True)
    return found


def _decoded(request: ImageRequest, role: str) -> Tensor:
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
    return torch.from_numpy(value.copy() if file.media_type not in _IMAGES else value.transpose(2, 0, 1).copy())
