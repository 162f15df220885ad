"""The joint embedding of the embedded world: a small CLIP of drawn scenes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evolvedirector.errors import UserError
from evolvedirector.models.embedder import TextEmbeddings
from evolvedirector.records.condition import Tokens
from evolvedirector.worlds.joint.networks import EMBEDDING_DIM, MAX_TOKENS, TEXT_WIDTH
from evolvedirector.worlds.joint.picture import SIZE_PX
from evolvedirector.worlds.joint.space_files import SpaceRecord, load_network, read_record
from evolvedirector.worlds.joint.token_states import TokenStates

_BATCH = 64


class SceneEmbedder:
    """Embed texts and 32 px images of the embedded world in one space of 128 dimensions, norm about 16.

    A stand-in for the CLIP that a prior is trained on: text and image towers trained by contrast, and image embeddings
    that also hold what the text does not say. Unlike CLIP's, its texts and images have one mean: no modality gap. Token
    states are the text encoder's own, one per real token.

    Args:
        folder: Of the space: `evolvedirector assets joint-space` trains it.
        text_encoder: The encoder that it was trained with.

    Raises:
        UserError: The encoder has another width.
    """

    def __init__(self, folder: str | Path, text_encoder: TokenStates) -> None:
        if text_encoder.dimension != TEXT_WIDTH:
            raise UserError(
                f"The text encoder's states have {text_encoder.dimension} values. Allowed are {TEXT_WIDTH}. Write "
                "`text_encoder: {class_path: evolvedirector.lightning_modules.MiniLMEncoder, init_args: {layer: 2}}`."
            )
        self.folder = Path(folder)
        self.text_encoder = text_encoder
        self._networks: dict[str, nn.Module] = {}

    @property
    def fingerprint(self) -> str:
        """Name weights and text encoder."""
        return self.record.fingerprint

    @cached_property
    def record(self) -> SpaceRecord:
        """What the folder says of itself."""
        return read_record(self.folder)

    @property
    def embedding_dim(self) -> int:
        """Width of the joint space."""
        return EMBEDDING_DIM

    @property
    def text_width(self) -> int:
        """Width of a token's state."""
        return TEXT_WIDTH

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, their marks of beginning and end included."""
        return MAX_TOKENS

    def verify(self) -> None:
        """Check that the space is there, and was trained with this text encoder.

        Raises:
            UserError: It is not.
        """
        if self.record.text_encoder != self.text_encoder.fingerprint:
            raise UserError(
                f"The joint space of '{self.folder}' reads states of {self.record.text_encoder}, not of "
                f"{self.text_encoder.fingerprint}. Allowed is the encoder that it was trained with. Write that one as "
                "text_encoder, or train a space with this one in another folder."
            )

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embed texts, on the CPU in float32.

        Args:
            texts: Any; those with more tokens than the tower reads are cut, and say so.
        """
        self.verify()
        if not texts:
            nothing = torch.zeros(0, MAX_TOKENS, TEXT_WIDTH)
            return TextEmbeddings(Tokens(nothing, nothing[..., 0].bool()), torch.zeros(0, EMBEDDING_DIM), ())
        rows, pooled = [], []
        for start in range(0, len(texts), _BATCH):
            given = list(texts[start : start + _BATCH])
            filled = [*given, *[""] * (_BATCH - len(given))]  # one shape, so that a text's values are its own
            states, mask = (found.cpu() for found in self.text_encoder.encode(filled, MAX_TOKENS + 1))
            with torch.no_grad():
                pooled.append(self._network("text")(states[:, :MAX_TOKENS].float(), mask[:, :MAX_TOKENS])[: len(given)])
            rows.append((states[: len(given)].float(), mask[: len(given)]))
        states, mask = (torch.cat(parts) for parts in zip(*rows, strict=True))
        cut = tuple(mask[:, MAX_TOKENS].tolist())
        return TextEmbeddings(Tokens(states[:, :MAX_TOKENS], mask[:, :MAX_TOKENS]), torch.cat(pooled), cut)

    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        """Embed uint8 images (3, height, width), on the CPU in float32: Float[batch, embedding].

        Args:
            images: Of any sizes; other sizes than 32 px are resampled.
        """
        self.verify()
        found = [torch.zeros(0, EMBEDDING_DIM)]
        for start in range(0, len(images), _BATCH):
            given = torch.cat([_pixels(image) for image in images[start : start + _BATCH]])
            filled = F.pad(given, (0, 0, 0, 0, 0, 0, 0, _BATCH - len(given)))
            with torch.no_grad():
                found.append(self._network("image")(filled)[: len(given)])
        return torch.cat(found)

    def close(self) -> None:
        """Forget the weights; the next call loads again."""
        self._networks.clear()

    def _network(self, name: str) -> nn.Module:
        if name not in self._networks:
            self._networks[name] = load_network(self.folder, name)
        return self._networks[name]


def _pixels(image: Tensor) -> Tensor:
    """Return (1, 3, 32, 32) in [-1, 1]."""
    pixels = image.cpu().unsqueeze(0).float() / 127.5 - 1
    if pixels.shape[-2:] == (SIZE_PX, SIZE_PX):
        return pixels
    return F.interpolate(pixels, (SIZE_PX, SIZE_PX), mode="bilinear", antialias=True, align_corners=False)
