"""A family whose networks also read a subject: references, a place, a picture to edit, depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.codec import latent_shape
from evolvedirector.lightning_modules.families.family import Family, GuidesItself
from evolvedirector.lightning_modules.families.surroundings import surroundings
from evolvedirector.lightning_modules.families.wrapped_family import WrappedFamily
from evolvedirector.lightning_modules.subjects.feature_encoder import FeatureEncoder, check_dimension
from evolvedirector.lightning_modules.subjects.placement import box_of_mask, within
from evolvedirector.lightning_modules.subjects.reading import Reading, without
from evolvedirector.lightning_modules.subjects.resampler import Resampler
from evolvedirector.lightning_modules.subjects.subject_reader import (
    NAME,
    SubjectInputs,
    SubjectReader,
    check_takes_references,
    let_read,
)
from evolvedirector.records import digest
from evolvedirector.records.condition import Condition, Extras, Size, TextStates, Tokens
from evolvedirector.records.part import verify_parts
from evolvedirector.records.subject_roles import (
    DEPTH,
    MASK,
    REFERENCES,
    SOURCE,
    SUBJECT_BOX,
    SUBJECT_ROLES,
    check_edit,
    check_references,
    mask_of,
)

FEATURES, _AROUND = f"{NAME}.features", f"{NAME}.around"
COORDINATES, _NUMBERS, _BOX, STRENGTH = (f"{NAME}.{word}" for word in ("coordinates", "numbers", "box", "strength"))
_SHOWN = 0.1  # share of a patch that the subject must fill


class SubjectFamily(WrappedFamily):
    """Let the networks of another family read a subject (Toffee, Zhou et al. 2024, arXiv:2406.09305; our design).

    Patch features of one to four references pass through a resampler into attention layers beside those to the text
    (`ReferenceAttention`). Their tokens carry coordinates of the canvas: the subject's box in its reference is laid on
    the box where it is to stand, which is given (`subject_box`) or read from the words. Where there is no reference a
    trained null reference is read. One network draws new pictures and edits: an edit has the roles `mask` (white where
    it is drawn anew) and `source`, both of the image's size; without them all is drawn anew.

    Where the family reads mask and source itself (`StableDiffusion(inpainting=True)`, 9 channels), it goes on to do so.
    Else its first convolution gets further channels, which begin without effect.

    Args:
        family: Whose networks; they must have cross-attention (`PixArt`, `StableDiffusion`, `SDXL`).
        features: Encodes references; frozen.
        width: Of the tokens of references.
        grid: Tokens per side of the subject, whatever the number of references. None: one token per patch.
        layers: Of the resampler.
        heads: Of the resampler.
        gain: Of normalised queries and keys at the start; more makes attention more local.
        edits: Read mask and source.
        depth: Read the role `depth` where an image has one: brighter is nearer.
        cut_out: Refuse references without a mask of the subject (`reference_mask`).

    Raises:
        UserError: The family guides itself, or a number is out of range.
    """

    file_roles: Sequence[str] = SUBJECT_ROLES
    """Files that subjects are read from, where there are some."""

    def __init__(
        self,
        family: Family,
        features: FeatureEncoder,
        width: int = 256,
        grid: int | None = None,
        layers: int = 2,
        heads: int = 4,
        gain: float = 1.5,
        edits: bool = True,
        depth: bool = False,
        cut_out: bool = False,
    ) -> None:
        super().__init__(family)
        self.features = features
        self.width, self.grid, self.layers, self.heads = width, grid, layers, heads
        self.gain, self.edits, self.depth, self.cut_out = gain, edits, depth, cut_out
        if isinstance(family, GuidesItself):
            raise UserError(
                f"{type(family).__name__} guides itself, and takes no second guidance over a reference. Allowed are "
                "families of plain classifier-free guidance. Write family: PixArt, or StableDiffusion."
            )
        if min(width, heads, 1 if grid is None else grid) < 1 or layers < 0 or width % heads or not gain > 0:
            raise UserError(
                f"width is {width}, heads {heads}, grid {grid}, layers {layers} and gain {gain}. Allowed: a width that "
                "is a multiple of the heads, a grid from 1 or null, layers from 0, a gain above 0. Write width: 256, "
                "heads: 4, grid: null, layers: 2, gain: 1.5."
            )

    @property
    def fingerprint(self) -> str:
        """Name the family, the encoder of features and the numbers."""
        numbers = (self.width, self.grid or 0, self.layers, self.heads, self.edits, self.depth)
        return f"subject-{digest(self.family.fingerprint, self.features.fingerprint, *map(int, numbers))}"

    @property
    def token_values(self) -> int:
        """Values of a patch before the resampler."""
        return self.features.dimension

    def verify(self) -> None:
        """Check the weights of the family and of the encoder of features.

        Raises:
            ValueError: Some are not there.
        """
        verify_parts(self.family, self.features)

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Add subject, place and surroundings to what the family reads.

        Beside its roles, `extras.files` may hold `has_<role>`, bool[batch]: which rows really have the role. Values of
        the others are not read. A row of `subject_box` that is NaN is not known.

        Raises:
            UserError: Files do not fit each other or the images.
        """
        files = extras.files
        check_references(files)
        check_edit(files)
        count, device = len(sizes), next(iter(states.tokens.values())).values.device
        files = {role: file.to(device) for role, file in files.items()}
        native = set(self.family.roles) >= {MASK, SOURCE}
        edit = self._edit(sizes, files, device) if native or self.edits else {}
        own = self.family.condition(states, sizes, replace(extras, files=edit if native else {}))
        around = [] if native or not self.edits else list(surroundings(self.codec, sizes, edit).values())
        if self.depth:
            around.append(self._depth(sizes, files, device))
        tokens, vectors = self._references(count, files, device)
        box = files.get(SUBJECT_BOX, torch.full((count, 4), torch.nan, device=device)).float()
        return Condition(
            {**own.tokens, **tokens},
            {**own.vectors, **vectors, _BOX: box},
            {**own.spatial, **({_AROUND: torch.cat(around, dim=1)} if around else {})},
        )

    def build(self) -> nn.Module:
        """Make the family's network, and let it read subjects.

        Raises:
            UserError: It has no attention that could.
        """
        network = self.family.build()
        check_takes_references(network)
        resampler = Resampler(self.token_values, self.width, self.grid, self.layers, self.heads, len(REFERENCES))
        config: Any = network.config
        text_dimension = config.get("caption_channels") or config["cross_attention_dim"]
        reader = SubjectReader(resampler, self.width, text_dimension)
        let_read(network, reader, self.width, self.gain, self._further_channels())
        return network

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Run the network."""
        return self.predict_with_box(network, noisy, time, condition)[0]

    def predict_with_box(
        self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """Run the network; returns its prediction and where the words put the subject, Float[batch, 4].

        Args:
            network: Of `build`.
            noisy: Images or latents.
            time: On the scale 0...1000.
            condition: Of `condition`.
        """
        rest, vectors = without(condition, NAME), condition.vectors
        inputs = SubjectInputs(
            condition.tokens[FEATURES],
            vectors[COORDINATES],
            vectors[_NUMBERS],
            vectors[_BOX],
            next(iter(rest.tokens.values())),
            condition.spatial.get(_AROUND),
            vectors.get(STRENGTH),
        )
        prediction = self.family.predict(Reading(network, **{NAME: inputs}), noisy, time, rest)
        return prediction, inputs.boxes[0]

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        """Refuse: no stock pipeline reads references in this way.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "A network that reads subjects has no stock pipeline. Allowed is drawing with this package. Use "
            "SubjectToImage.generate, or `evolvedirector generate` with a checkpoint."
        )

    def without_reference(self, condition: Condition) -> Condition:
        """Return the same condition with the null reference in place of every reference.

        Args:
            condition: Of `condition`.
        """
        features = condition.tokens[FEATURES]
        null = {FEATURES: Tokens(features.values, torch.zeros_like(features.mask))}
        return Condition({**condition.tokens, **null}, condition.vectors, condition.spatial)

    def _further_channels(self) -> int:
        native = set(self.family.roles) >= {MASK, SOURCE}
        return (1 + self.codec.channels if self.edits and not native else 0) + 2 * self.depth

    def _edit(self, sizes: Sequence[Size], files: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Return mask and source of every row; all is drawn anew where a row has none."""
        shape = (len(sizes), 1, *sizes[0])
        if MASK not in files:
            white = torch.full(shape, 255, dtype=torch.uint8, device=device)
            return {MASK: white, SOURCE: white.new_zeros(len(sizes), 3, *sizes[0])}
        has = _has(files, MASK, len(sizes)) & _has(files, SOURCE, len(sizes))
        mask, source = files[MASK][:, :1], files[SOURCE]
        return {
            MASK: torch.where(has[:, None, None, None], mask, 255),
            SOURCE: torch.where(has[:, None, None, None], source, 0),
        }

    def _depth(self, sizes: Sequence[Size], files: Mapping[str, Tensor], device: torch.device) -> Tensor:
        """Return depth from -1 to 1 at the size of the latent, and where there is some."""
        side = latent_shape(self.codec, sizes[0])[1:]
        if DEPTH not in files:
            return torch.zeros(len(sizes), 2, *side, device=device)
        has = _has(files, DEPTH, len(sizes)).float()[:, None, None, None]
        depth = functional.interpolate(files[DEPTH][:, :1].float() / 127.5 - 1, side, mode="area")
        return torch.cat([depth * has, has.expand_as(depth)], dim=1)

    def _references(
        self, count: int, files: Mapping[str, Tensor], device: torch.device
    ) -> tuple[dict[str, Tokens], dict[str, Tensor]]:
        """Return features of all references with coordinates and numbers; one masked token where there are none."""
        values = [torch.zeros(count, 1, self.features.dimension, device=device)]
        masks = [torch.zeros(count, 1, dtype=torch.bool, device=device)]
        coordinates, numbers = [torch.zeros(count, 1, 2, device=device)], [0]
        for number, role in enumerate(REFERENCES):
            if role not in files:
                continue
            self.features.to(device)
            found = self.features.features(files[role])
            check_dimension(self.features, found.values)
            shown = self._shown(role, files, count)
            fills = functional.adaptive_avg_pool2d(shown.float()[:, None], (found.rows, found.columns)).flatten(1)
            seen = fills >= torch.minimum(fills.amax(1, keepdim=True), torch.full_like(fills, _SHOWN))
            values.append(found.values)
            masks.append(seen & (fills > 0) & _has(files, role, count)[:, None])
            coordinates.append(within(found.coordinates().expand(count, -1, -1), box_of_mask(shown)))
            numbers += [number] * found.values.shape[1]
        return (
            {FEATURES: Tokens(torch.cat(values, dim=1), torch.cat(masks, dim=1))},
            {
                COORDINATES: torch.cat(coordinates, dim=1),
                _NUMBERS: torch.tensor(numbers, device=device).expand(count, -1),
            },
        )

    def _shown(self, role: str, files: Mapping[str, Tensor], count: int) -> Tensor:
        """Return where a reference shows the subject, bool[batch, height, width]; all of it without a mask."""
        reference, mask = files[role], files.get(mask_of(role))
        if mask is None:
            if self.cut_out:
                raise UserError(
                    f"The {role} has no {mask_of(role)}, and cut_out is true: each reference needs a mask of its "
                    f"subject. Give the role {mask_of(role)}, or write cut_out: false."
                )
            return torch.ones(count, *reference.shape[-2:], dtype=torch.bool, device=reference.device)
        if mask.shape[-2:] != reference.shape[-2:]:
            raise UserError(
                f"The {mask_of(role)} has {tuple(mask.shape[-2:])} px, its {role} {tuple(reference.shape[-2:])} px "
                "(height x width). Both must have one size. Scale the mask to its picture."
            )
        return (mask[:, 0] >= 128) | ~_has(files, mask_of(role), count)[:, None, None]


def _has(files: Mapping[str, Tensor], role: str, count: int) -> Tensor:
    """Return which rows have a role, bool[batch]."""
    every = torch.ones(count, dtype=torch.bool, device=files[role].device) if role in files else None
    said = files.get(f"has_{role}", every)
    return torch.zeros(count, dtype=torch.bool) if said is None else said
