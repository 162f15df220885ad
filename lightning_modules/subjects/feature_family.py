"""A family whose networks also read a grid of patch features: what a picture shows, patch by patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.families.family import Family, GuidesItself
from evolvedirector.lightning_modules.families.wrapped_family import WrappedFamily
from evolvedirector.lightning_modules.subjects.feature_encoder import FeatureEncoder, check_dimension
from evolvedirector.lightning_modules.subjects.feature_reader import NAME, let_read_features
from evolvedirector.lightning_modules.subjects.reading import Reading, without
from evolvedirector.records import digest
from evolvedirector.records.condition import Condition, Extras, Size, TextStates
from evolvedirector.records.part import verify_parts
from evolvedirector.records.subject_roles import FEATURES

_GRID, _KNOWN = f"{NAME}.grid", f"{NAME}.known"


class FeatureFamily(WrappedFamily):
    """Let the networks of another family draw from patch features (Toffee's Refiner, arXiv:2406.09305; our reading).

    The grid of features is projected, scaled to the side of the latent and laid beside the noisy input: further
    channels of the network's first convolution, which begin at zero, so that pretrained weights draw as before until
    they are trained. Requests may bring the role `features`, an npy array [row, column, dimension]: patches that are
    NaN are not known, and without the role none is.

    Args:
        family: Whose networks; they must begin with a convolution (`PixArt`, `StableDiffusion`, `SDXL`, `SD3`, `Sana`).
        features: Encodes pictures; frozen.
        width: Channels that the features of a patch become.

    Raises:
        UserError: The family guides itself or reads files of its own, or a number is out of range.
    """

    def __init__(self, family: Family, features: FeatureEncoder, width: int = 64) -> None:
        super().__init__(family)
        self.features, self.width = features, width
        if isinstance(family, GuidesItself) or family.roles:
            raise UserError(
                f"{type(family).__name__} {'reads ' + ', '.join(family.roles) if family.roles else 'guides itself'}, "
                "and a network that draws from features reads them alone. Allowed are plain text-to-image families. "
                "Write family: PixArt, or StableDiffusion without inpainting."
            )
        if width < 1:
            raise UserError(f"width is {width}. Allowed are 1 or more channels. Write width: 64.")

    @property
    def fingerprint(self) -> str:
        """Name the family, the encoder of features and the width."""
        return f"features-{digest(self.family.fingerprint, self.features.fingerprint, self.width)}"

    def verify(self) -> None:
        """Check the weights of the family and of the encoder of features.

        Raises:
            ValueError: Some are not there.
        """
        verify_parts(self.family, self.features)

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Add the grid of features to what the family reads.

        Raises:
            UserError: Features have another dimension, or are no grid.
        """
        own = self.family.condition(states, sizes, replace(extras, files={}))
        device = next(iter(states.tokens.values())).values.device
        grid, known = self._grid(extras.files, len(sizes), device)
        return Condition(own.tokens, own.vectors, {**own.spatial, _GRID: grid, _KNOWN: known})

    def build(self) -> nn.Module:
        """Make the family's network, and let it read features.

        Raises:
            UserError: It begins with no convolution.
        """
        network = self.family.build()
        let_read_features(network, self.features.dimension, self.width)
        return network

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Run the network."""
        inputs = (condition.spatial[_GRID], condition.spatial[_KNOWN])
        return self.family.predict(Reading(network, **{NAME: inputs}), noisy, time, without(condition, NAME))

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        """Refuse: no stock pipeline reads features in this way.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "A network that draws from patch features has no stock pipeline. Allowed is drawing with this package. Use "
            "FeatureRefiner.generate, or `evolvedirector.pairs.TrainedRefiner` with the exported folder."
        )

    def encode(self, images: Tensor) -> Tensor:
        """Return the features of pictures as grids, Float[batch, row, column, dimension].

        Args:
            images: uint8 [batch, 3, height, width].

        Raises:
            UserError: The encoder gives others than it says.
        """
        found = self.features.features(images)
        check_dimension(self.features, found.values)
        return found.values.unflatten(1, (found.rows, found.columns))

    @staticmethod
    def without_features(condition: Condition) -> Condition:
        """Return the same condition with no patch known.

        Args:
            condition: Of `condition`.
        """
        none = {_KNOWN: torch.zeros_like(condition.spatial[_KNOWN])}
        return Condition(condition.tokens, condition.vectors, {**condition.spatial, **none})

    def _grid(self, files: Mapping[str, Tensor], count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return features with channels first, and where they are known."""
        found = files.get(FEATURES)
        if found is None:
            return torch.zeros(count, self.features.dimension, 1, 1, device=device), torch.zeros(
                count, 1, 1, 1, device=device
            )
        if found.ndim != 4 or found.shape[-1] != self.features.dimension or not found.is_floating_point():
            raise UserError(
                f"The {FEATURES} are {found.dtype} of shape {tuple(found.shape[1:])}. Allowed are floats of shape "
                f"(row, column, {self.features.dimension}), as {type(self.features).__name__} gives them. Encode the "
                "picture with the encoder that the model was trained with."
            )
        grid = found.to(device).float().movedim(-1, 1)
        known = ~grid.isnan().any(1, keepdim=True)
        return torch.where(known, grid, 0.0), known.float()
