"""What the tests of priors share: a joint embedding of words and colours, a decoder of it, and pairs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evolvedirector.lightning_modules import EclipseObjective, ImagePrior, PriorNetwork
from evolvedirector.models.embedder import TextEmbeddings
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Tokens

DIM, LENGTH = 12, 6


class ToyEmbedder:
    """Embed each word by its digest, a text as the mean of its words, and an image as its mean colour."""

    embedding_dim = text_width = DIM
    max_tokens = LENGTH
    fingerprint = "toy-embedder"

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        states, mask = torch.zeros(len(texts), LENGTH, DIM), torch.zeros(len(texts), LENGTH, dtype=torch.bool)
        for row, text in enumerate(texts):
            for place, word in enumerate(["<s>", *text.split()][:LENGTH]):
                states[row, place], mask[row, place] = _vector(word), True
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return TextEmbeddings(Tokens(states, mask), pooled, tuple(len(text.split()) >= LENGTH for text in texts))

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return [(0, 0), *(match.span() for match in re.finditer(r"\S+", text))][:LENGTH]

    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        return torch.stack([(image.float() / 255).mean((1, 2)).repeat(DIM // 3) for image in images])


class ToyDecoder(nn.Module):
    """Paint the first three numbers of an embedding; a module with weights, which nobody may train or save."""

    embedding_dim = DIM
    embedder_fingerprint: str | None = "toy-embedder"
    fingerprint = "toy-decoder"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def decode(self, embeddings: Tensor, negative: Tensor | None, requests: Sequence[ImageRequest]) -> list[Tensor]:
        assert len(embeddings) == len(requests)
        colours = (embeddings[:, :3] * self.weight).mul(64).add(128).clamp(0, 255).to(torch.uint8)
        return [
            colour[:, None, None].expand(3, request.height_px, request.width_px).contiguous()
            for colour, request in zip(colours, requests, strict=True)
        ]


def prior(objective: Any = None, **settings: Any) -> ImagePrior:
    torch.set_num_threads(1)
    settings.setdefault("optimizer", lambda parameters: torch.optim.AdamW(parameters, 3e-3))
    settings.setdefault("network", PriorNetwork(DIM, heads=2, head_dim=8, layers=2, text_length=LENGTH))
    settings.setdefault("decoder", ToyDecoder())
    return ImagePrior(
        objective or EclipseObjective(contrastive_weight=0.5),
        ToyEmbedder(),
        image_size_px=4,
        generation_chunk_size=4,
        **settings,
    )


def pairs(number: int = 0, count: int = 8) -> dict[str, Any]:
    """Return a batch of texts with the embeddings of images, which are another mixture of the same words."""
    prompts = [f"word{index} and word{index // 2 + 10}" for index in range(count)]
    texts = ToyEmbedder().embed_texts(prompts)
    return {
        "prompt": prompts,
        "key": prompts,
        "text_states": texts.states.values,
        "text_mask": texts.states.mask,
        "text_embedding": texts.pooled,
        "image_embedding": 2 * texts.pooled.roll(1, -1) + 0.5,
        "sample_seed": number * count + torch.arange(count),
    }


class PairBatches(list[Any]):
    """Batches that say how many were delivered, so that a resume goes on behind them."""

    delivered = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self[self.delivered :]:
            self.delivered += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"delivered": self.delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.delivered = state["delivered"]


def request(prompt: str, seed: int = 0, side: int = 4) -> ImageRequest:
    return ImageRequest(f"{prompt}/{seed}", prompt, seed, side, side)


def _vector(word: str) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
    return torch.randn(DIM, generator=torch.Generator().manual_seed(seed))
