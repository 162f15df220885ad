"""Text-to-image by ECLIPSE and Kandinsky 2.2 in one call, for users of diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel, VQModel
from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

from evolvedirector.errors import UserError
from evolvedirector.models.eclipse_prior_pipeline import (
    EclipsePriorPipeline,
    Generators,
    check_prior,
    refuse_meaningless,
)


class EclipseKandinskyPipeline(DiffusionPipeline):
    """Draw prompts with an `EclipsePrior` and the decoder of Kandinsky 2.2.

    It is `EclipsePriorPipeline` and `KandinskyV22Pipeline` behind each other, one generator through both, as the paper
    evaluates them (Patel et al. 2024, arXiv:2312.04655): one forward pass of the prior, its raw answer, 50 decoder
    steps with guidance 7.5 away from the embedding of an image of zeros.

    Example:
        ```python
        pipeline = EclipseKandinskyPipeline.from_pretrained(
            "kandinsky-community/kandinsky-2-2-decoder",
            prior=EclipsePrior.from_pretrained("export/transformer"),
            text_encoder=CLIPTextModelWithProjection.from_pretrained(bigg, projection_dim=1280),
            tokenizer=CLIPTokenizer.from_pretrained(bigg),
            image_encoder=CLIPVisionModelWithProjection.from_pretrained(prior_of_kandinsky, subfolder="image_encoder"),
        )
        ```

    Args:
        prior: The network.
        text_encoder: `CLIPTextModelWithProjection` of CLIP bigG, with a projection to 1280.
        tokenizer: Its tokenizer.
        image_encoder: `CLIPVisionModelWithProjection` of the same CLIP.
        unet: Of the decoder.
        scheduler: Likewise.
        movq: Likewise.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->prior->unet->movq"  # type: ignore[assignment]  # None in the base

    def __init__(  # diffusers checks what is loaded against these annotations
        self,
        prior: nn.Module,
        text_encoder: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        image_encoder: CLIPVisionModelWithProjection,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler | DDPMScheduler,
        movq: VQModel,
    ) -> None:
        super().__init__()
        self.register_modules(
            **{"prior": prior, "text_encoder": text_encoder, "tokenizer": tokenizer, "image_encoder": image_encoder},
            **{"unet": unet, "scheduler": scheduler, "movq": movq},
        )
        check_prior(prior)
        check_widths(prior, unet)
        self.set_progress_bar_config()

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        height: int = 512,
        width: int = 512,
        decoder_steps: int = 50,
        decoder_guidance_scale: float = 7.5,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        output_type: str = "pil",
        **meaningless: Any,
    ) -> Any:
        """Draw images; the arguments of the decoder carry its name, because the prior has no steps and no guidance.

        Args:
            prompt: One text or several.
            negative_prompt: See `EclipsePriorPipeline`.
            height: Of the images, in pixels; rounded up to a multiple of 64 by the decoder.
            width: Likewise.
            decoder_steps: Scheduler steps.
            decoder_guidance_scale: 1 is none.
            num_images_per_prompt: Images of one prompt.
            generator: Of all noise; one, or one per image. None: the global one.
            output_type: `pil`, `np`, `pt` or `latent`.
            meaningless: Nothing: what else the stock pipelines take is refused.

        Returns:
            `ImagePipelineOutput` with `images`.

        Raises:
            UserError: An argument means nothing here.
        """
        for name, instead in (("num_inference_steps", "decoder_steps"), ("guidance_scale", "decoder_guidance_scale")):
            if name in meaningless:
                raise UserError(
                    f"{name} was given, and could be the prior's, which has none. Allowed is {instead}, that of the "
                    f"decoder. Write {instead} instead."
                )
        refuse_meaningless(meaningless)
        first = EclipsePriorPipeline(self.prior, self.text_encoder, self.tokenizer, self.image_encoder)
        found = first(prompt, negative_prompt, num_images_per_prompt, generator)
        second = KandinskyV22Pipeline(self.unet, self.scheduler, self.movq)
        second.set_progress_bar_config(**self._progress_bar_config)
        drawn = second(
            image_embeds=found.image_embeds,
            negative_image_embeds=found.negative_image_embeds,
            height=height,
            width=width,
            num_inference_steps=decoder_steps,
            guidance_scale=decoder_guidance_scale,
            generator=generator,
            output_type=output_type,
        )
        self.maybe_free_model_hooks()
        return drawn


def check_widths(prior: Any, unet: Any) -> None:
    """Refuse a prior that answers in another space than the decoder reads.

    Args:
        prior: The network.
        unet: Of the decoder.

    Raises:
        UserError: The widths differ.
    """
    if prior.config.embedding_dim != unet.config.encoder_hid_dim:
        raise UserError(
            f"The prior answers in width {prior.config.embedding_dim}, but the decoder reads "
            f"{unet.config.encoder_hid_dim}. Allowed is a prior that was trained for this decoder: 1280 for Kandinsky "
            "2.2, 768 for Karlo. Take the other prior."
        )
