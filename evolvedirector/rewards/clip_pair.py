"""A CLIP model with its processor: images and prompts as vectors in one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evolvedirector.models.model_files import ModelSettings, ModelSource
from evolvedirector.models.model_loading import load_model, place_of, readable_errors


class ClipPair:
    """Both towers of a CLIP, loaded from safetensors.

    Args:
        source: Where the model comes from.
        settings: How its weights are held.
        processor: Folder or hub name of the processor, where the model's own place has none. None: the model's place.
        model: A model that was loaded already. None: it is loaded from `source`.
    """

    def __init__(
        self, source: ModelSource, settings: ModelSettings, processor: str | None = None, model: Any = None
    ) -> None:
        from transformers import CLIPModel, CLIPProcessor

        self.model: Any = load_model(CLIPModel.from_pretrained, source, settings) if model is None else model
        load: Any = CLIPProcessor.from_pretrained
        with readable_errors(processor or source.model):
            revision = settings.revision if processor is None else None
            self._processor = load(processor or place_of(source), revision=revision)

    @property
    def scale(self) -> float:
        """Return exp of the learned temperature."""
        return float(self.model.logit_scale.exp())

    def shown(self, images: Sequence[Tensor]) -> Tensor:
        """Return the vectors of images, [n d].

        Args:
            images: uint8, [3 h w] each.
        """
        pixels = self._processor(images=list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():  # of transformers 5 features come inside of an output object
            return self.model.get_image_features(pixels.to(self.model.device)).pooler_output.float()

    def said(self, prompts: Sequence[str]) -> Tensor:
        """Return the vectors of prompts, [n d].

        Args:
            prompts: Cut at the model's length, with the end sign, at which CLIP reads a text's meaning.
        """
        most = self.model.config.text_config.max_position_embeddings
        words = self._processor(text=list(prompts), return_tensors="pt", padding=True, truncation=True, max_length=most)
        device = self.model.device
        mask = words["attention_mask"].to(device)
        with torch.inference_mode():
            found = self.model.get_text_features(words["input_ids"].to(device), attention_mask=mask)
        return found.pooler_output.float()

    def cosines(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """Return the cosine of each image to its prompt, [n], on the CPU.

        Args:
            images: uint8, [3 h w] each.
            prompts: As many.
        """
        return torch.nn.functional.cosine_similarity(self.shown(images), self.said(prompts)).cpu()
