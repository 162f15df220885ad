"""PixArt with normalised queries and keys, as Edgen trains it."""

from __future__ import annotations

from typing import Any, cast

from diffusers import (
    ModelMixin,  # noqa: F401 - where a saved pipeline names this module, diffusers looks for its loading methods here
    PixArtTransformer2DModel,
)
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from torch import nn

from evolvedirector.errors import UserError

QK_NORM_TYPE = "ada_norm_single_qk_layer_norm"


class QKNormPixArtTransformer2DModel(PixArtTransformer2DModel):
    """PixArt with a parameter-free LayerNorm on queries and keys of every self- and cross-attention head.

    The norm keeps attention logits bounded, which is what makes training on generated images stable
    (Zhao et al. 2024, arXiv:2410.07133, appendix). It adds no keys, so a stock PixArt would load these weights and
    compute something else. Hence an exported config says `norm_type: ada_norm_single_qk_layer_norm`: the stock class
    raises at that value. A saved pipeline names this module, too: after `import` of it,
    `DiffusionPipeline.from_pretrained` reads the folder; without, diffusers refuses it.

    Args:
        num_attention_heads: heads per attention.
        attention_head_dim: channels per head.
        in_channels: input channels.
        out_channels: output channels; None equals `in_channels`.
        num_layers: number of blocks.
        dropout: dropout inside the blocks.
        norm_num_groups: unused by PixArt; kept so that configs are interchangeable.
        cross_attention_dim: dimension of the projected text states.
        attention_bias: whether the attention projections have a bias.
        sample_size: side of the input, in latent pixels.
        patch_size: side of a patch.
        activation_fn: activation of the feed-forward layers.
        num_embeds_ada_norm: number of timesteps known to the norm.
        upcast_attention: whether attention runs in fp32.
        norm_type: must keep its value; it tells this class from the stock one.
        norm_elementwise_affine: whether the block norms have parameters.
        norm_eps: epsilon of the block norms.
        interpolation_scale: scale of the position embedding; None follows the sample size.
        use_additional_conditions: whether size and aspect are embedded; None: only for `sample_size` 128.
        caption_channels: dimension of the text states.
        attention_type: kind of attention, see diffusers.

    Raises:
        UserError: for another `norm_type`.
    """

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        in_channels: int = 4,
        out_channels: int | None = 8,
        num_layers: int = 28,
        dropout: float = 0.0,
        norm_num_groups: int = 32,
        cross_attention_dim: int | None = 1152,
        attention_bias: bool = True,
        sample_size: int = 128,
        patch_size: int = 2,
        activation_fn: str = "gelu-approximate",
        num_embeds_ada_norm: int | None = 1000,
        upcast_attention: bool = False,
        norm_type: str = QK_NORM_TYPE,
        norm_elementwise_affine: bool = False,
        norm_eps: float = 1e-6,
        interpolation_scale: int | None = None,
        use_additional_conditions: bool | None = None,
        caption_channels: int | None = None,
        attention_type: str | None = "default",
    ) -> None:
        if norm_type != QK_NORM_TYPE:
            raise UserError(
                f"norm_type is {norm_type!r}, which is not a QK-norm transformer. Allowed: {QK_NORM_TYPE!r}. "
                f"Load this folder with diffusers.PixArtTransformer2DModel."
            )
        super().__init__(
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=num_layers,
            dropout=dropout,
            norm_num_groups=norm_num_groups,
            cross_attention_dim=cross_attention_dim,
            attention_bias=attention_bias,
            sample_size=sample_size,
            patch_size=patch_size,
            activation_fn=activation_fn,
            num_embeds_ada_norm=num_embeds_ada_norm,
            upcast_attention=upcast_attention,
            norm_type="ada_norm_single",
            norm_elementwise_affine=norm_elementwise_affine,
            norm_eps=norm_eps,
            interpolation_scale=interpolation_scale,
            use_additional_conditions=use_additional_conditions,
            caption_channels=caption_channels,
            attention_type=attention_type,
        )
        model = cast(Any, self)  # diffusers' lazy imports hide its bases from type checkers
        model.register_to_config(norm_type=QK_NORM_TYPE)  # the parent has just written its own value
        for module in model.modules():
            if isinstance(module, Attention):
                module.norm_q = nn.LayerNorm(attention_head_dim, eps=1e-6, elementwise_affine=False)
                module.norm_k = nn.LayerNorm(attention_head_dim, eps=1e-6, elementwise_affine=False)
