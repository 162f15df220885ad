"""How close CLIP finds an image to its prompt, as a reward."""

from __future__ import annotations

from torch import Tensor

from evolvedirector.models.model_files import digest_of_model
from evolvedirector.records import digest
from evolvedirector.rewards.clip_reward import ClipReward


class CLIPScore(ClipReward):
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
        super().__init__(model, revision, device, batch_size)
        self._fingerprint = ""

    @property
    def fingerprint(self) -> str:
        """Name the model and its weights; neither path nor device."""
        if not self._fingerprint:
            source = self._clip.source()
            self._fingerprint = f"clip-score-1/{source.short_name}/{digest(digest_of_model(source))}"
        return self._fingerprint

    def _values(self, images: list[Tensor], prompts: list[str]) -> Tensor:
        return (100.0 * self._clip.get().cosines(images, prompts)).clamp(min=0.0)
