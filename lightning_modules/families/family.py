"""The seam behind which every family of networks stands: what it is built from, reads, and is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.codec import Codec
from evolvedirector.lightning_modules.text_encoders.text_encoder import FrozenPart
from evolvedirector.records.condition import Condition, Extras, Size, TextStates

Layout = Literal["diffusers", "comfyui", "kohya"]
"""Who reads the weights: the names of tensors differ."""
KeyMap: TypeAlias = Callable[[str], str]
"""Name of a tensor in the network -> its name in a layout."""


@runtime_checkable
class Family(Protocol):
    """Own the conventions of one kind of text-to-image network: encoders, condition, codec, time, names.

    The weights that are trained live in the module that `build` returns. Text encoders and codec are frozen and belong
    to the family. `predict` is told the time on the scale 0...1000 of the diffusers schedulers, whatever the objective
    draws (`Objective.transformer_time`), and converts it into what its network reads.
    """

    @property
    def fingerprint(self) -> str:
        """Name everything that changes what the network computes, weights that are trained left out."""
        ...

    @property
    def text_fingerprint(self) -> str:
        """Name everything that `encode_text` depends on, lengths included; part of the key of cached states."""
        ...

    @property
    def text_encoders(self) -> Mapping[str, FrozenPart]:
        """Name the text encoders."""
        ...

    @property
    def codec(self) -> Codec:
        """Map images to what is trained on; `Pixels` where there is no latent space."""
        ...

    @property
    def roles(self) -> Sequence[str]:
        """Name the files of a sample, beside `image`, that the condition reads: a mask, a source, a reference."""
        ...

    def check_image_size(self, image_size_px: int) -> Any:
        """Raise where images of this size are not what the network is described for.

        Called once for the size that a run names; single images may have any size that `tokens` takes.
        """
        ...

    def tokens(self, size: Size) -> int:
        """Return how many tokens an image has; raises where its sides do not fit codec and patches."""
        ...

    def text_bytes(self) -> int:
        """Return what the states of one text take at most, as they are kept."""
        ...

    def encode_text(self, texts: Sequence[str]) -> TextStates:
        """Run the encoders, one row per text: expensive, so that callers keep the rows by content."""
        ...

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Make of text states what the network reads: cheap; pads, adds sizes, guidance and files."""
        ...

    def build(self) -> nn.Module:
        """Make the network; initial weights come from the global generator, which the caller seeds."""
        ...

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """List the repeated blocks: the units of sharding, checkpointing and compilation."""
        ...

    def lora_targets(self) -> Sequence[str]:
        """Name the linear layers that a LoRA adapts, by the ends of their names."""
        ...

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Run the network; `time` is on the scale 0...1000, the prediction has the shape of `noisy`.

        More channels may follow, such as a learned variance: whoever does not read them cuts them off.
        """
        ...

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        """Return the stock diffusers pipeline around the network; loads the frozen parts."""
        ...

    def key_map(self, layout: Layout) -> KeyMap:
        """Return how the network's tensors are called in a layout; raises where nobody has published the names."""
        ...


@runtime_checkable
class GuidesItself(Protocol):
    """A family whose guidance is not u + s (c - u) over the empty prompt: embedded in the network, or rescaled."""

    def needs_null(self, guidance_scale: float) -> bool:
        """Say whether the network also runs on the empty prompt at this scale."""
        ...

    def guide(self, conditional: Tensor, unconditional: Tensor, guidance_scale: float) -> Tensor:
        """Join the prediction with prompt and the one without; asked only where `needs_null`."""
        ...


@runtime_checkable
class PredictsVariance(Protocol):
    """A family whose networks may say, beside the noise, how uncertain the step back is."""

    @property
    def predicts_variance(self) -> bool:
        """Say whether this one's network does: then `predict` returns the variance behind, as many channels again."""
        ...


def diffusers_names_only(family: str, layout: Layout) -> KeyMap:
    """Return the identity for the diffusers layout, and refuse the others.

    Args:
        family: Name of the family, for the error.
        layout: Who reads the weights.

    Raises:
        UserError: Another layout: no source gives its names, and guessed ones load without effect.
    """
    if layout != "diffusers":
        raise UserError(
            f"There are no published {layout} names for {family}. Allowed is 'diffusers': under guessed names a tool "
            "loads the file and silently changes nothing. Write layout: diffusers, and convert with a tool that knows "
            "both."
        )
    return lambda name: name


def patch_tokens(latent: tuple[int, int, int], size: Size, patch_size: int, downscaling: int) -> int:
    """Return how many patches fill a latent.

    Args:
        latent: Its channels, height and width.
        size: Of the image, for the error.
        patch_size: Side of a patch, in latent pixels.
        downscaling: Image pixels per latent pixel.

    Raises:
        UserError: A side is no multiple of the patch.
    """
    _, height, width = latent
    if height % patch_size or width % patch_size:
        unit = patch_size * downscaling
        nearest = [max(1, side // unit) * unit for side in size]
        raise UserError(
            f"An image of {size.width_px} x {size.height_px} px (width x height) cannot be cut into patches of "
            f"{unit} px. Both sides must be multiples of that. Take {nearest[1]} x {nearest[0]} px."
        )
    return (height // patch_size) * (width // patch_size)


def blocks_of(network: nn.Module, *lists: str) -> list[nn.Module]:
    """List the members of a network's lists of blocks, one list after another.

    Args:
        network: Has them.
        lists: Their names.
    """
    return [block for name in lists for block in network.get_submodule(name).children()]


def no_stock_pipeline(family: str, parts: Sequence[object], stock: str) -> UserError:
    """Return the error for a family that draws with other parts than the stock pipeline of diffusers.

    Args:
        family: Its name.
        parts: Encoders and codec that it has.
        stock: Names those of the pipeline.
    """
    *first, last = (type(part).__name__ for part in parts)
    return UserError(
        f"This {family} has {', '.join(first)} and {last}. The stock pipeline has {stock}. Draw with "
        "TextToImage.generate instead."
    )
