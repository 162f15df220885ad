"""The student that draws from patch features: what it learns from, and what it is handed when it draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from evolvedirector.lightning_modules.role_files import roles_of_requests
from evolvedirector.lightning_modules.sample_losses import images_of
from evolvedirector.lightning_modules.sampling import Drawing
from evolvedirector.lightning_modules.student import Sampling, Student
from evolvedirector.lightning_modules.subjects.feature_family import FeatureFamily
from evolvedirector.lightning_modules.subjects.two_guidances import drawing_of
from evolvedirector.records import ImageRequest, LossRequest, seed_of
from evolvedirector.records.condition import Extras, Size
from evolvedirector.records.subject_roles import FEATURES

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


@dataclass(frozen=True, slots=True)
class FeatureTraining:
    """How the features that a network learns from are made worse than those of the image itself.

    Args:
        feature_dropout: Share of the samples that lose all features, which guidance over them needs.
        patch_dropout: Share of the patches that are not known: the network learns to fill holes.
        patch_shift: Share of the patches that show the features of a neighbour: matched patches never fit exactly.
    """

    feature_dropout: float = 0.1
    patch_dropout: float = 0.05
    patch_shift: float = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class FeatureStudent(Student):
    """Learn to draw images from their own patch features, and draw from any.

    Args:
        training: How it learns.
        feature_guidance_scale: Of classifier-free guidance over the features; 1 is none.
    """

    training: FeatureTraining = field(default_factory=FeatureTraining)
    feature_guidance_scale: float = 1.0

    def features(self, images: Tensor) -> Float[Tensor, "batch row column dimension"]:
        """Return the patch features of pictures.

        Args:
            images: uint8 [batch, 3, height, width].
        """
        family = cast(FeatureFamily, self.family)
        family.features.to(self.device)
        with torch.no_grad():
            return family.encode(images.to(self.device)).to(self.device)

    def training_extras(self, batch: Mapping[str, Any]) -> Extras:
        """Return the features of the images of a batch, made worse as `training` says.

        Args:
            batch: With images, and `sample_seed`, from which every draw follows.
        """
        return Extras({FEATURES: worsened(self.features(batch["image"]), batch["sample_seed"], self.training)})

    def extras(
        self,
        chunk: Sequence[ImageRequest | LossRequest],
        guidance_scale: float | None = None,
        size_px: int | None = None,
    ) -> Extras:
        """Return the features that requests bring; samples whose loss is asked for have those of their image.

        Args:
            chunk: Requests, all with features or none.
            guidance_scale: For networks that read it.
            size_px: Side of the squares that pictures are cut to, as for training.
        """
        measured = [request for request in chunk if isinstance(request, LossRequest)]
        if measured and size_px is not None:
            return Extras({FEATURES: self.features(images_of(measured, size_px))}, guidance_scale)
        roles = (FEATURES,) if FEATURES in chunk[0].files else ()
        return Extras(roles_of_requests(chunk, roles, self.device), guidance_scale)

    def drawing(self, chunk: Sequence[ImageRequest], sampling: Sampling) -> Drawing:
        """Return what some images are drawn from: predictions with text and features, text alone, and neither.

        Args:
            chunk: Requests of one size, all with features or none.
            sampling: How.
        """
        size = Size(chunk[0].height_px, chunk[0].width_px)
        extras = self.extras(chunk)
        states = self.text_states.get([request.prompt for request in chunk], self.device, keep=False)
        both = self.condition(states, size, extras)
        empty = self.text_states.get([""], self.device).repeat(len(chunk))
        without_features = cast(FeatureFamily, self.family).without_features
        text, neither = without_features(both), without_features(self.condition(empty, size, extras))
        scale = self.feature_guidance_scale if FEATURES in extras.files else 0.0
        return drawing_of(self, chunk, sampling, (both, text, neither), scale)


def worsened(
    features: Float[Tensor, "batch row column dimension"],
    sample_seeds: Int64[Tensor, " batch"],
    training: FeatureTraining,
) -> Float[Tensor, "batch row column dimension"]:
    """Return features with some patches moved, some not known (NaN), and some samples without any.

    Each sample draws from a generator of its own seed.

    Args:
        features: Of the images.
        sample_seeds: One per sample.
        training: Shares of each.
    """
    rows, columns = features.shape[1:3]
    generator = torch.Generator()
    result = []
    for grid, seed in zip(features, sample_seeds.tolist(), strict=True):
        generator.manual_seed(seed_of("features", seed))
        lost = torch.rand(1, generator=generator) < training.feature_dropout
        missing = torch.rand(rows, columns, generator=generator) < training.patch_dropout
        moved = torch.rand(rows, columns, generator=generator) < training.patch_shift
        steps = torch.randint(-1, 2, (2, rows, columns), generator=generator) * moved
        row = (torch.arange(rows)[:, None] + steps[0]).clamp(0, rows - 1)
        column = (torch.arange(columns)[None] + steps[1]).clamp(0, columns - 1)
        shifted = grid[row.to(grid.device), column.to(grid.device)]
        result.append(shifted.masked_fill((missing | lost).to(grid.device)[..., None], torch.nan))
    return torch.stack(result)
