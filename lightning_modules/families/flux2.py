"""The FLUX.2-klein family: FLUX.1's two kinds of blocks over Qwen3's states and packed latents of 128 channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.codec import Codec, latent_shape
from evolvedirector.lightning_modules.codecs.flux2_autoencoder import Flux2Autoencoder
from evolvedirector.lightning_modules.component import Component
from evolvedirector.lightning_modules.families.family import KeyMap, Layout, blocks_of, no_stock_pipeline, patch_tokens
from evolvedirector.lightning_modules.families.flux_layers import FLUX2_LAYERS, flux_key_map
from evolvedirector.lightning_modules.families.patches import check_axes, places
from evolvedirector.lightning_modules.families.pretrained import Pretrained, agreed_config, built, network_fingerprint
from evolvedirector.lightning_modules.sampling import guide
from evolvedirector.lightning_modules.text_encoders.flux2_qwen3_encoder import Flux2Qwen3Encoder
from evolvedirector.lightning_modules.text_encoders.text_encoder import FrozenPart, TextEncoder, bytes_per_value
from evolvedirector.records.condition import Condition, Extras, Size, TextStates, Tokens, join

_NETWORK = "Flux2Transformer2DModel"
_ARGUMENTS = {
    "in_channels": "4 x latent_channels of codec",
    "num_attention_heads": "heads",
    "attention_head_dim": "head_dim",
    "num_layers": "layers",
    "num_single_layers": "single_layers",
    "joint_attention_dim": "text_encoder.dimension",
}


class Flux2Klein:
    """Describe FLUX.2-klein, base or distilled (Black Forest Labs 2026), by its numbers, encoder and codec.

    The codec packs squares of latent pixels, so that each pixel is a token, with row and column as its place in a
    rotary embedding of four coordinates; text tokens have their number as the fourth, and padding is one of them. The
    base is guided by a second prediction for an empty prompt; the distilled one draws in four steps without. The
    defaults are those of klein 4B; klein 9B has 8 layers, 24 single layers, 32 heads and Qwen3-8B. Images need not be
    square.

    Args:
        text_encoder: Qwen3.
        codec: Maps images to packed latents.
        text_length: Tokens per prompt, template included; longer prompts are cut.
        layers: Number of blocks that keep text and image apart.
        single_layers: Number of blocks behind them that do not.
        heads: Heads per attention.
        head_dim: Channels per head; the width of the network is heads x head_dim.
        mlp_ratio: Width of the feed-forward layers over that of the network.
        axes_dims_rope: Channels per head for the four coordinates of a place; even, and together `head_dim`.
        distilled: It was distilled to few steps: there is no guidance, whatever its scale. Stands in the pipeline's
            config, for the weights are of one shape.
        gradient_checkpointing: Recompute blocks in the backward pass; saves memory, costs a third more time.
        pretrained: Diffusers folder or repository whose weights are the start; None starts from random ones.
        revision: Its git revision; needed for a repository.
        pretrained_subfolder: Folder of the network inside it, `transformer` in a pipeline; None for none.

    Raises:
        UserError: The parts do not fit each other, or a revision is missing.
    """

    roles: Sequence[str] = ()

    def __init__(
        self,
        text_encoder: TextEncoder,
        codec: Codec,
        text_length: int = 512,
        layers: int = 5,
        single_layers: int = 20,
        heads: int = 24,
        head_dim: int = 128,
        mlp_ratio: float = 3.0,
        axes_dims_rope: Sequence[int] = (32, 32, 32, 32),
        distilled: bool = False,
        gradient_checkpointing: bool = False,
        pretrained: str | None = None,
        revision: str | None = None,
        pretrained_subfolder: str | None = None,
    ) -> None:
        self.text_encoder = text_encoder
        self.codec: Codec = codec
        self.text_length, self.layers, self.single_layers = text_length, layers, single_layers
        self.heads, self.head_dim, self.mlp_ratio = heads, head_dim, mlp_ratio
        self.axes_dims_rope, self.distilled = tuple(axes_dims_rope), distilled
        self.gradient_checkpointing = gradient_checkpointing
        self.pretrained = Pretrained(pretrained, revision, pretrained_subfolder) if pretrained else None
        check_axes(self.axes_dims_rope, head_dim, coordinates=4)

    @property
    def fingerprint(self) -> str:
        """Name the numbers, the pretrained weights and the frozen parts."""
        frozen = (self.text_fingerprint, self.codec.fingerprint)
        return network_fingerprint("flux2-klein", [self.config(), self.distilled], self.pretrained, *frozen)

    @property
    def text_fingerprint(self) -> str:
        """Name the encoder and the length."""
        return f"{self.text_encoder.fingerprint}-{self.text_length}"

    @property
    def text_encoders(self) -> Mapping[str, FrozenPart]:
        """Name the encoder."""
        return {"text_encoder": self.text_encoder}

    def verify(self) -> None:
        """Check that the pretrained weights are there.

        Raises:
            ValueError: They are not.
        """
        if self.pretrained:
            self.pretrained.verify()

    def check_image_size(self, image_size_px: int) -> None:
        """Refuse a size that does not fit the codec.

        Raises:
            ValueError: It does not.
        """
        self.tokens(Size(image_size_px, image_size_px))

    def tokens(self, size: Size) -> int:
        """Return the number of packed latent pixels.

        Raises:
            UserError: A side is no multiple of one; the stock pipeline would cut it silently.
        """
        return patch_tokens(latent_shape(self.codec, size), size, 1, self.codec.downscaling)

    def text_bytes(self) -> int:
        """Return what the states of a text take; all texts take the same."""
        return self.text_length * self.text_encoder.dimension * bytes_per_value(self.text_encoder)

    def encode_text(self, texts: Sequence[str]) -> TextStates:
        """Return Qwen3's states."""
        return TextStates({"text": Tokens(*self.text_encoder.encode(texts, self.text_length))})

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Pad the texts to one length."""
        return join([states], {"text": self.text_length})

    def needs_null(self, guidance_scale: float) -> bool:
        """Say whether an empty prompt is predicted, too: above 1, and never for the distilled network."""
        return guidance_scale > 1 and not self.distilled

    def guide(self, conditional: Tensor, unconditional: Tensor, guidance_scale: float) -> Tensor:
        """Join both predictions as classifier-free guidance does."""
        return guide(conditional, unconditional, guidance_scale)

    def config(self) -> dict[str, Any]:
        """Return the diffusers configuration."""
        return {
            "patch_size": 1,
            "in_channels": self.codec.channels,
            "num_layers": self.layers,
            "num_single_layers": self.single_layers,
            "attention_head_dim": self.head_dim,
            "num_attention_heads": self.heads,
            "joint_attention_dim": self.text_encoder.dimension,
            "mlp_ratio": self.mlp_ratio,
            "axes_dims_rope": self.axes_dims_rope,
            "guidance_embeds": False,
        }

    def build(self) -> nn.Module:
        """Make the network, with the initial weights of diffusers or pretrained ones."""
        loaded = agreed_config(_NETWORK, self.config(), _ARGUMENTS, self.pretrained)
        if self.pretrained:
            self._agree_on_distillation(self.pretrained)
        return built(_NETWORK, self.config() | loaded, self.pretrained, self.gradient_checkpointing)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """List the blocks of both kinds."""
        return blocks_of(network, "transformer_blocks", "single_transformer_blocks")

    def lora_targets(self) -> Sequence[str]:
        """Name the attentions, which in single blocks hold the feed-forward layers, as diffusers' script for klein."""
        # `attn.to_out` alone would name a list of modules in the blocks of the other kind
        single = [f"single_transformer_blocks.{number}.attn.to_out" for number in range(self.single_layers)]
        return ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.to_qkv_mlp_proj", *single)

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Run the network on latent pixels; it reads the flow time, from 0 to 1."""
        text = condition.tokens["text"].values
        height, width = noisy.shape[-2:]
        found = network(
            hidden_states=noisy.flatten(2).transpose(1, 2),
            timestep=time / 1000,
            guidance=None,
            encoder_hidden_states=text,
            txt_ids=places((1, 1, 1, text.shape[1]), noisy.device),
            img_ids=places((1, height, width, 1), noisy.device),
            return_dict=False,
        )[0]
        return cast(Tensor, found.transpose(1, 2).unflatten(2, (height, width)))

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        """Return the stock FLUX.2-klein pipeline.

        Raises:
            UserError: A part is none of the stock pipeline's.
        """
        from diffusers import Flux2KleinPipeline

        encoder, codec = self.text_encoder, self.codec
        if not (isinstance(encoder, Flux2Qwen3Encoder) and isinstance(codec, Flux2Autoencoder)):
            raise no_stock_pipeline("FLUX.2-klein", (encoder, codec), "Flux2Qwen3Encoder and Flux2Autoencoder")
        parts: dict[str, Any] = {"transformer": network, "scheduler": scheduler, "vae": codec.model()}
        parts["text_encoder"], parts["tokenizer"] = encoder.models()
        pipeline: Any = Flux2KleinPipeline
        return pipeline(**parts, is_distilled=self.distilled)

    @staticmethod
    def key_map(layout: Layout) -> KeyMap:
        """Return the names of LoRA tensors in a layout; outside of diffusers, projections lie fused."""
        return flux_key_map(FLUX2_LAYERS, layout, comfyui_ends=("lora_A", "lora_B"))

    def _agree_on_distillation(self, start: Pretrained) -> None:
        """Compare with the pipeline around the weights, where it is here: the weights themselves do not tell."""
        index = Component("the pipeline", start.name, start.revision, None, "model_index.json").config()
        if index is not None and index.get("is_distilled", False) != self.distilled:
            raise UserError(
                f"distilled is {self.distilled}, but the pipeline {start.name!r} says the opposite. It decides "
                f"whether images are guided. Write distilled: {str(not self.distilled).lower()}."
            )
