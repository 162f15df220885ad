"""The first half of text-to-image by ECLIPSE, as diffusers pipelines are used: prompts in, image embeddings out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.kandinsky.pipeline_kandinsky_prior import KandinskyPriorPipelineOutput
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

from evolvedirector.errors import UserError
from evolvedirector.models.zero_image import zero_image_embedding

Generators = torch.Generator | list[torch.Generator] | None
_MEANINGLESS = {
    "num_inference_steps": "The prior answers in one forward pass and has no steps",
    "prior_num_inference_steps": "The prior answers in one forward pass and has no steps",
    "guidance_scale": "The prior is not guided: it answers in one forward pass and was trained without dropped texts",
    "prior_guidance_scale": "The prior is not guided: it answers in one forward pass, trained without dropped texts",
    "latents": "The prior has no latents: its noise is an input that it hardly heeds, drawn from the generator",
    "prior_latents": "The prior has no latents: its noise is an input that it hardly heeds, drawn from the generator",
}


class EclipsePriorPipeline(DiffusionPipeline):
    """Turn prompts into image embeddings with an `EclipsePrior`, for `KandinskyV22Pipeline` and its relatives.

    It stands where `KandinskyV22PriorPipeline` stands: its output goes into the decoder for text, image-to-image,
    inpainting or ControlNet. There is one forward pass, and the embedding is what the prior answers, neither scaled nor
    shifted (`clip_mean` and `clip_std` of such weights are zeros, with which the stock pipeline would return zeros).
    Arguments of the stock pipeline that mean nothing to this prior are refused (Patel et al. 2024, arXiv:2312.04655).

    Args:
        prior: The network.
        text_encoder: A `CLIPTextModelWithProjection`: for Kandinsky 2.2 that of CLIP bigG, for Karlo that of CLIP L.
        tokenizer: Its tokenizer.
        image_encoder: A `CLIPVisionModelWithProjection` of the same CLIP, for the negative embedding. None: the output
            has no negative embedding unless the call has a negative prompt.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->prior"  # type: ignore[assignment]  # None in the base
    _optional_components = ["image_encoder"]  # noqa: RUF012 - diffusers reads a list

    def __init__(  # diffusers checks what is loaded against these annotations
        self,
        prior: nn.Module,
        text_encoder: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        image_encoder: CLIPVisionModelWithProjection | None = None,
    ) -> None:
        super().__init__()
        check_prior(prior)
        self.register_modules(prior=prior, text_encoder=text_encoder, tokenizer=tokenizer, image_encoder=image_encoder)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        **meaningless: Any,
    ) -> KandinskyPriorPipelineOutput:
        """Return an embedding per image, and what guidance of the decoder leads away from.

        Args:
            prompt: One text or several.
            negative_prompt: Guide the decoder away from the prior's answer to this, one text or one per prompt. None:
                from the embedding of an image of zeros, as in the paper.
            num_images_per_prompt: Embeddings of one prompt, which differ by their noise.
            generator: Of the noise; one, or one per image. None: the global one.
            meaningless: Nothing: what else the stock pipelines take is refused.

        Raises:
            UserError: An argument means nothing here.
        """
        refuse_meaningless(meaningless)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        texts = [text for text in prompts for _ in range(num_images_per_prompt)]
        away = None if negative_prompt is None else _one_for_each(negative_prompt, len(prompts), num_images_per_prompt)
        embeddings = self._answer(texts, generator)
        negative: Any = self._negative(away, generator, embeddings)
        return KandinskyPriorPipelineOutput(embeddings, negative)  # None where there is nothing to lead away from

    def _answer(self, texts: list[str], generator: Generators) -> Tensor:
        """Return the prior's one answer to each text."""
        tokenizer, encoder, prior = self.tokenizer, self.text_encoder, self.prior
        device, dtype = self._execution_device, prior.dtype
        length = tokenizer.model_max_length
        tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        mask = tokens.attention_mask.to(device)
        found = encoder(input_ids=tokens.input_ids.to(device), attention_mask=mask)  # as the embedder of its training
        answer: Tensor = prior(
            randn_tensor((len(texts), prior.config.embedding_dim), generator=generator, device=device, dtype=dtype),
            found.text_embeds.to(dtype),
            found.last_hidden_state.to(dtype),
            mask.bool(),
        )
        return answer

    def _negative(self, texts: list[str] | None, generator: Generators, like: Tensor) -> Tensor | None:
        if texts is not None:
            return self._answer(texts, generator)
        if self.image_encoder is None:
            return None
        return zero_image_embedding(self.image_encoder).to(like).expand(len(like), -1)


def _one_for_each(negative_prompt: str | Sequence[str], prompts: int, images: int) -> list[str]:
    """Return a negative prompt for each image of each prompt."""
    given = [negative_prompt] * prompts if isinstance(negative_prompt, str) else list(negative_prompt)
    if len(given) not in (1, prompts) or not given:
        raise UserError(
            f"There are {len(given)} negative prompts for {prompts} prompt{'s' * (prompts != 1)}. Allowed is one, or "
            "one per prompt. Write negative_prompt='blurred', say."
        )
    return [text for text in given * (prompts // len(given)) for _ in range(images)]


def refuse_meaningless(given: dict[str, Any]) -> None:
    """Refuse arguments that the stock prior pipelines take and this prior could only ignore.

    Args:
        given: By name.

    Raises:
        UserError: There are any.
    """
    for name in given:
        why = _MEANINGLESS.get(name, f"There is no argument {name}")
        raise UserError(
            f"{why}, but {name} was given. Allowed are prompt, negative_prompt, num_images_per_prompt and generator, "
            f"and what the decoder takes. Leave {name} out, or hand it to the decoder."
        )


def check_prior(prior: Any) -> None:
    """Refuse a network that does not answer a text in one forward pass.

    Args:
        prior: The network.

    Raises:
        UserError: It is a diffusion prior, or reads more than text.
    """
    config = prior.config
    if config.get("added_emb_type") != "prd_of_eclipse" or config.get("reads_time"):
        raise UserError(
            f"The prior is a {type(prior).__name__} that is sampled in steps. Allowed is an EclipsePrior without "
            "reads_time, which answers in one forward pass. For a diffusion prior of diffusers take "
            "KandinskyV22PriorPipeline; for our baseline of one, `evolvedirector generate`."
        )
    if config.get("reads_edges"):
        raise UserError(
            "The prior reads the embedding of an edge image (reads_edges), and this pipeline has none. Allowed is a "
            "prior that reads text alone. Draw with `evolvedirector generate`, or call the prior itself."
        )
