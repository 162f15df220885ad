"""How close CLIP finds an image to its prompt, as a reward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from evolvedirector.models.model_files import ModelSettings, ModelSource, digest_of_model
from evolvedirector.models.model_loading import load_model, place_of
from evolvedirector.models.on_demand import MemoryGuard, ModelOnDemand
from evolvedirector.records import ImageAndPrompt, Score, digest
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import decode_image


class CLIPScore:
    """Score an image by its cosine to its prompt in CLIP's space, in percent.

    CLIPScore (Hessel et al. 2021, arXiv 2104.08718, eq. 1) as torchmetrics computes it:
    max(100 cos(E_image, E_prompt), 0), one value per image, 0 to 100. It is fast and knows styles and objects; it can
    neither count nor tell a red circle and a blue square from a blue circle and a red square, as `VQAScore` can.
    Prompts beyond the model's length are cut.

    Args:
        model: Folder with safetensors weights, or name on the model hub, such as `openai/clip-vit-large-patch14`.
        revision: Branch, tag or commit on the hub; None is its main branch.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.
        batch_size: Images scored together.

    Raises:
        ValueError: A batch size below 1.
    """

    def __init__(
        self, model: str, revision: str | None = None, device: str | None = None, batch_size: int = 32
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}. Allowed is 1 or more. Write `batch_size: 32`.")
        self.model = model
        self.revision = revision
        self.device = device
        self.batch_size = batch_size
        self._clip = ModelOnDemand(ModelSettings(model, revision, "float32", device=device), _CLIP)
        self._guard = MemoryGuard(
            self._scores, self._lost, f"Allowed is what it holds. Write a batch_size under {batch_size}."
        )
        self._fingerprint = ""

    @property
    def fingerprint(self) -> str:
        """Name the model and its weights; neither path nor device."""
        if not self._fingerprint:
            source = self._clip.source()
            self._fingerprint = f"clip-score-1/{source.short_name}/{digest(digest_of_model(source))}"
        return self._fingerprint

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item, batch by batch; nan for what is no image.

        Args:
            items: Encoded images of any size with their prompts.

        Raises:
            ValueError: There is no such model, or one batch does not fit the memory.
        """
        for start in range(0, len(items), self.batch_size):
            yield from self._guard.run(items[start : start + self.batch_size])

    def verify(self) -> None:
        """Check, without loading weights, that the model exists and has safetensors weights.

        Raises:
            ValueError: With what is wrong and what to write.
        """
        self._clip.checked_source()

    def estimated_bytes(self) -> int | None:
        """Estimate the memory of the weights from the headers of their files; None if they are not here yet.

        Raises:
            ValueError: There is no such model.
        """
        return self._clip.estimated_bytes()

    def close(self) -> None:
        """Free the model's memory; the next score loads it again."""
        self._clip.close()

    def _scores(self, items: Sequence[ImageAndPrompt]) -> list[Score]:
        found, images = {}, {}
        for place, item in enumerate(items):
            try:
                images[place] = torch.from_numpy(decode_image(item.image).copy()).permute(2, 0, 1)
            except (StoreError, ValueError) as error:
                found[place] = Score(item.item_id, math.nan, f"it is no image that can be read: {error}")
        if images:
            values = self._clip.get().cosines(list(images.values()), [items[place].prompt for place in images])
            for place, value in zip(images, values.tolist(), strict=True):
                found[place] = Score(items[place].item_id, max(100.0 * value, 0.0))
        return [found[place] for place in range(len(items))]

    def _lost(self, item: ImageAndPrompt) -> Score:
        return Score(item.item_id, math.nan, "it does not fit the memory beside the model")


class _CLIP:
    """A CLIP model with its processor."""

    def __init__(self, source: ModelSource, settings: ModelSettings) -> None:
        from transformers import CLIPModel, CLIPProcessor

        self._model: Any = load_model(CLIPModel.from_pretrained, source, settings)
        load: Any = CLIPProcessor.from_pretrained
        self._processor = load(place_of(source), revision=settings.revision)

    def cosines(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """Return the cosine of each image to its prompt, [n], on the CPU.

        Args:
            images: uint8, [3 h w] each.
            prompts: As many.
        """
        # cut here: the model's end sign, at which CLIP reads a text's meaning, must stay
        most = self._model.config.text_config.max_position_embeddings
        words = self._processor(text=list(prompts), return_tensors="pt", padding=True, truncation=True, max_length=most)
        pixels = self._processor(images=list(images), return_tensors="pt")["pixel_values"]
        device = self._model.device
        with torch.inference_mode():
            # of transformers 5 features come inside of an output object
            shown = self._model.get_image_features(pixels.to(device)).pooler_output
            mask = words["attention_mask"].to(device)
            said = self._model.get_text_features(words["input_ids"].to(device), attention_mask=mask).pooler_output
        return torch.nn.functional.cosine_similarity(shown.float(), said.float()).cpu()
