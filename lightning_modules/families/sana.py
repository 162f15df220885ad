"""The Sana family: linear attention over very small latents, with cross-attention to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.codec import Codec, latent_shape
from evolvedirector.lightning_modules.codecs.deep_compression_autoencoder import DeepCompressionAutoencoder
from evolvedirector.lightning_modules.families.family import (
    KeyMap,
    Layout,
    blocks_of,
    diffusers_names_only,
    no_stock_pipeline,
    patch_tokens,
)
from evolvedirector.lightning_modules.families.pixart import cleaned
from evolvedirector.lightning_modules.families.pretrained import Pretrained, agreed_config, built, network_fingerprint
from evolvedirector.lightning_modules.text_encoders.gemma2_encoder import Gemma2Encoder
from evolvedirector.lightning_modules.text_encoders.text_encoder import FrozenPart, TextEncoder, bytes_per_value
from evolvedirector.records.condition import Condition, Extras, Size, TextStates, Tokens, join

_NETWORK = "SanaTransformer2DModel"
_ARGUMENTS = {
    "num_attention_heads": "heads",
    "attention_head_dim": "head_dim",
    "num_cross_attention_heads": "cross_heads",
    "cross_attention_head_dim": "cross_head_dim",
    "cross_attention_dim": "heads x head_dim",
    "num_layers": "layers",
    "caption_channels": "text_encoder.dimension",
    "in_channels": "codec.latent_channels",
    "out_channels": "codec.latent_channels",
}


class Sana:
    """Describe Sana (Xie et al. 2024, arXiv:2410.10629) or Sana 1.5 (arXiv:2501.18427) by numbers, encoder and codec.

    Attention over the image is linear in its tokens; a convolution in each feed-forward tells where they are, so there
    are no positions. The defaults are those of the published model of 1.6 billion parameters at 1024 px. Images need
    not be square.

    Args:
        text_encoder: Turns prompts into token states.
        codec: Maps images to latents of 32 channels, 32 times smaller.
        text_length: Tokens per prompt; longer prompts are cut.
        sample_size: Side of the square latent that the weights are for; the stock pipeline chooses its sizes by it.
        patch_size: Side of a patch.
        layers: Number of blocks.
        heads: Heads of linear attention.
        head_dim: Channels per head; the width of the network is heads x head_dim.
        cross_heads: Heads of the attention to text.
        cross_head_dim: Channels per head of it.
        qk_norm: `rms_norm_across_heads` on queries and keys (Sana 1.5); None for none.
        mlp_ratio: Width of the feed-forward over that of the network.
        timestep_scale: Multiplies times of the scale 0...1000 before the network reads them.
        gradient_checkpointing: Recompute blocks in the backward pass; saves memory, costs a third more time.
        pretrained: Diffusers folder or repository whose weights are the start; None starts from random ones.
        revision: Its git revision; needed for a repository.
        pretrained_subfolder: Folder of the network inside it, `transformer` in a pipeline; None for none.

    Raises:
        UserError: A revision is missing.
    """

    roles: Sequence[str] = ()

    def __init__(
        self,
        text_encoder: TextEncoder,
        codec: Codec,
        text_length: int = 300,
        sample_size: int = 32,
        patch_size: int = 1,
        layers: int = 20,
        heads: int = 70,
        head_dim: int = 32,
        cross_heads: int = 20,
        cross_head_dim: int = 112,
        qk_norm: str | None = None,
        mlp_ratio: float = 2.5,
        timestep_scale: float = 1.0,
        gradient_checkpointing: bool = False,
        pretrained: str | None = None,
        revision: str | None = None,
        pretrained_subfolder: str | None = None,
    ) -> None:
        self.text_encoder = text_encoder
        self.codec: Codec = codec
        self.text_length, self.sample_size, self.patch_size = text_length, sample_size, patch_size
        self.layers, self.heads, self.head_dim = layers, heads, head_dim
        self.cross_heads, self.cross_head_dim = cross_heads, cross_head_dim
        self.qk_norm, self.mlp_ratio, self.timestep_scale = qk_norm, mlp_ratio, timestep_scale
        self.gradient_checkpointing = gradient_checkpointing
        self.pretrained = Pretrained(pretrained, revision, pretrained_subfolder) if pretrained else None

    @property
    def fingerprint(self) -> str:
        """Name the numbers, the pretrained weights and the frozen parts."""
        frozen = (self.text_fingerprint, self.codec.fingerprint)
        return network_fingerprint("sana", self.config(), self.pretrained, *frozen)

    @property
    def text_fingerprint(self) -> str:
        """Name encoder, length and cleaning."""
        return f"{self.text_encoder.fingerprint}-{self.text_length}-lower"

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
        return patch_tokens(latent_shape(self.codec, size), size, self.patch_size, self.codec.downscaling)

    def text_bytes(self) -> int:
        """Return what the states of a text of full length take."""
        return self.text_length * self.text_encoder.dimension * bytes_per_value(self.text_encoder)

    def encode_text(self, texts: Sequence[str]) -> TextStates:
        """Return token states of the texts in lower case, without space around them, as the stock pipeline does.

        An empty text is the null prompt, and the only one that stands without instruction.
        """
        states, mask = self.text_encoder.encode([cleaned(text) for text in texts], self.text_length)
        return TextStates({"text": Tokens(states, mask)})

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Pad the texts to one length."""
        return join([states], {"text": self.text_length})

    def config(self) -> dict[str, Any]:
        """Return the diffusers configuration."""
        return {
            "in_channels": self.codec.channels,
            "out_channels": self.codec.channels,
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "num_layers": self.layers,
            "num_cross_attention_heads": self.cross_heads,
            "cross_attention_head_dim": self.cross_head_dim,
            "cross_attention_dim": self.heads * self.head_dim,
            "caption_channels": self.text_encoder.dimension,
            "mlp_ratio": self.mlp_ratio,
            "sample_size": self.sample_size,
            "patch_size": self.patch_size,
            "qk_norm": self.qk_norm,
            "timestep_scale": self.timestep_scale,
        }

    def build(self) -> nn.Module:
        """Make the network, with the initial weights of diffusers or pretrained ones.

        Raises:
            UserError: The weights contradict the description, or read the guidance scale.
        """
        loaded = agreed_config(_NETWORK, self.config(), _ARGUMENTS, self.pretrained)
        if self.pretrained and loaded["guidance_embeds"]:
            raise UserError(
                f"The weights of {self.pretrained.name!r} have guidance_embeds: true, those of a distilled model "
                "(Sana-Sprint) with another objective. Allowed are Sana and Sana 1.5. Take one of them."
            )
        return built(_NETWORK, self.config() | loaded, self.pretrained, self.gradient_checkpointing)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """List the transformer blocks."""
        return blocks_of(network, "transformer_blocks")

    def lora_targets(self) -> Sequence[str]:
        """Name the inputs of both attentions, as the DreamBooth script of diffusers."""
        return ("to_q", "to_k", "to_v")

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Run the network."""
        text = condition.tokens["text"]
        return cast(
            Tensor,
            network(
                noisy,
                encoder_hidden_states=text.values,
                encoder_attention_mask=text.mask,
                timestep=time * self.timestep_scale,
                return_dict=False,
            )[0],
        )

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        """Return the stock Sana pipeline.

        It has the instruction and `use_resolution_binning` as arguments of a call; other instructions than the
        published ones are to be given there, and sizes are the asked ones without binning alone.

        Raises:
            UserError: A part is none of the stock pipeline's.
        """
        from diffusers import SanaPipeline

        if not isinstance(self.text_encoder, Gemma2Encoder) or not isinstance(self.codec, DeepCompressionAutoencoder):
            raise no_stock_pipeline(
                "Sana", (self.text_encoder, self.codec), "Gemma2Encoder and DeepCompressionAutoencoder"
            )
        encoder, tokenizer = self.text_encoder.models()
        pipeline: Any = SanaPipeline
        return pipeline(tokenizer, encoder, self.codec.model(), network, scheduler)

    @staticmethod
    def key_map(layout: Layout) -> KeyMap:
        """Return the names that diffusers uses; no others are published.

        Raises:
            ValueError: Another layout is asked for.
        """
        return diffusers_names_only("Sana", layout)
