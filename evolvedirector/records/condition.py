"""What a network reads beside the noisy image: named tensors of three kinds, and the one place that batches them.

The only record that needs torch; nothing else among the records imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from evolvedirector.errors import UserError


class Size(NamedTuple):
    """Height and width of an image in pixels."""

    height_px: int
    width_px: int


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """One state per token, and which of them are real.

    Args:
        values: Float[batch, token, dimension].
        mask: Bool[batch, token]; false is padding. Never anything but bool: as numbers, a mask selects rows by index.

    Raises:
        UserError: If the shapes differ, or the mask is not bool.
    """

    values: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool or self.mask.shape != self.values.shape[:2]:
            raise UserError(
                f"The mask is {self.mask.dtype} of shape {tuple(self.mask.shape)}, the states have shape "
                f"{tuple(self.values.shape)}. It must be bool, one value per text and token. Write mask.bool(), "
                "one row per text."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """Name what a network reads beside the noisy image, one row per image.

    Args:
        tokens: States of texts or images, padded and masked.
        vectors: Float[batch, ...]: pooled states, sizes, guidance.
        spatial: Float[batch, channel, height, width]: a masked source, a mask, depth.

    Raises:
        UserError: If the fields have different numbers of rows.
    """

    tokens: Mapping[str, Tokens] = field(default_factory=dict)
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    spatial: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self._rows().values())) > 1:
            raise UserError(
                f"The fields of a condition have different numbers of rows: {self._rows()}. Each has one row per image."
                " Repeat the fields that all images share."
            )

    @property
    def count(self) -> int:
        """Number of images; 0 where there are no fields."""
        return next(iter(self._rows().values()), 0)

    @property
    def nbytes(self) -> int:
        """Memory of the values, masks left out."""
        tokens = sum(part.values.nbytes for part in self.tokens.values())
        return tokens + sum(part.nbytes for part in [*self.vectors.values(), *self.spatial.values()])

    def names(self) -> dict[str, list[str]]:
        """List the fields by kind."""
        return {"tokens": sorted(self.tokens), "vectors": sorted(self.vectors), "spatial": sorted(self.spatial)}

    def select(self, rows: slice | Sequence[int]) -> Condition:
        """Return some of the rows.

        Args:
            rows: Their numbers, in the order wanted; twice the same number is that row twice.
        """
        return self._map(lambda values: values[rows if isinstance(rows, slice) else list(rows)])

    def repeat(self, count: int) -> Condition:
        """Return the one row `count` times, without copying it.

        Raises:
            UserError: If there is not exactly one row.
        """
        if self.count != 1:
            raise UserError(
                f"A condition of {self.count} images cannot be repeated. Allowed is one of a single image. Select it "
                "first: condition.select([0])."
            )
        return self._map(lambda values: values.expand(count, *values.shape[1:]))

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Condition:
        """Move all fields.

        Args:
            device: Where they are wanted.
            dtype: Of floating-point fields; masks and numbers keep theirs. None keeps all.
        """

        def moved(values: Tensor) -> Tensor:
            return values.to(device, dtype if values.is_floating_point() else None, non_blocking=True)

        return self._map(moved)

    def _rows(self) -> dict[str, int]:
        tokens = {name: len(part.mask) for name, part in self.tokens.items()}
        return {**tokens, **{name: len(part) for name, part in [*self.vectors.items(), *self.spatial.items()]}}

    def _map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        return Condition(
            {name: Tokens(change(part.values), change(part.mask)) for name, part in self.tokens.items()},
            {name: change(part) for name, part in self.vectors.items()},
            {name: change(part) for name, part in self.spatial.items()},
        )


TextStates: TypeAlias = Condition
"""What encoders make of texts: per-token and per-image fields alone, without sizes, files or guidance."""


@dataclass(frozen=True, slots=True, eq=False)
class Extras:
    """What a condition is made of beside texts and sizes.

    Args:
        files: Decoded files by role, each one tensor [batch, ...] (images: uint8 [batch, channel, height, width]).
        guidance: For networks that read the guidance scale as a number; None for training and all others.
        original_size_px: Height and width of each image before it was scaled and cropped, int[batch, 2]; None where the
            image is as it was made, or nobody knows.
        crop_top_left_px: Rows and columns cut away above and left of it, after scaling, int[batch, 2]; None likewise.
    """

    files: Mapping[str, Tensor] = field(default_factory=dict)
    guidance: float | None = None
    original_size_px: Tensor | None = None
    crop_top_left_px: Tensor | None = None


def join(conditions: Sequence[Condition], lengths: Mapping[str, int] | None = None) -> Condition:
    """Put conditions one behind the other: a batch of single ones, or guided and unguided rows for one forward pass.

    Token fields are padded behind with zeros, which their mask leaves out.

    Args:
        conditions: At least one, all with the same fields.
        lengths: Tokens of a padded field, by name; a field without an entry gets the length of its longest part.

    Raises:
        UserError: If the fields differ, or a text is longer than its field.
    """
    first = conditions[0]
    for other in conditions[1:]:
        if other.names() != first.names():
            raise UserError(
                f"Two conditions of one batch have different fields: {first.names()} and {other.names()}. A network "
                "reads the same fields for all images. Give every image all of them."
            )
    return Condition(
        {name: _padded([part.tokens[name] for part in conditions], name, lengths or {}) for name in first.tokens},
        {name: torch.cat([part.vectors[name] for part in conditions]) for name in first.vectors},
        {name: torch.cat([part.spatial[name] for part in conditions]) for name in first.spatial},
    )


def _padded(parts: Sequence[Tokens], name: str, lengths: Mapping[str, int]) -> Tokens:
    longest = max(part.mask.shape[1] for part in parts)
    length = lengths.get(name, longest)
    if longest > length:
        raise UserError(
            f"The field {name!r} has {longest} tokens, but its length is {length}. Longer texts are cut where they are "
            f"encoded. Write a length of {longest} or more."
        )
    values = parts[0].values.new_zeros(sum(len(part.mask) for part in parts), length, parts[0].values.shape[2])
    mask = parts[0].mask.new_zeros(values.shape[:2])
    start = 0
    for part in parts:
        rows, tokens = part.mask.shape
        values[start : start + rows, :tokens] = part.values
        mask[start : start + rows, :tokens] = part.mask
        start += rows
    return Tokens(values, mask)
