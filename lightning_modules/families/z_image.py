"""The Z-Image family: one stream of image and text tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.autoencoder import Autoencoder
from evolvedirector.lightning_modules.codecs.codec import Codec, latent_shape
from evolvedirector.lightning_modules.families.family import KeyMap, Layout, blocks_of, no_stock_pipeline, patch_tokens
from evolvedirector.lightning_modules.families.lora_names import lora_names
from evolvedirector.lightning_modules.families.pretrained import Pretrained, agreed_config, built, network_fingerprint
from evolvedirector.lightning_modules.text_encoders.text_encoder import FrozenPart, TextEncoder, bytes_per_value
from evolvedirector.lightning_modules.text_encoders.z_image_qwen3_encoder import ZImageQwen3Encoder
from evolvedirector.records.condition import Condition, Extras, Size, TextStates, Tokens

_NETWORK = "ZImageTransformer2DModel"
_ARGUMENTS = {
    "dim": "heads x head_dim",
    "n_heads": "heads",
    "n_kv_heads": "heads",
    "n_layers": "layers",
    "n_refiner_layers": "refiner_layers",
    "cap_feat_dim": "text_encoder.dimension",
    "in_channels": "codec.latent_channels",
}
_PATCH_SIZE = 2
_TEXT_UNIT = 32  # tokens; the network fills texts up to a multiple of it with a token of its own


class ZImage:
    """Describe Z-Image (arXiv:2511.22699) by its numbers, encoder and codec.

    The tokens of an image stand before those of its text in one sequence; each text has its own length, without
    padding. The network reads the time from noise (0) to image (1) and predicts the velocity towards the image, both
    turned around here. The defaults are those of the published model. Images need not be square.

    Guidance is u + s (c - u). The stock pipeline writes c + g (c - u), so its guidance_scale g is ours less 1.

    Args:
        text_encoder: Turns prompts into token states.
        codec: Maps images to latents of 16 channels, with a shift.
        text_length: Tokens per prompt; longer prompts are cut (the stock pipeline cuts at 512).
        layers: Number of blocks over image and text.
        refiner_layers: Number of blocks over image alone, and over text alone, before them.
        heads: Heads per attention.
        head_dim: Channels per head; the width of the network is heads x head_dim.
        axes_dims: Channels of a head that rotate with text position, row and column; their sum is `head_dim`.
        axes_lens: Positions laid out along each of them; the longest text, and the longest sides in patches.
        gradient_checkpointing: Recompute blocks in the backward pass; saves memory, costs a third more time.
        pretrained: Diffusers folder or repository whose weights are the start; None starts from random ones.
        revision: Its git revision; needed for a repository.
        pretrained_subfolder: Folder of the network inside it, `transformer` in a pipeline; None for none.

    Raises:
        UserError: The numbers do not fit each other, or a revision is missing.
    """

    roles: Sequence[str] = ()

    def __init__(
        self,
        text_encoder: TextEncoder,
        codec: Codec,
        text_length: int = 512,
        layers: int = 30,
        refiner_layers: int = 2,
        heads: int = 30,
        head_dim: int = 128,
        axes_dims: Sequence[int] = (32, 48, 48),
        axes_lens: Sequence[int] = (1536, 512, 512),
        gradient_checkpointing: bool = False,
        pretrained: str | None = None,
        revision: str | None = None,
        pretrained_subfolder: str | None = None,
    ) -> None:
        self.text_encoder = text_encoder
        self.codec: Codec = codec
        self.text_length, self.layers, self.refiner_layers = text_length, layers, refiner_layers
        self.heads, self.head_dim = heads, head_dim
        self.axes_dims, self.axes_lens = tuple(axes_dims), tuple(axes_lens)
        self.gradient_checkpointing = gradient_checkpointing
        self.pretrained = Pretrained(pretrained, revision, pretrained_subfolder) if pretrained else None
        self._check()

    @property
    def fingerprint(self) -> str:
        """Name the numbers, the pretrained weights and the frozen parts."""
        frozen = (self.text_fingerprint, self.codec.fingerprint)
        return network_fingerprint("z-image", self.config(), self.pretrained, *frozen)

    @property
    def text_fingerprint(self) -> str:
        """Name encoder and length."""
        return f"{self.text_encoder.fingerprint}-{self.text_length}"

    @property
    def text_encoders(self) -> Mapping[str, FrozenPart]:
        """Name the one encoder."""
        return {"text_encoder": self.text_encoder}

    def verify(self) -> None:
        """Check that the pretrained weights are there.

        Raises:
            ValueError: They are not.
        """
        if self.pretrained:
            self.pretrained.verify()

    def check_image_size(self, image_size_px: int) -> None:
        """Refuse a size that does not fit codec, patches or positions.

        Raises:
            ValueError: It does not.
        """
        self.tokens(Size(image_size_px, image_size_px))

    def tokens(self, size: Size) -> int:
        """Return the number of patches.

        Raises:
            UserError: A side is no multiple of a patch, or longer than the positions that are laid out.
        """
        latent = latent_shape(self.codec, size)
        count = patch_tokens(latent, size, _PATCH_SIZE, self.codec.downscaling)
        longest = [length * _PATCH_SIZE * self.codec.downscaling for length in self.axes_lens[1:]]
        if size.height_px > longest[0] or size.width_px > longest[1]:
            raise UserError(
                f"An image of {size.width_px} x {size.height_px} px (width x height) is larger than the positions of "
                f"the network. Allowed are at most {longest[1]} x {longest[0]} px. Ask for a smaller image."
            )
        return count

    def text_bytes(self) -> int:
        """Return what the states of a text of full length take."""
        return self.text_length * self.text_encoder.dimension * bytes_per_value(self.text_encoder)

    def encode_text(self, texts: Sequence[str]) -> TextStates:
        """Return token states; the empty text is the null prompt, an empty turn in the chat template."""
        return TextStates({"text": Tokens(*self.text_encoder.encode(texts, self.text_length))})

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Return the states: the network reads real tokens alone."""
        return states

    def config(self) -> dict[str, Any]:
        """Return the diffusers configuration."""
        return {
            "all_patch_size": (_PATCH_SIZE,),
            "all_f_patch_size": (1,),
            "in_channels": self.codec.channels,
            "dim": self.heads * self.head_dim,
            "n_layers": self.layers,
            "n_refiner_layers": self.refiner_layers,
            "n_heads": self.heads,
            "n_kv_heads": self.heads,
            "cap_feat_dim": self.text_encoder.dimension,
            "axes_dims": self.axes_dims,
            "axes_lens": self.axes_lens,
        }

    def build(self) -> nn.Module:
        """Make the network, with the initial weights of diffusers or pretrained ones."""
        loaded = agreed_config(_NETWORK, self.config(), _ARGUMENTS, self.pretrained)
        return built(_NETWORK, self.config() | loaded, self.pretrained, self.gradient_checkpointing)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """List the blocks over image, over text and over both."""
        return blocks_of(network, "noise_refiner", "context_refiner", "layers")

    def lora_targets(self) -> Sequence[str]:
        """Name the projections of attention, as the DreamBooth script of diffusers."""
        return ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0")

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Run the network on lists of images and texts; time and velocity point the other way there."""
        text = condition.tokens["text"]
        lengths = text.mask.sum(1).tolist()
        towards_image = network(
            list(noisy.unsqueeze(2).unbind()),  # of one frame each
            (1000 - time) / 1000,
            [states[:length] for states, length in zip(text.values, lengths, strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(towards_image).squeeze(2)

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        """Return the stock Z-Image pipeline; a list of prompts that it is given comes back overwritten.

        Raises:
            UserError: A part is none of the stock pipeline's.
        """
        from diffusers import ZImagePipeline

        if not isinstance(self.text_encoder, ZImageQwen3Encoder) or not isinstance(self.codec, Autoencoder):
            raise no_stock_pipeline("ZImage", (self.text_encoder, self.codec), "ZImageQwen3Encoder and Autoencoder")
        codec = self.codec.model()
        if codec.config.shift_factor is None:
            raise UserError(
                f"The codec {self.codec.name!r} has no shift, which the stock Z-Image pipeline adds. Allowed is one "
                "that names it, be it 0. Write shift_factor: 0.0."
            )
        encoder, tokenizer = self.text_encoder.models()
        pipeline: Any = ZImagePipeline
        return pipeline(scheduler, codec, encoder, tokenizer, network)

    @staticmethod
    def key_map(layout: Layout) -> KeyMap:
        """Return the names of a layout: other tools take the layers as diffusers calls them.

        ComfyUI reads its own layout alone: it has query, key and value in one layer and no kohya names for the three.
        """
        return lora_names("Z-Image", layout)

    def _check(self) -> None:
        if sum(self.axes_dims) != self.head_dim or len(self.axes_dims) != 3 or len(self.axes_lens) != 3:
            raise UserError(
                f"axes_dims is {list(self.axes_dims)}, axes_lens {list(self.axes_lens)}, head_dim {self.head_dim}. "
                "The channels of a head are split over text position, row and column. Write three numbers each; the "
                "sum of axes_dims is head_dim."
            )
        filled = -(-self.text_length // _TEXT_UNIT) * _TEXT_UNIT
        if filled + 2 > self.axes_lens[0]:  # texts begin at 1, the image follows
            raise UserError(
                f"text_length is {self.text_length}, but {self.axes_lens[0]} positions are laid out for texts. Texts "
                f"are filled up to a multiple of {_TEXT_UNIT}, and two more are needed. Write text_length: "
                f"{(self.axes_lens[0] - 2) // _TEXT_UNIT * _TEXT_UNIT} or less."
            )
