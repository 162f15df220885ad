"""Files of a subject pair as tensors: of a training batch, or of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.role_files import as_tensor, file_of
from evolvedirector.records import ImageRequest, LossRequest
from evolvedirector.records.poses import POSE, check_turn
from evolvedirector.records.subject_roles import (
    MASK,
    REFERENCES,
    SUBJECT_BOX,
    check_box,
    check_edit,
    check_mask,
    check_references,
    mask_of,
)


def files_of_batch(batch: Mapping[str, Any], roles: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """Take the files of a training batch that subjects are read from, with `has_<role>` where it says so.

    Args:
        batch: Each role under its name; all but `image` may be left out.
        roles: That are read.
        device: Where they are wanted.

    Raises:
        UserError: There are more references than are read, or half an edit.
    """
    check_references(batch)
    check_edit(batch)
    found = [role for role in roles if role in batch]
    said = [f"has_{role}" for role in found if f"has_{role}" in batch]
    return {name: batch[name].to(device, non_blocking=True) for name in (*found, *said)}


def files_of_requests(
    requests: Sequence[ImageRequest | LossRequest],
    roles: Sequence[str],
    device: torch.device,
    reference_px: int,
    side_px: int | None,
) -> dict[str, Tensor]:
    """Decode the files that come with requests; where only some bring a role, `has_<role>` says which.

    Args:
        requests: Drawn or measured together.
        roles: That are read.
        device: Where they are wanted.
        reference_px: Side of the squares that references and their masks are cut to, as in training.
        side_px: Likewise of the other pictures. None: they stay as they are.

    Raises:
        UserError: A file is missing, does not fit another, or shows nothing where it must show something.
    """
    for request in requests:
        check_references(request.files)
        check_edit(request.files)
    found = {}
    for role in roles:
        having = [role in request.files for request in requests]
        if not any(having):
            continue
        is_reference = role in REFERENCES or role in map(mask_of, REFERENCES)
        side = reference_px if is_reference else side_px
        read = [_checked(request, role, side) if role in request.files else None for request in requests]
        like = next(part for part in read if part is not None)
        nothing = torch.full_like(like, torch.nan if like.is_floating_point() else 0)
        parts = [nothing if part is None else part for part in read]
        if len({part.shape for part in parts}) > 1:
            raise UserError(
                f"The files of the role {role!r} have the shapes {sorted({tuple(part.shape) for part in parts})}. "
                "Images that are drawn together need one. State width_px and height_px in each FileRef."
            )
        found[role] = torch.stack(parts).to(device, non_blocking=True)
        if not all(having):
            found[f"has_{role}"] = torch.tensor(having, device=device)
    return found


def _checked(request: ImageRequest | LossRequest, role: str, side_px: int | None) -> Tensor:
    value = file_of(request, role)
    for reference in REFERENCES:
        if role == mask_of(reference):
            check_mask(value, role, file_of(request, reference).shape[:2], reference)
    if role == MASK and isinstance(request, ImageRequest):
        check_mask(value, role, (request.height_px, request.width_px), "image")
    if role == POSE:
        check_turn(value)
    if role == SUBJECT_BOX:
        check_box(value.tolist())
    if role in (POSE, SUBJECT_BOX):
        return torch.from_numpy(value.copy()).float()
    return as_tensor(value, request.files[role].media_type, side_px)
