"""The PixArt family: transformers with cross-attention to text and one shared time modulation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn


@dataclass(frozen=True)
class PixArt:
    """Describe a PixArt transformer (Chen et al. 2023, arXiv:2310.00426) by its dimensions.

    In latent space these are the numbers of PixArt-alpha and Edgen (see `pixart_alpha_xl_2`, `edgen`); with
    `in_channels=3` and a patch of 8 the same network draws small pictures in pixel space.

    Args:
        sample_size: side of the image in pixels, or of the latent.
        text_dimension: dimension of the text states.
        in_channels: 3 for pixels, 4 for latents of a Stable Diffusion autoencoder.
        out_channels: None equals `in_channels`; twice as many for a model with learned variance.
        patch_size: side of a patch; (sample_size / patch_size)^2 tokens.
        layers: number of blocks.
        heads: heads per attention.
        head_dim: channels per head; the width of the network is heads x head_dim.
        qk_norm: LayerNorm without parameters on queries and keys, as in Edgen.
        gradient_checkpointing: recompute blocks in the backward pass; saves memory, costs a third more time.
        pretrained: diffusers folder or repository name whose weights are the start; None starts from random ones.
        revision: its git revision; needed for a repository name.

    Raises:
        ValueError: if patches do not fill the image, or a repository is named without revision.
    """

    sample_size: int
    text_dimension: int
    in_channels: int = 3
    out_channels: int | None = None
    patch_size: int = 2
    layers: int = 28
    heads: int = 16
    head_dim: int = 72
    qk_norm: bool = False
    gradient_checkpointing: bool = False
    pretrained: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.sample_size % self.patch_size:
            nearest = max(1, self.sample_size // self.patch_size) * self.patch_size
            raise ValueError(
                f"sample_size {self.sample_size} is not a multiple of patch_size {self.patch_size}. Patches must fill "
                f"the image. Write sample_size: {nearest}."
            )
        if self.pretrained and not Path(self.pretrained).exists() and not self.revision:
            raise ValueError(
                f"pretrained {self.pretrained!r} is no folder here and has no revision. A repository needs one, so "
                f"that a run can be repeated. Write revision: <git hash>, or the path of a diffusers folder."
            )

    def config(self) -> dict[str, Any]:
        """Return the diffusers configuration."""
        return {
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels or self.in_channels,
            "num_layers": self.layers,
            "cross_attention_dim": self.heads * self.head_dim,
            "sample_size": self.sample_size,
            "patch_size": self.patch_size,
            "caption_channels": self.text_dimension,
            "use_additional_conditions": False,
        }

    def build(self) -> nn.Module:
        """Make the transformer, with PixArt's initial weights or pretrained ones."""
        from diffusers import PixArtTransformer2DModel

        from evolvedirector.lightning_modules.families.edgen import QKNormPixArtTransformer2DModel

        model_class: Any = QKNormPixArtTransformer2DModel if self.qk_norm else PixArtTransformer2DModel
        transformer: Any = model_class(**self.config())
        if self.pretrained:
            transformer.load_state_dict(self._pretrained_weights())
        else:
            initialise(transformer)
        if self.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        return cast(nn.Module, transformer)

    def _pretrained_weights(self) -> dict[str, Tensor]:
        from diffusers import PixArtTransformer2DModel

        from evolvedirector.lightning_modules.families.edgen import QK_NORM_TYPE, QKNormPixArtTransformer2DModel

        name = str(self.pretrained)
        config = PixArtTransformer2DModel.load_config(name, revision=self.revision)
        is_qk_norm = config.get("norm_type") == QK_NORM_TYPE
        if is_qk_norm and not self.qk_norm:
            raise ValueError(
                f"qk_norm is false, but {name!r} was trained with normalised queries and keys. Allowed is true: "
                "without them its weights compute something else. Write qk_norm: true."
            )
        source: Any = QKNormPixArtTransformer2DModel if is_qk_norm else PixArtTransformer2DModel
        model = source.from_pretrained(name, revision=self.revision, use_safetensors=True)
        return cast(dict[str, Tensor], model.state_dict())

    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        """List the transformer blocks."""
        return list(cast(nn.ModuleList, transformer.transformer_blocks))

    def predict(self, transformer: nn.Module, noisy: Tensor, time: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Run the transformer and leave out the learned variance, where there is one."""
        output = transformer(
            noisy, encoder_hidden_states=states, timestep=time, encoder_attention_mask=mask, return_dict=False
        )[0]
        return cast(Tensor, output[:, : self.in_channels])


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


def pixart_alpha_xl_2(sample_size: int = 64) -> PixArt:
    """Return the numbers of PixArt-alpha XL/2; `sample_size` 64 is 512 pixels behind an autoencoder of factor 8."""
    return PixArt(sample_size=sample_size, text_dimension=4096, in_channels=4, out_channels=8)


def edgen_xl_2(sample_size: int = 64) -> PixArt:
    """Return the numbers of Edgen: PixArt-alpha XL/2 with normalised queries and keys (arXiv:2410.07133)."""
    return PixArt(sample_size=sample_size, text_dimension=4096, in_channels=4, out_channels=8, qk_norm=True)
