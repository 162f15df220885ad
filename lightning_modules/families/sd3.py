"""The SD3 family: MMDiT, which reads text and image tokens in one attention, with three text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.autoencoder import Autoencoder
from evolvedirector.lightning_modules.codecs.codec import Codec, latent_shape
from evolvedirector.lightning_modules.families.family import (
    KeyMap,
    Layout,
    blocks_of,
    diffusers_names_only,
    no_stock_pipeline,
    patch_tokens,
)
from evolvedirector.lightning_modules.families.pretrained import Pretrained, agreed_config, built, network_fingerprint
from evolvedirector.lightning_modules.text_encoders.clip_encoder import CLIPEncoder
from evolvedirector.lightning_modules.text_encoders.t5_encoder import T5Encoder
from evolvedirector.lightning_modules.text_encoders.text_encoder import (
    FrozenPart,
    PooledTextEncoder,
    TextEncoder,
    bytes_per_value,
)
from evolvedirector.records.condition import Condition, Extras, Size, TextStates, Tokens

_NETWORK = "SD3Transformer2DModel"
_ARGUMENTS = {
    "num_attention_heads": "heads",
    "attention_head_dim": "head_dim",
    "num_layers": "layers",
    "joint_attention_dim": "t5.dimension",
    "pooled_projection_dim": "pooled_dimension of clip_l and clip_g, their sum",
}


class SD3:
    """Describe Stable Diffusion 3 or 3.5 (Esser et al. 2024, arXiv:2403.03206) by its numbers, encoders and codec.

    The states of CLIP-L and CLIP-G stand side by side, filled up with zeros to the width of T5's, which follow as
    further tokens; both pooled vectors together modulate the network. Every token is attended to, padding too, as the
    network was trained. The defaults are those of SD 3.5 medium. Images need not be square.

    Args:
        clip_l: First encoder, CLIP-L.
        clip_g: Second encoder, CLIP-G.
        t5: Third encoder, with `attend_padding`; None puts zeros in its place, as the stock pipeline does.
        codec: Maps images to latents of 16 channels.
        t5_length: Tokens per prompt of the third encoder; longer prompts are cut.
        joint_attention_dim: Width of the text states; None takes that of `t5`.
        sample_size: Side of the latent for which positions are laid out.
        patch_size: Side of a patch.
        layers: Number of blocks.
        heads: Heads per attention.
        head_dim: Channels per head; the width of the network is heads x head_dim.
        pos_embed_max_size: Longest side in patches; smaller images take the middle of the position table.
        dual_attention_layers: Blocks with a second attention over the image alone (SD 3.5 medium).
        qk_norm: `rms_norm` on queries and keys (SD 3.5); None for none (SD 3).
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
        clip_l: PooledTextEncoder,
        clip_g: PooledTextEncoder,
        t5: TextEncoder | None,
        codec: Codec,
        t5_length: int = 256,
        joint_attention_dim: int | None = None,
        sample_size: int = 128,
        patch_size: int = 2,
        layers: int = 24,
        heads: int = 24,
        head_dim: int = 64,
        pos_embed_max_size: int = 384,
        dual_attention_layers: Sequence[int] = tuple(range(13)),
        qk_norm: str | None = "rms_norm",
        gradient_checkpointing: bool = False,
        pretrained: str | None = None,
        revision: str | None = None,
        pretrained_subfolder: str | None = None,
    ) -> None:
        self.clip_l, self.clip_g, self.t5 = clip_l, clip_g, t5
        self.codec: Codec = codec
        self.t5_length, self.sample_size, self.patch_size = t5_length, sample_size, patch_size
        self.joint_attention_dim = joint_attention_dim or (t5.dimension if t5 else 4096)
        self.layers, self.heads, self.head_dim = layers, heads, head_dim
        self.pos_embed_max_size, self.qk_norm = pos_embed_max_size, qk_norm
        self.dual_attention_layers = tuple(dual_attention_layers)
        self.gradient_checkpointing = gradient_checkpointing
        self.pretrained = Pretrained(pretrained, revision, pretrained_subfolder) if pretrained else None
        self._check()

    @property
    def fingerprint(self) -> str:
        """Name the numbers, the pretrained weights and the frozen parts."""
        frozen = (self.text_fingerprint, self.codec.fingerprint)
        return network_fingerprint("sd3", self.config(), self.pretrained, *frozen)

    @property
    def text_fingerprint(self) -> str:
        """Name the encoders and their lengths."""
        named = [f"{name}:{part.fingerprint}" for name, part in self.text_encoders.items()]
        return f"{'+'.join(named)}-{self.t5_length}"

    @property
    def text_encoders(self) -> Mapping[str, FrozenPart]:
        """Name the encoders."""
        both: dict[str, FrozenPart] = {"clip_l": self.clip_l, "clip_g": self.clip_g}
        return both | ({"t5": self.t5} if self.t5 else {})

    def verify(self) -> None:
        """Check that the pretrained weights are there.

        Raises:
            ValueError: They are not.
        """
        if self.pretrained:
            self.pretrained.verify()

    def check_image_size(self, image_size_px: int) -> None:
        """Refuse a size that does not fit codec, patches or position table.

        Raises:
            ValueError: It does not.
        """
        self.tokens(Size(image_size_px, image_size_px))

    def tokens(self, size: Size) -> int:
        """Return the number of patches.

        Raises:
            UserError: A side is no multiple of a patch, or longer than the position table.
        """
        latent = latent_shape(self.codec, size)
        count = patch_tokens(latent, size, self.patch_size, self.codec.downscaling)
        if max(latent[1:]) // self.patch_size > self.pos_embed_max_size:
            longest = self.pos_embed_max_size * self.patch_size * self.codec.downscaling
            raise UserError(
                f"An image of {size.width_px} x {size.height_px} px (width x height) is larger than the network's "
                f"position table. Allowed are sides of at most {longest} px. Ask for a smaller image."
            )
        return count

    def text_bytes(self) -> int:
        """Return what the states of a text take; all texts take the same."""
        clip = self.clip_l.max_tokens * (self.clip_l.dimension + self.clip_g.dimension) + self._pooled_dimension
        t5 = self.t5_length * self.t5.dimension * bytes_per_value(self.t5) if self.t5 else 0
        return clip * bytes_per_value(self.clip_l) + t5

    def encode_text(self, texts: Sequence[str]) -> TextStates:
        """Return CLIP states side by side, T5 states, and the pooled vectors."""
        states_l, pooled_l = self.clip_l.encode_pooled(texts)
        states_g, pooled_g = self.clip_g.encode_pooled(texts)
        clip = torch.cat([states_l, states_g], dim=-1)
        tokens = {"clip": Tokens(clip, torch.ones(clip.shape[:2], dtype=torch.bool, device=clip.device))}
        if self.t5:
            tokens["t5"] = Tokens(*self.t5.encode(texts, self.t5_length))
        return TextStates(tokens, {"pooled": torch.cat([pooled_l, pooled_g], dim=-1)})

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Join the states as the stock pipeline does: CLIP filled up to the width of T5, then T5."""
        clip = states.tokens["clip"].values
        wide = nn.functional.pad(clip, (0, self.joint_attention_dim - clip.shape[-1]))
        if self.t5:
            t5 = states.tokens["t5"].values
            t5 = nn.functional.pad(t5, (0, 0, 0, self.t5_length - t5.shape[1]))
        else:
            t5 = wide.new_zeros(len(wide), self.t5_length, self.joint_attention_dim)
        text = torch.cat([wide, t5.to(wide.dtype)], dim=1)
        return Condition(
            {"text": Tokens(text, torch.ones(text.shape[:2], dtype=torch.bool, device=text.device))}, states.vectors
        )

    def config(self) -> dict[str, Any]:
        """Return the diffusers configuration."""
        return {
            "sample_size": self.sample_size,
            "patch_size": self.patch_size,
            "in_channels": self.codec.channels,
            "out_channels": self.codec.channels,
            "num_layers": self.layers,
            "attention_head_dim": self.head_dim,
            "num_attention_heads": self.heads,
            "joint_attention_dim": self.joint_attention_dim,
            "caption_projection_dim": self.heads * self.head_dim,
            "pooled_projection_dim": self._pooled_dimension,
            "pos_embed_max_size": self.pos_embed_max_size,
            "dual_attention_layers": self.dual_attention_layers,
            "qk_norm": self.qk_norm,
        }

    def build(self) -> nn.Module:
        """Make the network, with the initial weights of diffusers or pretrained ones."""
        loaded = agreed_config(_NETWORK, self.config(), _ARGUMENTS, self.pretrained)
        return built(_NETWORK, self.config() | loaded, self.pretrained, self.gradient_checkpointing)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """List the transformer blocks."""
        return blocks_of(network, "transformer_blocks")

    def lora_targets(self) -> Sequence[str]:
        """Name the projections of the joint attention, for image and text, as the DreamBooth script of diffusers."""
        image = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
        return (*image, "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Run the network, which reads the time on the schedulers' own scale."""
        return cast(
            Tensor,
            network(
                hidden_states=noisy,
                timestep=time,
                encoder_hidden_states=condition.tokens["text"].values,
                pooled_projections=condition.vectors["pooled"],
                return_dict=False,
            )[0],
        )

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        """Return the stock Stable Diffusion 3 pipeline.

        Raises:
            UserError: A part is none of the stock pipeline's.
        """
        from diffusers import StableDiffusion3Pipeline

        clip_l, clip_g, t5, codec = self.clip_l, self.clip_g, self.t5, self.codec
        stock = isinstance(clip_l, CLIPEncoder) and isinstance(clip_g, CLIPEncoder) and isinstance(codec, Autoencoder)
        if not stock or not (t5 is None or isinstance(t5, T5Encoder)):
            raise no_stock_pipeline(
                "SD3", (clip_l, clip_g, t5, codec), "CLIPEncoder twice, T5Encoder or None, and Autoencoder"
            )
        parts: dict[str, Any] = {"transformer": network, "scheduler": scheduler}
        parts["vae"] = cast(Autoencoder, codec).model()
        parts["text_encoder"], parts["tokenizer"] = cast(CLIPEncoder, clip_l).models()
        parts["text_encoder_2"], parts["tokenizer_2"] = cast(CLIPEncoder, clip_g).models()
        parts["text_encoder_3"], parts["tokenizer_3"] = t5.models() if isinstance(t5, T5Encoder) else (None, None)
        pipeline: Any = StableDiffusion3Pipeline
        return pipeline(**parts)

    @staticmethod
    def key_map(layout: Layout) -> KeyMap:
        """Return the names that diffusers uses; no others are published.

        Raises:
            ValueError: Another layout is asked for.
        """
        return diffusers_names_only("SD3", layout)

    @property
    def _pooled_dimension(self) -> int:
        return self.clip_l.pooled_dimension + self.clip_g.pooled_dimension

    def _check(self) -> None:
        width = self.clip_l.dimension + self.clip_g.dimension
        if width > self.joint_attention_dim:
            raise UserError(
                f"CLIP-L and CLIP-G together have {width} dimensions, more than joint_attention_dim "
                f"{self.joint_attention_dim}. They are filled up to it with zeros. Write at least {width}."
            )
        if self.t5 and self.t5.dimension != self.joint_attention_dim:
            raise UserError(
                f"joint_attention_dim is {self.joint_attention_dim}, the third encoder gives {self.t5.dimension}. Both "
                f"must be the same. Write joint_attention_dim: {self.t5.dimension}."
            )
        if isinstance(self.t5, T5Encoder) and not self.t5.attend_padding:
            raise UserError(
                "attend_padding of t5 is false. SD3 attends to the padding of its texts, and was trained so. "
                "Write attend_padding: true."
            )
