"""The Qwen-Image family: a two-stream transformer over image patches and the states of a vision-language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.codec import Codec, latent_shape
from evolvedirector.lightning_modules.codecs.qwen_autoencoder import QwenAutoencoder
from evolvedirector.lightning_modules.families.family import KeyMap, Layout, blocks_of, no_stock_pipeline, patch_tokens
from evolvedirector.lightning_modules.families.lora_names import lora_names
from evolvedirector.lightning_modules.families.patches import PATCH, check_axes, packed, unpacked
from evolvedirector.lightning_modules.families.pretrained import Pretrained, agreed_config, built, network_fingerprint
from evolvedirector.lightning_modules.text_encoders.qwen_vl_encoder import QwenVLEncoder
from evolvedirector.lightning_modules.text_encoders.text_encoder import FrozenPart, TextEncoder, bytes_per_value
from evolvedirector.records.condition import Condition, Extras, Size, TextStates, Tokens, join

_NETWORK = "QwenImageTransformer2DModel"
_ARGUMENTS = {
    "num_attention_heads": "heads",
    "attention_head_dim": "head_dim",
    "num_layers": "layers",
    "joint_attention_dim": "text_encoder.dimension",
    "in_channels": "4 times codec.latent_channels",
    "out_channels": "codec.latent_channels",
}
# Conditions of the editing models, which text and noise alone do not give.
_EDITING = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")
# Of the last block: the text leaves the network there, so nothing reads what these compute.
_UNREAD = ("attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
NULL_PROMPT = " "


class QwenImage:
    """Describe Qwen-Image (Wu et al. 2025, arXiv:2508.02324) by its numbers, encoder and codec.

    Image and text are two streams with one attention; each token of the image is a square of 2 x 2 latent pixels.
    Guidance keeps the norm of the prediction with prompt, token by token. The text of the null condition is one space,
    as in the stock pipeline. The defaults are those of the published model. Images need not be square.

    Six weights of the last block (the text's way out of attention and its feed-forward) are read by nothing and get no
    gradient, for which data-parallel training would wait: they are frozen, stay as they were, and are saved with the
    rest.

    Args:
        text_encoder: Turns prompts into token states.
        codec: Maps images to latents of 16 channels.
        text_length: Tokens per prompt; longer prompts are cut. Every image is drawn and trained with so many: choose
            what the prompts need (the stock pipeline cuts at 512).
        layers: Number of blocks.
        heads: Heads per attention.
        head_dim: Channels per head; the width of the network is heads x head_dim.
        axes_dims_rope: Channels of a head that rotate with frame, row and column; their sum is `head_dim`.
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
        layers: int = 60,
        heads: int = 24,
        head_dim: int = 128,
        axes_dims_rope: Sequence[int] = (16, 56, 56),
        gradient_checkpointing: bool = False,
        pretrained: str | None = None,
        revision: str | None = None,
        pretrained_subfolder: str | None = None,
    ) -> None:
        self.text_encoder = text_encoder
        self.codec: Codec = codec
        self.text_length, self.layers, self.heads, self.head_dim = text_length, layers, heads, head_dim
        self.axes_dims_rope = tuple(axes_dims_rope)
        self.gradient_checkpointing = gradient_checkpointing
        self.pretrained = Pretrained(pretrained, revision, pretrained_subfolder) if pretrained else None
        check_axes(self.axes_dims_rope, head_dim, coordinates=3)  # frame, row and column

    @property
    def fingerprint(self) -> str:
        """Name the numbers, the pretrained weights and the frozen parts."""
        frozen = (self.text_fingerprint, self.codec.fingerprint)
        return network_fingerprint("qwen-image", self.config(), self.pretrained, *frozen)

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
        """Refuse a size that does not fit codec and patches.

        Raises:
            ValueError: It does not.
        """
        self.tokens(Size(image_size_px, image_size_px))

    def tokens(self, size: Size) -> int:
        """Return the number of patches."""
        return patch_tokens(latent_shape(self.codec, size), size, PATCH, self.codec.downscaling)

    def text_bytes(self) -> int:
        """Return what the states of a text of full length take."""
        return self.text_length * self.text_encoder.dimension * bytes_per_value(self.text_encoder)

    def encode_text(self, texts: Sequence[str]) -> TextStates:
        """Return token states; the empty text is the null prompt of the stock pipeline, one space."""
        return TextStates(
            {"text": Tokens(*self.text_encoder.encode([text or NULL_PROMPT for text in texts], self.text_length))}
        )

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Pad the texts to one length."""
        return join([states], {"text": self.text_length})

    def config(self) -> dict[str, Any]:
        """Return the diffusers configuration."""
        return {
            "patch_size": PATCH,
            "in_channels": PATCH**2 * self.codec.channels,
            "out_channels": self.codec.channels,
            "num_layers": self.layers,
            "attention_head_dim": self.head_dim,
            "num_attention_heads": self.heads,
            "joint_attention_dim": self.text_encoder.dimension,
            "axes_dims_rope": self.axes_dims_rope,
        }

    def build(self) -> nn.Module:
        """Make the network, with the initial weights of diffusers or pretrained ones; what nothing reads is frozen.

        Raises:
            UserError: The weights contradict the description, or are those of an editing model.
        """
        loaded = agreed_config(_NETWORK, self.config(), _ARGUMENTS, self.pretrained)
        if self.pretrained and (asked := [name for name in _EDITING if loaded.get(name)]):
            raise UserError(
                f"The weights of {self.pretrained.name!r} have {asked[0]}: true, a condition beside text and noise. "
                "Allowed are those of a text-to-image model. Take Qwen/Qwen-Image or one trained from it."
            )
        network = built(_NETWORK, self.config() | loaded, self.pretrained, self.gradient_checkpointing)
        last = self.blocks(network)[-1]
        for name in _UNREAD:
            last.get_submodule(name).requires_grad_(False)
        return network

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """List the transformer blocks."""
        return blocks_of(network, "transformer_blocks")

    def lora_targets(self) -> Sequence[str]:
        """Name the image's projections of the joint attention, as the DreamBooth script of diffusers."""
        return ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Run the network on patches; it reads the time on the scale 0...1."""
        text = condition.tokens["text"]
        height, width = (side // PATCH for side in noisy.shape[-2:])
        patches = network(
            hidden_states=packed(noisy),
            timestep=time / 1000,
            encoder_hidden_states=text.values,
            encoder_hidden_states_mask=text.mask,
            img_shapes=[[(1, height, width)]] * len(noisy),
            return_dict=False,
        )[0]
        return unpacked(patches, height, width)

    def needs_null(self, guidance_scale: float) -> bool:
        """Say that scales up to 1 draw without guidance, as in the stock pipeline."""
        return guidance_scale > 1

    def guide(self, conditional: Tensor, unconditional: Tensor, guidance_scale: float) -> Tensor:
        """Return p |c| / |p| per token, p = u + s (c - u): guidance turns a prediction, and leaves its norm."""
        wanted, guided = (
            packed(conditional),
            packed(unconditional + guidance_scale * (conditional - unconditional)),
        )
        norms = [torch.linalg.vector_norm(part, dim=-1, keepdim=True) for part in (wanted, guided)]
        height, width = (side // PATCH for side in conditional.shape[-2:])
        return unpacked(guided * (norms[0] / norms[1]), height, width)

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        """Return the stock Qwen-Image pipeline.

        Raises:
            UserError: A part is none of the stock pipeline's.
        """
        from diffusers import QwenImagePipeline

        if not isinstance(self.text_encoder, QwenVLEncoder) or not isinstance(self.codec, QwenAutoencoder):
            raise no_stock_pipeline("QwenImage", (self.text_encoder, self.codec), "QwenVLEncoder and QwenAutoencoder")
        encoder, tokenizer = self.text_encoder.models()
        pipeline: Any = QwenImagePipeline
        return pipeline(scheduler, self.codec.model(), encoder, tokenizer, network)

    @staticmethod
    def key_map(layout: Layout) -> KeyMap:
        """Return the names of a layout: other tools call the layers as diffusers does."""
        return lora_names("Qwen-Image", layout)
