"""How close CLIP finds an image to its prompt, as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evolvedirector.models.model_files import ModelSettings, ModelSource
from evolvedirector.models.model_loading import load_model, place_of
from evolvedirector.models.on_demand import ModelOnDemand
from evolvedirector.rewards.reward import check_scorable


class CLIPScore:
    """Score an image by its cosine to its prompt in CLIP's space, in percent.

    CLIPScore (Hessel et al. 2021, arXiv 2104.08718, eq. 1) as torchmetrics computes it:
    max(100 cos(E_image, E_prompt), 0), one value per image. It is fast and knows styles and objects; it can neither
    count nor tell a red circle and a blue square from a blue circle and a red square, as `VQAScore` can.

    Args:
        model: Folder with safetensors weights, or name on the model hub, such as `openai/clip-vit-large-patch14`.
        revision: Branch, tag or commit on the hub; None is its main branch.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.
    """

    def __init__(self, model: str, revision: str | None = None, device: str | None = None) -> None:
        self.model = model
        self.revision = revision
        self.device = device
        self._clip = ModelOnDemand(ModelSettings(model, revision, "float32", device=device), _CLIP)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return one score per image on the CPU, 0 to 100; prompts beyond the model's length are cut.

        Args:
            images: uint8, [n 3 h w], on any device.
            prompts: One per image.

        Raises:
            ValueError: Images of another type or shape, another number of prompts, or no such model.
        """
        check_scorable(images, prompts)
        if len(images) == 0:
            return torch.zeros(0)
        from torchmetrics.functional.multimodal import clip_score

        clip = self._clip.get()
        parts: Any = (clip, clip.inputs)  # it names the library's classes, and calls what these two have
        with torch.inference_mode():
            # one at a time: the metric returns the mean of what it is given
            scores = [
                clip_score(image.to(clip.device), prompt, lambda: parts)
                for image, prompt in zip(images, prompts, strict=True)
            ]
        return torch.stack(scores).float().cpu()

    def verify(self) -> None:
        """Check, without loading weights, that the model exists and has safetensors weights.

        Raises:
            ValueError: With what is wrong and what to write.
        """
        self._clip.checked_source()

    def close(self) -> None:
        """Free the model's memory; the next score loads it again."""
        self._clip.close()


class _CLIP:
    """Model and processor as torchmetrics calls them: features are tensors, and long texts keep their end sign.

    Of transformers 5 the model returns features inside of an output object; and the metric itself would cut off the
    end sign of a long text, at which CLIP reads the text's meaning.
    """

    def __init__(self, source: ModelSource, settings: ModelSettings) -> None:
        from transformers import CLIPModel, CLIPProcessor

        self._model: Any = load_model(CLIPModel.from_pretrained, source, settings)
        self.device: torch.device = self._model.device
        load: Any = CLIPProcessor.from_pretrained
        self._processor = load(place_of(source), revision=settings.revision)
        self.config = self._model.config

    def to(self, device: torch.device) -> _CLIP:
        """Stay: the images were brought to the model."""
        return self

    def inputs(self, **given: Any) -> Any:
        """Make the model's inputs of texts or images."""
        if "text" in given:
            given |= {"truncation": True, "max_length": self.config.text_config.max_position_embeddings}
        return self._processor(**given)

    def get_image_features(self, pixels: Tensor) -> Tensor:
        """Project images, [n 3 h w], into the common space, [n d]."""
        features: Tensor = self._model.get_image_features(pixels).pooler_output
        return features

    def get_text_features(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Project texts, [n l] with their mask, into the common space, [n d]."""
        features: Tensor = self._model.get_text_features(tokens, attention_mask=mask).pooler_output
        return features
