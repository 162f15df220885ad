"""The Stable Diffusion 1.x and 2.x family: a UNet with cross-attention to the states of one CLIP."""

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
from evolvedirector.lightning_modules.families.surroundings import surroundings
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


class StableDiffusion:
    """Describe Stable Diffusion 1.x or 2.x (Rombach et al. 2022, arXiv:2112.10752) by its numbers, encoder and codec.

    The states of CLIP's last layer are read whole, padding too, as the network was trained. The defaults are those of
    1.5; 2.x has another encoder, other heads and linear projections. Whether the network learned noise or velocity is
    the objective's part: `DDPM`. Images need not be square.

    With `inpainting` the network also reads where to draw and what is around it: of every image the role `mask` (white
    where it is drawn anew) and the role `source`, both of the image's size. The source is blanked there and goes
    through the codec, whose mean is taken: the stock pipeline draws a sample, which differs by less than can be seen.

    Args:
        text_encoder: CLIP, with `layer: last` and `projected: false`.
        codec: Maps images to latents of 4 channels.
        channels: Of the UNet, per level.
        transformer_layers: Transformer blocks per level; 0 for no attention.
        heads: Heads per attention, per level.
        layers_per_level: Pairs of convolutions on the way down.
        norm_groups: Groups of every group norm.
        linear_projection: Linear layers into and out of the attentions (2.x).
        inpainting: Read mask and source: 9 channels in place of 4.
        sample_size: Side of the latent that the stock pipeline draws unasked; None is the weights' own, else 64.
        gradient_checkpointing: Recompute blocks in the backward pass; saves memory, costs a third more time.
        pretrained: Diffusers folder or repository whose weights are the start; None starts from random ones.
        revision: Its git revision; needed for a repository.
        pretrained_subfolder: Folder of the network inside it, `unet` in a pipeline; None for none.

    Raises:
        UserError: The parts do not fit each other, or a revision is missing.
    """

    def __init__(
        self,
        text_encoder: PooledTextEncoder,
        codec: Codec,
        channels: Sequence[int] = (320, 640, 1280, 1280),
        transformer_layers: Sequence[int] = (1, 1, 1, 0),
        heads: Sequence[int] = (8, 8, 8, 8),
        layers_per_level: int = 2,
        norm_groups: int = 32,
        linear_projection: bool = False,
        inpainting: bool = False,
        sample_size: int | None = None,
        gradient_checkpointing: bool = False,
        pretrained: str | None = None,
        revision: str | None = None,
        pretrained_subfolder: str | None = None,
    ) -> None:
        self.text_encoder = text_encoder
        self.codec: Codec = codec
        self.numbers = UNetNumbers(
            channels, transformer_layers, heads, layers_per_level, norm_groups, linear_projection
        )
        self.inpainting, self.sample_size = inpainting, sample_size
        self.gradient_checkpointing = gradient_checkpointing
        self.roles: Sequence[str] = ("mask", "source") if inpainting else ()
        self.pretrained = Pretrained(pretrained, revision, pretrained_subfolder) if pretrained else None
        if isinstance(text_encoder, CLIPEncoder) and (text_encoder.layer, text_encoder.projected) != ("last", False):
            raise UserError(
                f"The text encoder has layer {text_encoder.layer} and projected {text_encoder.projected}. Stable "
                "Diffusion reads the states of the last layer, and its CLIP has no projection. Write layer: last, "
                "projected: false."
            )

    @property
    def fingerprint(self) -> str:
        """Name the numbers, the pretrained weights and the frozen parts."""
        frozen = (self.text_fingerprint, self.codec.fingerprint)
        return network_fingerprint("stable-diffusion", self.config(), self.pretrained, *frozen)

    @property
    def text_fingerprint(self) -> str:
        """Name the encoder."""
        return self.text_encoder.fingerprint

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
        return self.text_encoder.max_tokens * self.text_encoder.dimension * bytes_per_value(self.text_encoder)

    def encode_text(self, texts: Sequence[str]) -> TextStates:
        """Return the states, padding included."""
        states, _ = self.text_encoder.encode_pooled(texts)
        return TextStates(
            {"text": Tokens(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))}
        )

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Add the mask and the latents of the source around it, where the network reads them."""
        around = surroundings(self.codec, sizes, extras.files) if self.inpainting else {}
        return Condition(states.tokens, spatial=around)

    def config(self) -> dict[str, Any]:
        """Return the diffusers configuration."""
        channels = self.codec.channels
        return {
            **self.numbers.config(),
            "in_channels": 2 * channels + 1 if self.inpainting else channels,
            "out_channels": channels,
            "cross_attention_dim": self.text_encoder.dimension,
            "sample_size": self.sample_size or 64,
        }

    def build(self) -> nn.Module:
        """Make the network, with the initial weights of diffusers or pretrained ones."""
        return built(UNET, self.config() | self._loaded(), self.pretrained, self.gradient_checkpointing)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """List the levels of the UNet."""
        return unet_blocks(network)

    def lora_targets(self) -> Sequence[str]:
        """Name the projections of self- and cross-attention."""
        return unet_lora_targets()

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Run the network, which reads the time on the schedulers' own scale, mask and source behind the latent."""
        spatial = condition.spatial
        read = torch.cat([noisy, spatial["mask"], spatial["source"]], dim=1) if self.inpainting else noisy
        text = condition.tokens["text"].values
        return cast(Tensor, network(read, time, encoder_hidden_states=text, return_dict=False)[0])

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        """Return the stock Stable Diffusion pipeline, or the one for inpainting; without a safety checker.

        Raises:
            UserError: A part is none of the stock pipeline's.
        """
        from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline

        if not isinstance(self.text_encoder, CLIPEncoder) or not isinstance(self.codec, Autoencoder):
            raise no_stock_pipeline("StableDiffusion", (self.text_encoder, self.codec), "CLIPEncoder and Autoencoder")
        encoder, tokenizer = self.text_encoder.models()
        pipeline: Any = StableDiffusionInpaintPipeline if self.inpainting else StableDiffusionPipeline
        return pipeline(
            **{"vae": self.codec.model(), "text_encoder": encoder, "tokenizer": tokenizer, "unet": network},
            **{"scheduler": scheduler, "safety_checker": None, "feature_extractor": None},
            requires_safety_checker=False,
        )

    def key_map(self, layout: Layout) -> KeyMap:
        """Return the names of diffusers, or those that kohya's scripts write and ComfyUI reads."""
        return unet_key_map(layout, self.numbers, lora_in_ldm_names=False)

    def _loaded(self) -> dict[str, Any]:
        if self.pretrained is None:
            return {}
        wants = self.numbers.arguments() | {"cross_attention_dim": self.text_encoder.dimension}
        channels = {"in_channels": self.config()["in_channels"], "out_channels": self.codec.channels}
        loaded = pretrained_config(self.pretrained, wants, added=None)
        if loaded["in_channels"] == 2 * loaded["out_channels"] + 1 and not self.inpainting:
            raise UserError(
                f"inpainting is false, but the weights of {self.pretrained.name!r} read {loaded['in_channels']} "
                "channels: latent, mask and masked source. Allowed is true. Write inpainting: true."
            )
        for key, value in channels.items():
            if loaded[key] != value:
                raise UserError(
                    f"The weights of {self.pretrained.name!r} have {key} {loaded[key]}, and inpainting is "
                    f"{str(self.inpainting).lower()} with a codec of {self.codec.channels} channels: {value}. Both must"
                    " be the same. Choose weights, codec and inpainting that belong together."
                )
        return loaded | ({"sample_size": self.sample_size} if self.sample_size else {})
