"""How pleasing people find images like this one, whatever their prompt, as a reward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evolvedirector.models.model_files import digest_of_model
from evolvedirector.records import digest
from evolvedirector.rewards.clip_reward import ClipReward
from evolvedirector.rewards.published_weights import digest_of_file, load_renamed, weights_file

_PUBLISHED = "sac+logos+ava1-l14-linearMSE.pth"


class AestheticScore(ClipReward):
    """Score an image by LAION's aesthetic head over CLIP's image vector, about 1 to 10.

    A stack of linear layers over the normalised vector of CLIP ViT-L/14, trained on ratings of pictures (Schuhmann et
    al. 2022, arXiv 2210.08402, "LAION-Aesthetics V2"). The prompt plays no part. The head is published pickled: save it
    as safetensors once, the error for a missing file says how.

    Args:
        head: `model.safetensors` with the head's weights, or its folder.
        model: The CLIP that the head was trained over: name on the model hub, or folder with safetensors weights.
        revision: Branch, tag or commit of the model on the hub; None is its main branch.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.
        batch_size: Images scored together.

    Raises:
        UserError: A batch size below 1.
    """

    def __init__(
        self,
        head: str,
        model: str = "openai/clip-vit-large-patch14",
        revision: str | None = None,
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        self.head = head
        super().__init__(model, revision, device, batch_size)
        self._layers: nn.Module | None = None

    @property
    def fingerprint(self) -> str:
        """Name both weights; neither path nor device."""
        source = self._clip.source()
        return f"aesthetic-score-1/{source.short_name}/{digest(digest_of_model(source), digest_of_file(self._file()))}"

    def verify(self) -> None:
        """Check that CLIP and head are there as safetensors.

        Raises:
            UserError: With what is wrong and what to write.
        """
        self._file()
        super().verify()

    def close(self) -> None:
        """Free the memory; the next score loads again."""
        self._layers = None
        super().close()

    def _file(self) -> Any:
        return weights_file(self.head, "AestheticScore", _PUBLISHED)

    def _values(self, images: list[Tensor], prompts: list[str]) -> Tensor:
        vectors = nn.functional.normalize(self._clip.get().shown(images), dim=-1)
        if self._layers is None:
            layers = rating_head(vectors.shape[1])
            load_renamed(
                layers, self._file(), lambda w: {k.removeprefix("layers."): v for k, v in w.items()}, "the head"
            )
            self._layers = layers.to(vectors.device).eval().requires_grad_(False)
        with torch.inference_mode():
            return self._layers(vectors)[:, 0].cpu()


def rating_head(width: int) -> nn.Sequential:
    """Return linear layers that turn a vector into one rating; ImageReward's head is of the same form.

    Numbered as in the published files, where dropout (nothing at evaluation) stands between them.

    Args:
        width: Values of the vector.
    """
    return nn.Sequential(
        nn.Linear(width, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2), nn.Linear(128, 64),
        nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1),
    )  # fmt: skip
