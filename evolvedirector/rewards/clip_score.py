"""How close CLIP finds an image to its prompt, as a reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from evolvedirector.models.model_files import ModelSettings, digest_of_model
from evolvedirector.models.on_demand import ModelOnDemand
from evolvedirector.records import ImageAndPrompt, Score, digest
from evolvedirector.rewards.clip_pair import ClipPair
from evolvedirector.rewards.image_batches import ImageBatches


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
        UserError: A batch size below 1.
    """

    def __init__(
        self, model: str, revision: str | None = None, device: str | None = None, batch_size: int = 32
    ) -> None:
        self.model = model
        self.revision = revision
        self.device = device
        self.batch_size = batch_size
        self._clip = ModelOnDemand(ModelSettings(model, revision, "float32", device=device), ClipPair)
        self._batches = ImageBatches(self._values, batch_size)
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
        """Estimate the memory of the weights from the headers of their files; None if they are not here yet.

        Raises:
            UserError: There is no such model.
        """
        return self._clip.estimated_bytes()

    def close(self) -> None:
        """Free the model's memory; the next score loads it again."""
        self._clip.close()

    def _values(self, images: list[Tensor], prompts: list[str]) -> Tensor:
        return (100.0 * self._clip.get().cosines(images, prompts)).clamp(min=0.0)
