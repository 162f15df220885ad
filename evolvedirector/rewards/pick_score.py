"""PickScore: which image people picked, as a reward."""

from __future__ import annotations

from torch import Tensor

from evolvedirector.models.model_files import ModelSettings, ModelSource, digest_of_model
from evolvedirector.records import digest
from evolvedirector.rewards.clip_pair import ClipPair
from evolvedirector.rewards.clip_reward import ClipReward


class PickScore(ClipReward):
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
        self.processor = processor
        super().__init__(model, revision, device, batch_size, self._load)

    @property
    def fingerprint(self) -> str:
        """Name the model and its weights; neither path nor device."""
        source = self._clip.source()
        return f"pick-score-1/{source.short_name}/{digest(digest_of_model(source))}"

    def _load(self, source: ModelSource, settings: ModelSettings) -> ClipPair:
        return ClipPair(source, settings, self.processor)

    def _values(self, images: list[Tensor], prompts: list[str]) -> Tensor:
        clip = self._clip.get()
        return clip.scale * clip.cosines(images, prompts)
