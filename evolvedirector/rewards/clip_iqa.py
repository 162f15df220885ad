"""How good CLIP finds the quality of an image, whatever it shows, as a reward."""

from __future__ import annotations

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.models.model_files import digest_of_model
from evolvedirector.records import digest
from evolvedirector.rewards.clip_reward import ClipReward

_SCALE = 100.0
"""Of the cosines, as CLIP was trained; fixed, so that scores of two CLIPs are of one kind."""


class CLIPIQA(ClipReward):
    """Score an image by whether CLIP finds it nearer to a good photo than to a bad one, 0 to 1.

    CLIP-IQA (Wang et al. 2023, arXiv 2207.12396, eq. 2) as torchmetrics computes it for a CLIP by name: the softmax of
    100 cos(E_image, E_text) over two opposite texts. It stands for low-level quality, as BRISQUE does elsewhere, with
    weights that are published as safetensors under a free licence. The paper leaves out CLIP's position embeddings so
    that images of any size can be read; here they are scaled and cropped as CLIP was trained, so what lies beyond that
    size is not seen. Other texts measure something else: `Sharp photo.` and `Blurry photo.`, say.

    Args:
        model: Folder with safetensors weights, or name on the model hub.
        good: The text at the good end.
        bad: Its opposite.
        revision: Branch, tag or commit on the hub; None is its main branch.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.
        batch_size: Images scored together.

    Raises:
        UserError: Two equal texts, or a batch size below 1.
    """

    def __init__(
        self,
        model: str = "openai/clip-vit-large-patch14",
        good: str = "Good photo.",
        bad: str = "Bad photo.",
        revision: str | None = None,
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        if good == bad:
            raise UserError(
                f"good and bad are both {good!r}. Allowed are two texts that mean opposites, or every image scores "
                "0.5. Write `good: Good photo.` and `bad: Bad photo.`"
            )
        self.good = good
        self.bad = bad
        super().__init__(model, revision, device, batch_size)

    @property
    def fingerprint(self) -> str:
        """Name the model, its weights and the texts; neither path nor device."""
        source = self._clip.source()
        return f"clip-iqa-1/{source.short_name}/{digest(digest_of_model(source), self.good, self.bad)}"

    def _values(self, images: list[Tensor], prompts: list[str]) -> Tensor:
        clip = self._clip.get()
        shown, said = clip.shown(images), clip.said([self.good, self.bad])
        cosines = torch.nn.functional.cosine_similarity(shown[:, None], said[None], dim=-1)  # [n 2]
        return (_SCALE * cosines).softmax(-1)[:, 0].cpu()
