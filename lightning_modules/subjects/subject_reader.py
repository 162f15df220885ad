"""The trained part of a network that reads a subject: its references, where it is to stand, and what is around it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.subjects.placement import grid_coordinates, onto
from evolvedirector.lightning_modules.subjects.reference_attention import KEY, References, attach
from evolvedirector.lightning_modules.subjects.resampler import Resampler
from evolvedirector.lightning_modules.subjects.widened_convolution import widen_first_convolution
from evolvedirector.records.condition import Tokens

if TYPE_CHECKING:
    from jaxtyping import Float

NAME = "subject"
"""Under this name the reader lies in its network, and its input travels to it."""
_NULL_SIDE = 2


@dataclass(frozen=True, slots=True, eq=False)
class SubjectInputs:
    """What a network reads of subjects, one row per image.

    Args:
        features: Of the patches of all references, and which of them count.
        coordinates: Float[batch, token, 2]: of each patch, as shares of the subject's box in its reference.
        numbers: Int64[batch, token]: which reference each patch belongs to.
        box: Float[batch, 4]: where the subject is to stand; NaN: where the words say.
        text: States of the prompt.
        around: Float[batch, channel, height, width]: further channels behind the noisy latent. None: none.
        strength: See `References`.
        boxes: The reader puts here what it reads from the words, Float[batch, 4].
    """

    features: Tokens
    coordinates: Tensor
    numbers: Tensor
    box: Tensor
    text: Tokens
    around: Tensor | None
    strength: Tensor | None
    boxes: list[Tensor] = field(default_factory=list)


class SubjectReader(nn.Module):
    """Make of references the tokens that attention layers read, each at its place on the canvas.

    Args:
        resampler: From features to tokens.
        width: Of the tokens.
        text_dimension: Of the states of a prompt.
    """

    def __init__(self, resampler: Resampler, width: int, text_dimension: int) -> None:
        super().__init__()
        self.resampler = resampler
        self.null = nn.Parameter(torch.randn(_NULL_SIDE**2, width))
        self.word_weight = nn.Linear(text_dimension, 1)
        self.word = nn.Linear(text_dimension, 4 * width)
        self.box = nn.Linear(4 * width, 4)
        nn.init.zeros_(self.box.weight)
        nn.init.zeros_(self.box.bias)

    def forward(self, inputs: SubjectInputs, canvas: tuple[int, int]) -> References:
        """Return what attention layers read; a row without references reads the null reference.

        Args:
            inputs: Of the batch.
            canvas: Height and width of the noisy image or latent.
        """
        read = self.box_from_words(inputs.text)
        inputs.boxes.append(read)
        # attention must not move the box to where the loss of a single step falls: the box has a loss of its own
        box = torch.where(inputs.box.isnan(), read.detach().to(inputs.box), inputs.box)
        values, places, mask = self.resampler(
            inputs.features.values, inputs.coordinates, inputs.numbers, inputs.features.mask
        )
        count, device = len(values), values.device
        null = self.null.to(values.dtype).expand(count, -1, -1)
        null_places = grid_coordinates(_NULL_SIDE, _NULL_SIDE, device).expand(count, -1, -1)
        without = (~inputs.features.mask.any(1, keepdim=True)).expand(-1, null.shape[1])
        is_null = torch.arange(values.shape[1] + null.shape[1], device=device) >= values.shape[1]
        return References(
            torch.cat([values, null], dim=1),
            torch.cat([onto(places, box), null_places], dim=1),
            torch.cat([mask, without], dim=1),
            is_null,
            canvas,
            inputs.strength,
        )

    def box_from_words(self, text: Tokens) -> Float[Tensor, "batch 4"]:
        """Return where the words of a prompt put its subject: left, top, right, bottom as shares of the canvas.

        Args:
            text: States of the prompts.
        """
        weights = self.word_weight(text.values).squeeze(-1).float().masked_fill(~text.mask, -torch.inf).softmax(1)
        words = (weights[:, :, None] * self.word(text.values).float()).sum(1)
        middle, size = self.box(functional.gelu(words)).float().sigmoid().chunk(2, dim=1)
        return torch.cat([middle - size / 2, middle + size / 2], dim=1)


def let_read(network: nn.Module, reader: SubjectReader, width: int, gain: float, further_channels: int) -> None:
    """Put a reader into a network, whose attentions and first convolution then read what it makes.

    The reader runs inside of the network's own forward pass: sharded weights are together only there.

    Args:
        network: Of diffusers; changed in place.
        reader: Becomes its part `subject`.
        width: Of the tokens.
        gain: Of queries and keys, at the start.
        further_channels: Behind the noisy latent; 0 for none.

    Raises:
        UserError: The network has no cross-attention.
    """
    attach(network, width, gain)
    network.add_module(NAME, reader)
    if further_channels:
        widen_first_convolution(network, further_channels)
    network.register_forward_pre_hook(_read_subject, with_kwargs=True)


def _read_subject(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    inputs: SubjectInputs | None = kwargs.pop(NAME, None)
    if inputs is None:
        return args, kwargs
    noisy, *rest = args
    references = network.get_submodule(NAME)(inputs, tuple(noisy.shape[-2:]))
    if inputs.around is not None:
        noisy = torch.cat([noisy, inputs.around.to(noisy)], dim=1)
    return (noisy, *rest), {**kwargs, "cross_attention_kwargs": {KEY: references}}


def check_takes_references(network: nn.Module) -> None:
    """Refuse a network that hands nothing to its attentions.

    Args:
        network: Of diffusers.

    Raises:
        UserError: It does not.
    """
    if "cross_attention_kwargs" not in inspect.signature(network.forward).parameters:
        raise UserError(
            f"{type(network).__name__} hands nothing but text to its attentions, so they cannot read a reference. "
            "Allowed are networks of diffusers with `cross_attention_kwargs`. Write family: PixArt, or "
            "StableDiffusion."
        )
