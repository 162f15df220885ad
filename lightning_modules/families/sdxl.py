"""The SDXL family: a UNet that reads the states of two CLIPs, a pooled vector, and the sizes of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.autoencoder import Autoencoder
from evolvedirector.lightning_modules.codecs.codec import Codec, latent_shape
from evolvedirector.lightning_modules.families.family import KeyMap, Layout, no_stock_pipeline
from evolvedirector.lightning_modules.families.pretrained import Pretrained, built, network_fingerprint
from evolvedirector.lightning_modules.families.unet import (
    UNET,
    UNetNumbers,
    pretrained_config,
    unet_blocks,
    unet_key_map,
    unet_lora_targets,
)
from evolvedirector.lightning_modules.text_encoders.clip_encoder import CLIPEncoder
from evolvedirector.lightning_modules.text_encoders.text_encoder import FrozenPart, PooledTextEncoder, bytes_per_value
from evolvedirector.records.condition import Condition, Extras, Size, TextStates, Tokens

SIZE_IDS = 6  # original height and width, top and left of the crop, target height and width


class SDXL:
    """Describe Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952) by its numbers, encoders and codec.

    The states of CLIP-L and CLIP-G stand side by side, padding included; CLIP-G's projected vector and six numbers
    join the time: size of the original picture, where the image was cut out of it, size of the image (section 2.2).
    Where nobody knows them, the image is its own original and was not cut. An image drawn unasked is told the same.
    Whether the network learned noise or velocity is the objective's part: `DDPM`. The defaults are those of the base
    model 1.0. Images need not be square.

    Args:
        clip_l: First encoder, CLIP-L, with `projected: false`.
        clip_g: Second encoder, CLIP-G.
        codec: Maps images to latents of 4 channels.
        channels: Of the UNet, per level.
        transformer_layers: Transformer blocks per level; 0 for no attention.
        heads: Heads per attention, per level.
        layers_per_level: Pairs of convolutions on the way down.
        norm_groups: Groups of every group norm.
        linear_projection: Linear layers into and out of the attentions.
        size_embed_dim: Channels into which each of the six numbers is spread.
        zeros_for_empty_prompt: An empty prompt is all zeros, states and vector, as the base model was trained and as
            its pipeline draws; false encodes it like any other.
        sample_size: Side of the latent that the stock pipeline draws unasked; None is the weights' own, else 128.
        gradient_checkpointing: Recompute blocks in the backward pass; saves memory, costs a third more time.
        pretrained: Diffusers folder or repository whose weights are the start; None starts from random ones.
        revision: Its git revision; needed for a repository.
        pretrained_subfolder: Folder of the network inside it, `unet` in a pipeline; None for none.

    Raises:
        UserError: The parts do not fit each other, or a revision is missing.
    """

    roles: Sequence[str] = ()

    def __init__(
        self,
        clip_l: PooledTextEncoder,
        clip_g: PooledTextEncoder,
        codec: Codec,
        channels: Sequence[int] = (320, 640, 1280),
        transformer_layers: Sequence[int] = (0, 2, 10),
        heads: Sequence[int] = (5, 10, 20),
        layers_per_level: int = 2,
        norm_groups: int = 32,
        linear_projection: bool = True,
        size_embed_dim: int = 256,
        zeros_for_empty_prompt: bool = True,
        sample_size: int | None = None,
        gradient_checkpointing: bool = False,
        pretrained: str | None = None,
        revision: str | None = None,
        pretrained_subfolder: str | None = None,
    ) -> None:
        self.clip_l, self.clip_g = clip_l, clip_g
        self.codec: Codec = codec
        self.numbers = UNetNumbers(
            channels, transformer_layers, heads, layers_per_level, norm_groups, linear_projection
        )
        self.size_embed_dim, self.zeros_for_empty_prompt = size_embed_dim, zeros_for_empty_prompt
        self.sample_size, self.gradient_checkpointing = sample_size, gradient_checkpointing
        self.pretrained = Pretrained(pretrained, revision, pretrained_subfolder) if pretrained else None
        for name, part, projected in (("clip_l", clip_l, False), ("clip_g", clip_g, True)):
            if isinstance(part, CLIPEncoder) and (part.layer, part.projected) != ("penultimate", projected):
                raise UserError(
                    f"{name} has layer {part.layer} and projected {part.projected}. SDXL reads the states of the last "
                    "layer but one, and the projected vector of the second encoder alone. Write layer: penultimate, "
                    f"projected: {str(projected).lower()}."
                )

    @property
    def fingerprint(self) -> str:
        """Name the numbers, the pretrained weights and the frozen parts."""
        frozen = (self.text_fingerprint, self.codec.fingerprint)
        return network_fingerprint("sdxl", self.config(), self.pretrained, *frozen)

    @property
    def text_fingerprint(self) -> str:
        """Name the encoders, and what an empty prompt is."""
        named = [f"{name}:{part.fingerprint}" for name, part in self.text_encoders.items()]
        return "+".join(named) + ("-zeros" if self.zeros_for_empty_prompt else "")

    @property
    def text_encoders(self) -> Mapping[str, FrozenPart]:
        """Name the encoders."""
        return {"clip_l": self.clip_l, "clip_g": self.clip_g}

    def verify(self) -> None:
        """Check that the pretrained weights are there.

        Raises:
            ValueError: They are not.
        """
        if self.pretrained:
            self.pretrained.verify()

    def check_image_size(self, image_size_px: int) -> None:
        """Refuse a size that the codec does not divide.

        Raises:
            ValueError: It does not.
        """
        self.tokens(Size(image_size_px, image_size_px))

    def tokens(self, size: Size) -> int:
        """Return the number of latent pixels; levels that do not halve evenly are cut to fit on the way up."""
        _, height, width = latent_shape(self.codec, size)
        return height * width

    def text_bytes(self) -> int:
        """Return what the states of a text take; all texts take the same."""
        per_token = self.clip_l.dimension + self.clip_g.dimension
        return (self.clip_l.max_tokens * per_token + self.clip_g.pooled_dimension) * bytes_per_value(self.clip_g)

    def encode_text(self, texts: Sequence[str]) -> TextStates:
        """Return the states side by side and the vector of CLIP-G; zeros for an empty text, where that is asked for."""
        states_l, _ = self.clip_l.encode_pooled(texts)
        states_g, pooled = self.clip_g.encode_pooled(texts)
        states = torch.cat([states_l, states_g.to(states_l.dtype)], dim=-1)
        if self.zeros_for_empty_prompt:
            kept = torch.tensor([text != "" for text in texts], device=states.device)
            states = torch.where(kept[:, None, None], states, 0)
            pooled = torch.where(kept[:, None], pooled, 0)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        return TextStates({"text": Tokens(states, mask)}, {"pooled": pooled})

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Add the six numbers of each image: original size, top and left of the crop, size."""
        device = states.tokens["text"].values.device
        target = torch.tensor(sizes, dtype=torch.float32, device=device)
        original = target if extras.original_size_px is None else extras.original_size_px.to(target)
        crop = torch.zeros_like(target) if extras.crop_top_left_px is None else extras.crop_top_left_px.to(target)
        ids = torch.cat([original, crop, target], dim=1)
        return Condition(states.tokens, {"pooled": states.vectors["pooled"], "size_ids": ids})

    def config(self) -> dict[str, Any]:
        """Return the diffusers configuration."""
        return {
            **self.numbers.config(),
            **self._reads(),
            "in_channels": self.codec.channels,
            "out_channels": self.codec.channels,
            "addition_embed_type": "text_time",
            "sample_size": self.sample_size or 128,
        }

    def build(self) -> nn.Module:
        """Make the network, with the initial weights of diffusers or pretrained ones."""
        loaded: dict[str, Any] = {}
        if self.pretrained:
            channels = {"in_channels": self.codec.channels, "out_channels": self.codec.channels}
            wants = self.numbers.arguments() | self._reads() | channels
            loaded = pretrained_config(self.pretrained, wants, added="text_time")
            if self.sample_size:
                loaded["sample_size"] = self.sample_size
        return built(UNET, self.config() | loaded, self.pretrained, self.gradient_checkpointing)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """List the levels of the UNet."""
        return unet_blocks(network)

    def lora_targets(self) -> Sequence[str]:
        """Name the projections of self- and cross-attention."""
        return unet_lora_targets()

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Run the network, which reads the time on the schedulers' own scale."""
        added = {"text_embeds": condition.vectors["pooled"], "time_ids": condition.vectors["size_ids"]}
        text = condition.tokens["text"].values
        return cast(
            Tensor, network(noisy, time, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)[0]
        )

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        """Return the stock SDXL pipeline, without its invisible watermark.

        Raises:
            UserError: A part is none of the stock pipeline's.
        """
        from diffusers import StableDiffusionXLPipeline

        clip_l, clip_g, codec = self.clip_l, self.clip_g, self.codec
        if not (isinstance(clip_l, CLIPEncoder) and isinstance(clip_g, CLIPEncoder) and isinstance(codec, Autoencoder)):
            raise no_stock_pipeline("SDXL", (clip_l, clip_g, codec), "CLIPEncoder twice and Autoencoder")
        encoder, tokenizer = clip_l.models()
        encoder_2, tokenizer_2 = clip_g.models()
        pipeline: Any = StableDiffusionXLPipeline
        return pipeline(
            **{"vae": codec.model(), "text_encoder": encoder, "tokenizer": tokenizer, "text_encoder_2": encoder_2},
            **{"tokenizer_2": tokenizer_2, "unet": network, "scheduler": scheduler, "add_watermarker": False},
            force_zeros_for_empty_prompt=self.zeros_for_empty_prompt,
        )

    def key_map(self, layout: Layout) -> KeyMap:
        """Return the names of diffusers, or those that kohya's scripts write and ComfyUI reads."""
        return unet_key_map(layout, self.numbers, lora_in_ldm_names=True)

    def _reads(self) -> dict[str, int]:
        """Return the widths of what the network reads beside the latent."""
        return {
            "cross_attention_dim": self.clip_l.dimension + self.clip_g.dimension,
            "addition_time_embed_dim": self.size_embed_dim,
            "projection_class_embeddings_input_dim": SIZE_IDS * self.size_embed_dim + self.clip_g.pooled_dimension,
        }
