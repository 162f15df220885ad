"""Write a LoRA under the names of another program, where several layers of the network may lie fused in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.families.family import KeyMap

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What a LoRA adds to one linear layer: (alpha / rank) up down (Hu et al. 2021, arXiv:2106.09685).

    Args:
        down: Float[rank, inputs], peft's `lora_A`.
        up: Float[outputs, rank], peft's `lora_B`.
        alpha: See above.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Number of directions."""
        return len(self.down)

    @property
    def scale(self) -> float:
        """Factor of the product."""
        return self.alpha / self.rank

    def at_scale(self, scale: float) -> LowRank:
        """Return the same change under another factor."""
        return replace(self, up=self.up * (self.scale / scale), alpha=scale * self.rank)


@runtime_checkable
class FusesLayers(Protocol):
    """A `KeyMap` whose layout keeps several layers as one, their outputs one behind the other."""

    @property
    def has_alpha(self) -> bool:
        """Whether files hold an alpha for each layer; else the factor of the product is 1."""
        ...

    def fused(self, layer: str) -> Sequence[str]:
        """List the layers of the network that make up the one in which `layer` lies, in the order of their outputs."""
        ...


def lora_in_layout(lora: Mapping[str, LowRank], key_map: KeyMap, network: nn.Module) -> dict[str, Tensor]:
    """Name the tensors of a LoRA as a layout does; fuse what it keeps fused.

    The fused pair is block-diagonal, so that it changes each layer by exactly what its own pair does: the downs lie
    one under the other, the ups one behind the other in rows and columns of their own, zeros elsewhere.

    Args:
        lora: Pairs by the name of their layer in the network.
        key_map: Of the family, for the layout. One that is no `FusesLayers` has plain names and no alpha.
        network: Says how wide the layers are that have no LoRA.

    Raises:
        UserError: The layout has no name for a layer.
    """
    tensors: dict[str, Tensor] = {}
    for layer, pair in lora.items():
        members = key_map.fused(layer) if isinstance(key_map, FusesLayers) else [layer]
        present = [member for member in members if member in lora]
        if present[0] != layer:
            continue  # lies in one that is already written
        widths = [cast(nn.Linear, network.get_submodule(member)).out_features for member in members]
        whole = pair if len(members) == 1 else fuse([lora.get(member) for member in members], widths)
        if not (isinstance(key_map, FusesLayers) and key_map.has_alpha):
            whole = whole.at_scale(1.0)
        else:
            tensors[key_map(f"{layer}.alpha")] = torch.tensor(whole.alpha)
        tensors[key_map(f"{layer}.lora_A.weight")] = whole.down.contiguous()
        tensors[key_map(f"{layer}.lora_B.weight")] = whole.up.contiguous()
    return tensors


def lora_of_layout(tensors: Mapping[str, Tensor], key_map: KeyMap, network: nn.Module) -> dict[str, LowRank]:
    """Read the tensors of a LoRA under the names of a layout: the reverse of `lora_in_layout`.

    Layers that the layout keeps as one read one down; each takes its rows of the up. Directions that do not reach its
    rows are left out, and a layer that none reaches has no LoRA.

    Args:
        tensors: Under the names of the layout.
        key_map: Of the family, for the layout.
        network: Of the LoRA; may lie on the device `meta`.

    Raises:
        UserError: A tensor has no such name.
    """
    pairs: dict[str, LowRank] = {}
    read: set[str] = set()
    for layer, part in network.named_modules():
        if not isinstance(part, nn.Linear | nn.Conv2d):
            continue
        try:
            down, up, alpha = (key_map(f"{layer}.{end}") for end in ("lora_A.weight", "lora_B.weight", "alpha"))
        except UserError:  # the layout has no name for this layer
            continue
        if down not in tensors or up not in tensors:
            continue
        read |= {down, up, alpha}
        whole = LowRank(tensors[down], tensors[up], float(tensors.get(alpha, len(tensors[down]))))
        members = list(key_map.fused(layer)) if isinstance(key_map, FusesLayers) else [layer]
        before = members[: members.index(layer)]
        first = sum(cast(nn.Linear, network.get_submodule(member)).out_features for member in before)
        own = whole if len(members) == 1 else _own_rows(whole, first, cast(nn.Linear, part).out_features)
        if own is not None:
            pairs[layer] = own
    if left := sorted(tensors.keys() - read):
        raise UserError(
            f"{left[0]} is the name of no LoRA tensor of this {type(network).__name__} ({len(left)} such). Allowed are "
            "LoRAs of its linear layers. Give a file that was made for it."
        )
    return pairs


def fuse(pairs: Sequence[LowRank | None], widths: Sequence[int]) -> LowRank:
    """Return one pair for layers that read the same inputs and whose outputs lie one behind the other.

    Args:
        pairs: In the order of the outputs; None where a layer is left as it is. Not all are None.
        widths: Outputs of each layer.
    """
    present = [pair for pair in pairs if pair is not None]
    scale = present[0].scale
    alike = [None if pair is None else pair.at_scale(scale) for pair in pairs]
    rank = sum(pair.rank for pair in present)
    up: Float[Tensor, "outputs rank"] = present[0].up.new_zeros(sum(widths), rank)
    row = column = 0
    for part, width in zip(alike, widths, strict=True):
        if part is not None:
            up[row : row + width, column : column + part.rank] = part.up
            column += part.rank
        row += width
    return LowRank(torch.cat([pair.down for pair in present]), up, scale * rank)


def _own_rows(whole: LowRank, first: int, width: int) -> LowRank | None:
    """Cut the rows of one layer out of a fused pair; None where no direction reaches them."""
    rows = whole.up[first : first + width]
    reached = rows.any(dim=0)
    rank = int(reached.sum())
    return LowRank(whole.down[reached], rows[:, reached], whole.scale * rank) if rank else None
