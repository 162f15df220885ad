"""The FLUX.1 family: text and image tokens in one attention, with the guidance scale as an input (dev)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.autoencoder import Autoencoder
from evolvedirector.lightning_modules.codecs.codec import Codec, latent_shape
from evolvedirector.lightning_modules.families.family import KeyMap, Layout, blocks_of, no_stock_pipeline, patch_tokens
from evolvedirector.lightning_modules.families.flux_layers import FLUX1_LAYERS, flux_key_map
from evolvedirector.lightning_modules.families.patches import PATCH, check_axes, packed, places, unpacked
from evolvedirector.lightning_modules.families.pretrained import Pretrained, agreed_config, built, network_fingerprint
from evolvedirector.lightning_modules.text_encoders.clip_encoder import CLIPEncoder
from evolvedirector.lightning_modules.text_encoders.t5_encoder import T5Encoder
from evolvedirector.lightning_modules.text_encoders.text_encoder import (
    FrozenPart,
    PooledTextEncoder,
    TextEncoder,
    bytes_per_value,
)
from evolvedirector.records.condition import Condition, Extras, Size, TextStates, Tokens, join

_NETWORK = "FluxTransformer2DModel"
_ARGUMENTS = {
    "in_channels": "4 x latent_channels of codec",
    "num_attention_heads": "heads",
    "attention_head_dim": "head_dim",
    "num_layers": "layers",
    "num_single_layers": "single_layers",
    "joint_attention_dim": "t5.dimension",
    "pooled_projection_dim": "pooled_dimension of clip",
}


class Flux1:
    """Describe FLUX.1 dev or schnell (Black Forest Labs 2024) by its numbers, encoders and codec.

    Squares of 2 x 2 latent pixels become tokens, with row and column as their place in a rotary embedding; T5's states
    are further tokens, all at place 0, padding too; CLIP's pooled vector modulates the network. dev was distilled from
    guided predictions and is told their scale, so that drawing runs the network once per step at any scale; schnell
    knows no scale. The defaults are those of dev. Images need not be square.

    Args:
        clip: CLIP-L with `projected: false`.
        t5: T5, with `attend_padding`.
        codec: Maps images to latents of 16 channels.
        t5_length: Tokens per prompt; longer prompts are cut. 512 for dev, 256 for schnell.
        layers: Number of blocks that keep text and image apart.
        single_layers: Number of blocks behind them that do not.
        heads: Heads per attention.
        head_dim: Channels per head; the width of the network is heads x head_dim.
        axes_dims_rope: Channels per head for the three coordinates of a place; even, and together `head_dim`.
        guidance_embeds: The network reads the guidance scale, as dev does; false for schnell.
        training_guidance: The scale that it reads in training; 1 in the published training scripts of diffusers and
            sd-scripts: what is learned then is the data itself, not a guided version of it.
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
        clip: PooledTextEncoder,
        t5: TextEncoder,
        codec: Codec,
        t5_length: int = 512,
        layers: int = 19,
        single_layers: int = 38,
        heads: int = 24,
        head_dim: int = 128,
        axes_dims_rope: Sequence[int] = (16, 56, 56),
        guidance_embeds: bool = True,
        training_guidance: float = 1.0,
        gradient_checkpointing: bool = False,
        pretrained: str | None = None,
        revision: str | None = None,
        pretrained_subfolder: str | None = None,
    ) -> None:
        self.clip, self.t5 = clip, t5
        self.codec: Codec = codec
        self.t5_length, self.layers, self.single_layers = t5_length, layers, single_layers
        self.heads, self.head_dim, self.axes_dims_rope = heads, head_dim, tuple(axes_dims_rope)
        self.guidance_embeds, self.training_guidance = guidance_embeds, training_guidance
        self.gradient_checkpointing = gradient_checkpointing
        self.pretrained = Pretrained(pretrained, revision, pretrained_subfolder) if pretrained else None
        self._check()

    @property
    def fingerprint(self) -> str:
        """Name the numbers, the pretrained weights and the frozen parts."""
        frozen = (self.text_fingerprint, self.codec.fingerprint)
        return network_fingerprint("flux1", self.config(), self.pretrained, *frozen)

    @property
    def text_fingerprint(self) -> str:
        """Name the encoders and the length."""
        named = [f"{name}:{part.fingerprint}" for name, part in self.text_encoders.items()]
        return f"{'+'.join(named)}-{self.t5_length}"

    @property
    def text_encoders(self) -> Mapping[str, FrozenPart]:
        """Name the encoders."""
        return {"clip": self.clip, "t5": self.t5}

    def verify(self) -> None:
        """Check that the pretrained weights are there.

        Raises:
            ValueError: They are not.
        """
        if self.pretrained:
            self.pretrained.verify()

    def check_image_size(self, image_size_px: int) -> None:
        """Refuse a size that does not fit codec or patches.

        Raises:
            ValueError: It does not.
        """
        self.tokens(Size(image_size_px, image_size_px))

    def tokens(self, size: Size) -> int:
        """Return the number of squares.

        Raises:
            UserError: A side is no multiple of a square; the stock pipeline would cut it silently.
        """
        return patch_tokens(latent_shape(self.codec, size), size, PATCH, self.codec.downscaling)

    def text_bytes(self) -> int:
        """Return what the states of a text take; all texts take the same."""
        t5 = self.t5_length * self.t5.dimension * bytes_per_value(self.t5)
        return t5 + self.clip.pooled_dimension * bytes_per_value(self.clip)

    def encode_text(self, texts: Sequence[str]) -> TextStates:
        """Return T5's states and CLIP's pooled vectors."""
        _, pooled = self.clip.encode_pooled(texts)
        return TextStates({"text": Tokens(*self.t5.encode(texts, self.t5_length))}, {"pooled": pooled})

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Pad texts to one length, and add the guidance scale where the network reads it."""
        states = join([states], {"text": self.t5_length})
        if not self.guidance_embeds:
            return states
        scale = self.training_guidance if extras.guidance is None else extras.guidance
        pooled = states.vectors["pooled"]
        guidance = torch.full((states.count,), scale, dtype=torch.float32, device=pooled.device)
        return Condition(states.tokens, {**states.vectors, "guidance": guidance})

    def needs_null(self, guidance_scale: float) -> bool:
        """Say no: dev reads the scale as a number, schnell has none."""
        return False

    def guide(self, conditional: Tensor, unconditional: Tensor, guidance_scale: float) -> Tensor:
        """Refuse: there is never a prediction without prompt.

        Raises:
            UserError: Always.
        """
        raise UserError("FLUX.1 has no prediction without prompt to be guided by. Ask needs_null first.")

    def config(self) -> dict[str, Any]:
        """Return the diffusers configuration."""
        return {
            "patch_size": 1,
            "in_channels": self.codec.channels * PATCH**2,
            "num_layers": self.layers,
            "num_single_layers": self.single_layers,
            "attention_head_dim": self.head_dim,
            "num_attention_heads": self.heads,
            "joint_attention_dim": self.t5.dimension,
            "pooled_projection_dim": self.clip.pooled_dimension,
            "guidance_embeds": self.guidance_embeds,
            "axes_dims_rope": self.axes_dims_rope,
        }

    def build(self) -> nn.Module:
        """Make the network, with the initial weights of diffusers or pretrained ones."""
        loaded = agreed_config(_NETWORK, self.config(), _ARGUMENTS, self.pretrained)
        return built(_NETWORK, self.config() | loaded, self.pretrained, self.gradient_checkpointing)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """List the blocks of both kinds."""
        return blocks_of(network, "transformer_blocks", "single_transformer_blocks")

    def lora_targets(self) -> Sequence[str]:
        """Name attentions and feed-forward layers for image and text, as the DreamBooth script of diffusers."""
        image = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2")
        text = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
        return (*image, *text, "ff_context.net.0.proj", "ff_context.net.2")

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Run the network on squares of latent pixels; it reads the flow time, from 0 to 1."""
        text = condition.tokens["text"].values
        height, width = noisy.shape[-2] // PATCH, noisy.shape[-1] // PATCH
        found = network(
            hidden_states=packed(noisy),
            timestep=time / 1000,
            guidance=condition.vectors.get("guidance"),
            pooled_projections=condition.vectors["pooled"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=noisy.device),
            img_ids=places((1, height, width), noisy.device).float(),
            return_dict=False,
        )[0]
        return unpacked(found, height, width)

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        """Return the stock FLUX.1 pipeline.

        Raises:
            UserError: A part is none of the stock pipeline's.
        """
        from diffusers import FluxPipeline

        clip, t5, codec = self.clip, self.t5, self.codec
        if not (isinstance(clip, CLIPEncoder) and isinstance(t5, T5Encoder) and isinstance(codec, Autoencoder)):
            raise no_stock_pipeline("FLUX.1", (clip, t5, codec), "CLIPEncoder, T5Encoder and Autoencoder")
        parts: dict[str, Any] = {"transformer": network, "scheduler": scheduler, "vae": codec.model()}
        parts["text_encoder"], parts["tokenizer"] = clip.models()
        parts["text_encoder_2"], parts["tokenizer_2"] = t5.models()
        pipeline: Any = FluxPipeline
        return pipeline(**parts)

    @staticmethod
    def key_map(layout: Layout) -> KeyMap:
        """Return the names of LoRA tensors in a layout; outside of diffusers, projections lie fused."""
        return flux_key_map(FLUX1_LAYERS, layout, comfyui_ends=("lora_down", "lora_up"))

    def _check(self) -> None:
        if isinstance(self.clip, CLIPEncoder) and self.clip.projected:
            raise UserError(
                "projected of clip is true. FLUX.1 reads the pooled vector as it is. Write projected: false."
            )
        if isinstance(self.t5, T5Encoder) and not self.t5.attend_padding:
            raise UserError(
                "attend_padding of t5 is false. FLUX.1 attends to the padding of its texts, and was trained so. "
                "Write attend_padding: true."
            )
        check_axes(self.axes_dims_rope, self.head_dim, coordinates=3)
