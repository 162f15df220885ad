"""The PixArt family: transformers with cross-attention to text and one shared time modulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.autoencoder import Autoencoder
from evolvedirector.lightning_modules.codecs.codec import Codec, latent_shape
from evolvedirector.lightning_modules.codecs.pixels import Pixels
from evolvedirector.lightning_modules.families.family import (
    KeyMap,
    Layout,
    blocks_of,
    diffusers_names_only,
    no_stock_pipeline,
    patch_tokens,
)
from evolvedirector.lightning_modules.families.pretrained import Pretrained, agree, network_fingerprint, on_meta
from evolvedirector.lightning_modules.text_encoders.t5_encoder import T5Encoder
from evolvedirector.lightning_modules.text_encoders.text_encoder import FrozenPart, TextEncoder, bytes_per_value
from evolvedirector.models.import_diffusers import import_diffusers
from evolvedirector.records.condition import Condition, Extras, Size, TextStates, Tokens, join

SIZED = 128
"""Latent side at which the published weights of PixArt-alpha embed sizes: 1024 px."""
_ARGUMENTS = {
    "num_attention_heads": "heads",
    "attention_head_dim": "head_dim",
    "num_layers": "layers",
    "caption_channels": "text_dimension",
}


class PixArt:
    """Describe a PixArt transformer (Chen et al. 2023, arXiv:2310.00426) by its dimensions, encoder and codec.

    In latent space the defaults are the numbers of PixArt-alpha XL/2. PixArt-Sigma (arXiv:2403.04692) reads longer
    texts in the latent space of SDXL; Edgen (arXiv:2410.07133) is PixArt-alpha with normalised queries and keys.
    Without a codec and with a patch of 8 the same network draws small pictures in pixel space. Images need not be
    square.

    Args:
        text_encoder: Turns prompts into token states.
        sample_size: Side of the square image in pixels, or of its latent, for which positions are laid out.
        codec: Maps images to latents; None trains on pixels.
        text_length: Tokens per prompt; longer prompts are cut. Published: 120 (alpha, Edgen), 300 (Sigma). From random
            weights short is fast: choose what the prompts need.
        text_dimension: Dimension of the text states; None takes the encoder's.
        in_channels: Channels of image or latent; None takes the codec's.
        out_channels: None equals `in_channels`; twice as many for a model with learned variance, as all published ones
            are. `DDPMEpsilon(variational_weight=0.001)` trains it.
        patch_size: Side of a patch; (sample_size / patch_size)^2 tokens.
        layers: Number of blocks.
        heads: Heads per attention.
        head_dim: Channels per head; the width of the network is heads x head_dim.
        qk_norm: LayerNorm without parameters on queries and keys, as in Edgen.
        gradient_checkpointing: Recompute blocks in the backward pass; saves memory, costs a third more time.
        pretrained: Diffusers folder or repository whose weights are the start; None starts from random ones.
        revision: Its git revision; needed for a repository.
        pretrained_subfolder: Folder of the network inside it, `transformer` in a pipeline; None for none.
        interpolation_scale: Scale of the position embedding (published: 0.5, 1 and 2 at 256, 512 and 1024 px); None
            takes that of the pretrained weights, else what diffusers derives from `sample_size`.
        use_additional_conditions: Embed resolution and aspect ratio, as the 1024 px weights of PixArt-alpha do; None
            follows the pretrained weights, else does not. The resolution is that of the image before it was scaled and
            cropped, where a batch says it, the aspect ratio that of what is trained on.
        version: `alpha` (Edgen, too) or `sigma`, which embeds no sizes: which stock pipeline it belongs to.

    Raises:
        UserError: The parts do not fit each other, patches do not fill the image, or a revision is missing.
    """

    roles: Sequence[str] = ()

    def __init__(
        self,
        text_encoder: TextEncoder,
        sample_size: int,
        codec: Codec | None = None,
        text_length: int = 120,
        text_dimension: int | None = None,
        in_channels: int | None = None,
        out_channels: int | None = None,
        patch_size: int = 2,
        layers: int = 28,
        heads: int = 16,
        head_dim: int = 72,
        qk_norm: bool = False,
        gradient_checkpointing: bool = False,
        pretrained: str | None = None,
        revision: str | None = None,
        pretrained_subfolder: str | None = None,
        interpolation_scale: float | None = None,
        use_additional_conditions: bool | None = None,
        version: Literal["alpha", "sigma"] = "alpha",
    ) -> None:
        self.text_encoder = text_encoder
        self.codec: Codec = codec or Pixels()
        self.sample_size, self.patch_size, self.text_length = sample_size, patch_size, text_length
        self.in_channels = self.codec.channels if in_channels is None else in_channels
        self.text_dimension = text_encoder.dimension if text_dimension is None else text_dimension
        self.out_channels = out_channels or self.in_channels
        self.layers, self.heads, self.head_dim = layers, heads, head_dim
        self.qk_norm, self.gradient_checkpointing = qk_norm, gradient_checkpointing
        self.pretrained = Pretrained(pretrained, revision, pretrained_subfolder) if pretrained else None
        self.interpolation_scale = interpolation_scale
        self.use_additional_conditions = use_additional_conditions
        self.version = version
        self._check()

    @property
    def fingerprint(self) -> str:
        """Name the numbers, the pretrained weights and the frozen parts."""
        frozen = (self.qk_norm, self.text_fingerprint, self.codec.fingerprint)
        return network_fingerprint("pixart", self.config(), self.pretrained, *frozen)

    @property
    def text_fingerprint(self) -> str:
        """Name encoder, length and cleaning."""
        return f"{self.text_encoder.fingerprint}-{self.text_length}-lower"

    @property
    def text_encoders(self) -> Mapping[str, FrozenPart]:
        """Name the one encoder."""
        return {"text_encoder": self.text_encoder}

    @property
    def predicts_variance(self) -> bool:
        """Whether the network has outputs for the variance of a step back."""
        return self.out_channels == 2 * self.in_channels

    def verify(self) -> None:
        """Check that the pretrained weights are there.

        Raises:
            ValueError: They are not.
        """
        if self.pretrained:
            self.pretrained.verify()

    def check_image_size(self, image_size_px: int) -> None:
        """Refuse a size other than the one that positions are laid out for.

        Raises:
            UserError: It is another.
        """
        if self.sample_size * self.codec.downscaling != image_size_px:
            raise UserError(
                f"image_size_px {image_size_px} does not fit the network's sample_size {self.sample_size} behind a "
                f"downscaling of {self.codec.downscaling}. Their product must be the image size. "
                f"Write sample_size: {image_size_px // self.codec.downscaling}."
            )

    def tokens(self, size: Size) -> int:
        """Return the number of patches."""
        return patch_tokens(latent_shape(self.codec, size), size, self.patch_size, self.codec.downscaling)

    def text_bytes(self) -> int:
        """Return what the states of a text of full length take."""
        return self.text_length * self.text_encoder.dimension * bytes_per_value(self.text_encoder)

    def encode_text(self, texts: Sequence[str]) -> TextStates:
        """Return token states of the texts in lower case, without space around them: as PixArt was trained."""
        states, mask = self.text_encoder.encode([cleaned(text) for text in texts], self.text_length)
        return TextStates({"text": Tokens(states, mask)})

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        """Pad the texts to one length; add resolution and aspect ratio where the network embeds them."""
        padded = join([states], {"text": self.text_length})
        if not self._embeds_sizes():
            return padded
        sides = torch.tensor(sizes, dtype=torch.float32, device=states.tokens["text"].values.device)
        original = sides if extras.original_size_px is None else extras.original_size_px.to(sides)
        return Condition(padded.tokens, {"resolution": original, "aspect_ratio": sides[:, :1] / sides[:, 1:]})

    def config(self) -> dict[str, Any]:
        """Return the diffusers configuration; values left to pretrained weights are left out."""
        config = self._described()
        if self.interpolation_scale is not None:
            config["interpolation_scale"] = self.interpolation_scale
        return config | {"use_additional_conditions": bool(self.use_additional_conditions)}

    def build(self) -> nn.Module:
        """Make the network, with PixArt's initial weights or pretrained ones."""
        import_diffusers()
        from diffusers import PixArtTransformer2DModel

        from evolvedirector.lightning_modules.families.edgen import QKNormPixArtTransformer2DModel

        model_class: Any = QKNormPixArtTransformer2DModel if self.qk_norm else PixArtTransformer2DModel
        network: Any = model_class(**(self.config() | self._loaded()))
        if self.pretrained is None:
            initialise(network)
        elif not on_meta():
            network.load_state_dict(self.pretrained.weights(self._class_of_weights()))
        if self.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        return cast(nn.Module, network)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """List the transformer blocks."""
        return blocks_of(network, "transformer_blocks")

    def lora_targets(self) -> Sequence[str]:
        """Name the projections of self- and cross-attention."""
        return ("to_q", "to_k", "to_v", "to_out.0")

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Run the network; behind the prediction proper comes the learned variance, where there is one."""
        text = condition.tokens["text"]
        output = network(
            noisy,
            encoder_hidden_states=text.values,
            timestep=time,
            encoder_attention_mask=text.mask,
            added_cond_kwargs=dict(condition.vectors) or None,
            return_dict=False,
        )[0]
        return cast(Tensor, output)

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        """Return the stock PixArt pipeline; call it with `clean_caption=False`, as texts are cleaned here.

        Saved, it is read by `DiffusionPipeline.from_pretrained` where its network is a stock one. With Edgen's it needs
        this package: stock diffusers has no class for its network, and would compute something else.

        Raises:
            UserError: The family draws in pixels, with another encoder than T5 or a codec with a shift, or embeds sizes
                where the stock pipeline gives none: there is no stock pipeline.
        """
        from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline

        if not isinstance(self.text_encoder, T5Encoder) or not isinstance(self.codec, Autoencoder):
            raise no_stock_pipeline("PixArt", (self.text_encoder, self.codec), "T5Encoder and Autoencoder")
        if self._embeds_sizes() and self.sample_size != SIZED:
            raise UserError(
                f"This PixArt embeds sizes at sample_size {self.sample_size}. The stock pipeline gives them to those "
                f"of sample_size {SIZED} alone. Draw with TextToImage.generate instead."
            )
        encoder, tokenizer = self.text_encoder.models()
        autoencoder = self.codec.model()
        if shift := autoencoder.config.shift_factor:
            raise UserError(
                f"The codec shifts latents by {shift}, and this PixArt is trained on shifted ones. The stock pipeline "
                "takes codecs without a shift: it would leave it out. Draw with TextToImage.generate instead."
            )
        pipeline: Any = PixArtSigmaPipeline if self.version == "sigma" else PixArtAlphaPipeline
        return pipeline(tokenizer, encoder, autoencoder, network, scheduler)

    @staticmethod
    def key_map(layout: Layout) -> KeyMap:
        """Return the names that diffusers uses; no others are published.

        Raises:
            ValueError: Another layout is asked for.
        """
        return diffusers_names_only("PixArt", layout)

    def _check(self) -> None:
        if self.sample_size % self.patch_size:
            nearest = max(1, self.sample_size // self.patch_size) * self.patch_size
            raise UserError(
                f"sample_size {self.sample_size} is not a multiple of patch_size {self.patch_size}. Patches must fill "
                f"the image. Write sample_size: {nearest}."
            )
        if self.in_channels != self.codec.channels:
            raise UserError(
                f"The network has in_channels {self.in_channels}, the images have {self.codec.channels} channels "
                f"({'pixels: no codec is set' if isinstance(self.codec, Pixels) else 'latents of the codec'}). "
                f"Both must be the same. Write in_channels: {self.codec.channels}."
            )
        if self.text_dimension != self.text_encoder.dimension:
            raise UserError(
                f"The network has text_dimension {self.text_dimension}, the text encoder gives "
                f"{self.text_encoder.dimension}. Both must be the same. "
                f"Write text_dimension: {self.text_encoder.dimension}."
            )
        if self.version == "sigma" and self.use_additional_conditions:
            raise UserError(
                "use_additional_conditions is true, but PixArt-Sigma embeds no sizes; PixArt-alpha does at 1024 px. "
                "Write use_additional_conditions: false, or version: alpha."
            )

    def _described(self) -> dict[str, Any]:
        return {
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "num_layers": self.layers,
            "cross_attention_dim": self.heads * self.head_dim,
            "sample_size": self.sample_size,
            "patch_size": self.patch_size,
            "caption_channels": self.text_dimension,
        }

    def _embeds_sizes(self) -> bool:
        loaded = self._loaded() if self.use_additional_conditions is None else {}
        return bool(loaded.get("use_additional_conditions", self.use_additional_conditions))

    def _loaded(self) -> dict[str, Any]:
        """Return the config of the pretrained weights, made to agree with the description; nothing without them."""
        if self.pretrained is None:
            return {}
        if self._loaded_config is None:
            self._loaded_config = self._agreed(self.pretrained)
        return self._loaded_config

    _loaded_config: dict[str, Any] | None = None

    def _agreed(self, pretrained: Pretrained) -> dict[str, Any]:
        from diffusers import PixArtTransformer2DModel

        from evolvedirector.lightning_modules.families.edgen import QK_NORM_TYPE

        loaded = pretrained.config(PixArtTransformer2DModel)
        is_qk_norm = loaded.pop("norm_type") == QK_NORM_TYPE
        if is_qk_norm and not self.qk_norm:
            raise UserError(
                f"qk_norm is false, but {pretrained.name!r} was trained with normalised queries and keys. Allowed is "
                "true: without them its weights compute something else. Write qk_norm: true."
            )
        self._weights_have_qk_norm = is_qk_norm
        if loaded["use_additional_conditions"] is None:  # as the class decides
            loaded["use_additional_conditions"] = loaded["sample_size"] == SIZED
        if loaded["use_additional_conditions"] and self.version == "sigma":
            raise UserError(
                f"version is sigma, but {pretrained.name!r} embeds sizes, which PixArt-Sigma does not. Its weights "
                "are those of a PixArt-alpha. Write version: alpha."
            )
        wanted = self._described()
        if self.use_additional_conditions is not None:
            wanted["use_additional_conditions"] = self.use_additional_conditions
        if self.interpolation_scale is not None:  # another resolution, laid out on purpose
            loaded |= {"interpolation_scale": self.interpolation_scale, "sample_size": self.sample_size}
        agree(wanted, loaded, _ARGUMENTS, pretrained.name)
        return loaded

    _weights_have_qk_norm = False

    def _class_of_weights(self) -> Any:
        from diffusers import PixArtTransformer2DModel

        from evolvedirector.lightning_modules.families.edgen import QKNormPixArtTransformer2DModel

        return QKNormPixArtTransformer2DModel if self._weights_have_qk_norm else PixArtTransformer2DModel


def cleaned(text: str) -> str:
    """Return a text as the stock PixArt pipelines hand it to their encoder.

    With `clean_caption=True` and the packages beautifulsoup4 and ftfy they rewrite more (links, HTML, punctuation).

    Args:
        text: A prompt.
    """
    return text.lower().strip()


def initialise(transformer: nn.Module) -> None:
    """Give a PixArt transformer initial weights: Xavier, weak time modulation, silent output.

    With the output layer at zero the first prediction is zero (Peebles & Xie 2022, arXiv:2212.09748). PixArt-alpha
    also silences cross-attention, because it starts from a class-conditional model; from random weights that delays
    the text, so here cross-attention and text projection start at full strength.
    """
    for name, module in transformer.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        if name.startswith("adaln_single"):
            nn.init.normal_(module.weight, std=0.02)
        else:
            nn.init.xavier_uniform_(module.weight.flatten(1))  # a view: a patch embedding is a linear map of patches
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.zeros_(cast(nn.Linear, transformer.proj_out).weight)
