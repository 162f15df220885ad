"""PickScore: which image people picked, as a reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from evolvedirector.models.model_files import ModelSettings, ModelSource, digest_of_model
from evolvedirector.models.on_demand import ModelOnDemand
from evolvedirector.records import ImageAndPrompt, Score, digest
from evolvedirector.rewards.clip_pair import ClipPair
from evolvedirector.rewards.image_batches import ImageBatches


class PickScore:
    """Score an image by a CLIP that was trained on half a million choices of people.

    PickScore (Kirstain et al. 2023, arXiv 2305.01569, section 3): exp(t) cos(E_prompt, E_image) with the learned
    temperature t; about 18 to 24. The difference of two images of one prompt is the logit of the first being picked.

    Args:
        model: Name on the model hub, or folder with safetensors weights.
        processor: Name or folder of its tokenizer and image processor. None: those in the model's own place.
        revision: Branch, tag or commit of the model on the hub; None is its main branch.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.
        batch_size: Images scored together.

    Raises:
        UserError: A batch size below 1.
    """

    def __init__(
        self,
        model: str = "yuvalkirstain/PickScore_v1",
        processor: str | None = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        revision: str | None = None,
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        self.model = model
        self.processor = processor
        self.revision = revision
        self.device = device
        self.batch_size = batch_size
        self._clip = ModelOnDemand(ModelSettings(model, revision, "float32", device=device), self._load)
        self._batches = ImageBatches(self._values, batch_size)

    @property
    def fingerprint(self) -> str:
        """Name the model and its weights; neither path nor device."""
        source = self._clip.source()
        return f"pick-score-1/{source.short_name}/{digest(digest_of_model(source))}"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item, batch by batch; nan for what is no image.

        Args:
            items: Encoded images of any size with their prompts.

        Raises:
            UserError: There is no such model, or one batch does not fit the memory.
        """
        return self._batches.score(items)

    def verify(self) -> None:
        """Check, without loading weights, that the model exists and has safetensors weights.

        Raises:
            UserError: With what is wrong and what to write.
        """
        self._clip.checked_source()

    def estimated_bytes(self) -> int | None:
        """Estimate the memory of the weights from the headers of their files; None if they are not here yet."""
        return self._clip.estimated_bytes()

    def close(self) -> None:
        """Free the model's memory; the next score loads it again."""
        self._clip.close()

    def _load(self, source: ModelSource, settings: ModelSettings) -> ClipPair:
        return ClipPair(source, settings, self.processor)

    def _values(self, images: list[Tensor], prompts: list[str]) -> Tensor:
        clip = self._clip.get()
        return clip.scale * clip.cosines(images, prompts)
