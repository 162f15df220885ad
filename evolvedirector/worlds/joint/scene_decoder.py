"""The decoder of the embedded world: from image embeddings to pictures of 32 px."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evolvedirector.errors import UserError
from evolvedirector.records import ImageRequest
from evolvedirector.worlds.joint.networks import EMBEDDING_DIM
from evolvedirector.worlds.joint.picture import SIZE_PX
from evolvedirector.worlds.joint.space_files import SpaceRecord, load_network, read_record

_BATCH = 64


class SceneDecoder:
    """Draw what image embeddings of a `SceneEmbedder` say: one pass, no noise, no guidance.

    Trained together with the image tower, by regression. It has no text input, so a picture shows what the prior put
    into the embedding and nothing else; and being a regression, it may punish an average of embeddings more than a
    decoder that is itself generative.

    Args:
        folder: Of the space: `evolvedirector assets joint-space` trains it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._network: nn.Module | None = None
        self._device = torch.device("cpu")

    @cached_property
    def record(self) -> SpaceRecord:
        """What the folder says of itself."""
        return read_record(self.folder)

    @property
    def fingerprint(self) -> str:
        """Name the weights."""
        return f"{self.record.fingerprint}/decoder"

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings that it reads."""
        return EMBEDDING_DIM

    @property
    def embedder_fingerprint(self) -> str | None:
        """Fingerprint of the only embedder whose space it reads."""
        return self.record.fingerprint

    def verify(self) -> None:
        """Check that the space is there."""
        read_record(self.folder)

    def to(self, device: Any) -> Any:
        """Move it to a device."""
        self._device = torch.device(device)
        if self._network is not None:
            self._network.to(self._device)

    def decode(
        self,
        embeddings: Tensor,
        negative: Tensor | None,
        requests: Sequence[ImageRequest],
    ) -> list[Tensor]:
        """Draw one uint8 image (3, height, width) per embedding, on the CPU.

        Args:
            embeddings: Float[batch, embedding], raw.
            negative: Refused: there is no guidance here.
            requests: Give the sizes; seeds and prompts change nothing.

        Raises:
            UserError: A negative embedding, embeddings of another width or not finite, or not one request for each.
        """
        if negative is not None:
            raise UserError(
                "The decoder of the embedded world has no guidance, so a negative embedding means nothing to it. "
                "Allowed is none. Leave the negative prompt out."
            )
        if embeddings.shape != (len(requests), EMBEDDING_DIM):
            raise UserError(
                f"The embeddings have shape {tuple(embeddings.shape)} for {len(requests)} images. Allowed is one of "
                f"{EMBEDDING_DIM} values for each. Give those of a prior that was trained on this space."
            )
        if count := len(embeddings) - int(embeddings.isfinite().all(1).sum()):
            raise UserError(
                f"Embeddings have values that are not finite, {count} of {len(embeddings)}. Allowed are numbers. Go on "
                "from an earlier checkpoint of the prior with a lower learning rate."
            )
        if self._network is None:
            self._network = load_network(self.folder, "decoder").to(self._device)
        drawn: list[Tensor] = []
        for start in range(0, len(embeddings), _BATCH):
            given = embeddings[start : start + _BATCH].to(self._device, torch.float32)
            filled = F.pad(given, (0, 0, 0, _BATCH - len(given)))
            with torch.no_grad():
                pixels = self._network(filled)[: len(given)].clamp(-1, 1)
            drawn.extend(((pixels + 1) * 127.5).round().to(torch.uint8).cpu())
        return [_sized(image, request) for image, request in zip(drawn, requests, strict=True)]

    def close(self) -> None:
        """Forget the weights; the next call loads again."""
        self._network = None


def _sized(image: Tensor, request: ImageRequest) -> Tensor:
    size = (request.height_px, request.width_px)
    if size == (SIZE_PX, SIZE_PX):
        return image
    return F.interpolate(image.unsqueeze(0), size, mode="nearest")[0]
