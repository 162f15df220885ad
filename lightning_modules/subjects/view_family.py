"""A family whose networks read one view of an object, and how it is to be turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.families.family import Family
from evolvedirector.lightning_modules.subjects.feature_encoder import FeatureEncoder
from evolvedirector.lightning_modules.subjects.subject_family import COORDINATES, FEATURES, SubjectFamily
from evolvedirector.records import digest
from evolvedirector.records.condition import Condition, Extras, Size, TextStates, Tokens
from evolvedirector.records.poses import POSE, POSE_VALUES
from evolvedirector.records.subject_roles import REFERENCES, SUBJECT_BOX

if TYPE_CHECKING:
    from jaxtyping import Float

POSE_WAVES = 15
"""Numbers that a pose is read as."""


class ViewFamily(SubjectFamily):
    """Let the networks of another family draw an object from elsewhere (Toffee, arXiv:2406.09305; our design).

    The paper says no more of its View Generator than that it is trained on several views of objects. Here the pose is
    a vector, the turn from the reference to the view that is wanted, as in Zero-1-to-3 (Liu et al. 2023,
    arXiv:2303.11328, section 3.2). It is read twice. What turns the picture in its own plane is plain geometry: the
    coordinates of the reference's tokens are turned by it, so that attention begins at the part that is to stand there.
    And the features of each patch are multiplied by every number of the pose (`pose_waves`), so that a layer that is
    linear in them can learn what a patch looks like after a turn; further layers learn what another side looks like.

    Args:
        family: As for `SubjectFamily`.
        features: Likewise.
        width: Likewise.
        grid: Likewise.
        layers: Likewise.
        heads: Likewise.
        gain: Likewise.

    Raises:
        UserError: The family guides itself, or a number is out of range.
    """

    file_roles: Sequence[str] = (REFERENCES[0], POSE)

    def __init__(
        self,
        family: Family,
        features: FeatureEncoder,
        width: int = 256,
        grid: int | None = None,
        layers: int = 2,
        heads: int = 4,
        gain: float = 1.5,
    ) -> None:
        super().__init__(family, features, width, grid, layers, heads, gain, edits=False)

    @property
    def fingerprint(self) -> str:
        """Name the family, the encoder of features and the numbers."""
        return f"view-{digest(super().fingerprint)}"

    @property
    def token_values(self) -> int:
        """Values of a patch before the resampler: its features times each number of the pose."""
        return self.features.dimension * POSE_WAVES

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Add the reference, turned, to what the family reads; the object stands where its reference shows it.

        A pose of NaN is not known: some other view is drawn.

        Raises:
            UserError: A reference comes without a pose.
        """
        count, device = len(sizes), next(iter(states.tokens.values())).values.device
        if REFERENCES[0] in extras.files and POSE not in extras.files:
            raise UserError(
                f"There is a {REFERENCES[0]} without a {POSE}. A view needs both. Give the {POSE}: azimuth, elevation "
                "and roll in degrees and 0 or 1 for mirrored, or four NaN for some other view."
            )
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device).expand(count, -1)
        files = {name: file for name, file in extras.files.items() if name != POSE}
        found = super().condition(states, sizes, replace(extras, files={**files, SUBJECT_BOX: whole}))
        unknown = torch.full((count, POSE_VALUES), torch.nan)
        pose = extras.files.get(POSE, unknown).to(device).float()
        features = found.tokens[FEATURES]
        by_wave = features.values[:, :, None] * pose_waves(pose)[:, None, :, None]  # [batch, token, wave, feature]
        return Condition(
            {**found.tokens, FEATURES: Tokens(by_wave.flatten(2), features.mask)},
            {**found.vectors, COORDINATES: turned_in_plane(found.vectors[COORDINATES], pose)},
            found.spatial,
        )


def pose_waves(pose: Float[Tensor, "batch 4"]) -> Float[Tensor, "batch 15"]:
    """Return numbers in which the turns of a picture are linear, and those of the camera.

    (1, cos r, sin r, cos 2r, sin 2r) (1, m) with the roll r and m = -1 or 1 for mirrored: every function of the eight
    turns by right angles is a sum of these. Then sine and cosine of azimuth and of elevation, and at last 0. Where the
    pose is not known all are 0, but the last, which is 1.

    Args:
        pose: See `turn_between`.
    """
    unknown = pose.isnan().any(1, keepdim=True)
    azimuth, elevation, roll = torch.deg2rad(pose[:, :3].nan_to_num()).unbind(1)
    plane = torch.stack([roll * 0 + 1, roll.cos(), roll.sin(), (2 * roll).cos(), (2 * roll).sin()], dim=1)
    mirrored = 2 * pose[:, 3:].nan_to_num() - 1
    camera = torch.stack([azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos()], dim=1)
    return torch.cat([torch.cat([plane, plane * mirrored, camera], dim=1) * ~unknown, unknown.float()], dim=1)


def turned_in_plane(
    coordinates: Float[Tensor, "batch token 2"], pose: Float[Tensor, "batch 4"]
) -> Float[Tensor, "batch token 2"]:
    """Return where parts of a picture stand once it is mirrored and rolled about its middle; anticlockwise, y is down.

    Args:
        coordinates: x and y as shares of the picture.
        pose: See `turn_between`; where it is not known nothing moves.
    """
    roll, mirrored = torch.deg2rad(pose[:, 2].nan_to_num()), pose[:, 3].nan_to_num()
    x, y = (coordinates - 0.5).unbind(-1)
    x = x * (1 - 2 * mirrored)[:, None]
    cosine, sine = roll.cos()[:, None], roll.sin()[:, None]
    return torch.stack([x * cosine + y * sine, y * cosine - x * sine], dim=-1) + 0.5
