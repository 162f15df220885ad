"""The three small networks of the joint space: texts in, images in, images out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EMBEDDING_DIM = 128
TEXT_WIDTH = 384
MAX_TOKENS = 14
NORM = 16.0
"""Root of the mean square of an embedding's length."""
_WIDTH = 96
_CHANNELS = 64


class _Residual(nn.Module):
    """A 3 x 3 convolution and a 1 x 1 around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        return images + self.body(images)


class _Space(nn.Module):
    """Bring vectors to mean 0 and a norm of about 16, the same for texts and images; lengths differ by content."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(EMBEDDING_DIM, affine=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (batch, embedding) to the same shape."""
        return self.norm(vectors) * (NORM / EMBEDDING_DIM**0.5)


class TextTower(nn.Module):
    """Embed token states: the mean of the states in context, projected."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(TEXT_WIDTH, _WIDTH)
        self.place = nn.Parameter(torch.randn(1, MAX_TOKENS, _WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(
            _WIDTH, 4, _WIDTH * 2, dropout=0.0, activation="relu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.outward = nn.Sequential(
            nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 256), nn.ReLU(), nn.Linear(256, EMBEDDING_DIM)
        )
        self.space = _Space()

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Map states (batch, token, width) and their mask (true: a token) to (batch, embedding), norm about 16."""
        x = self.layers(self.inward(states) + self.place[:, : states.shape[1]], src_key_padding_mask=~mask)
        weights = mask.unsqueeze(-1).to(x.dtype)
        return self.space(self.outward((x * weights).sum(1) / weights.sum(1)))


class ImageTower(nn.Module):
    """Embed images of 32 px."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, _CHANNELS, 4, stride=4),
            nn.ReLU(),
            _Residual(_CHANNELS),
            _Residual(_CHANNELS),
            nn.Flatten(),
            nn.Linear(_CHANNELS * 64, 256),
            nn.ReLU(),
            nn.Linear(256, EMBEDDING_DIM),
        )
        self.space = _Space()

    def forward(self, images: Tensor) -> Tensor:
        """Map (batch, 3, 32, 32) in [-1, 1] to (batch, embedding), norm about 16."""
        return self.space(self.body(images))


class PictureDecoder(nn.Module):
    """Draw images of 32 px from image embeddings, by regression: one embedding, one image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(EMBEDDING_DIM, 256),
            nn.ReLU(),
            nn.Linear(256, _CHANNELS * 64),
            nn.ReLU(),
            nn.Unflatten(1, (_CHANNELS, 8, 8)),
            _Residual(_CHANNELS),
            _Residual(_CHANNELS),
            nn.Conv2d(_CHANNELS, 48, 1),
            nn.PixelShuffle(4),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map (batch, embedding) to (batch, 3, 32, 32), about [-1, 1]."""
        return self.body(embeddings)
