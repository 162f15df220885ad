"""A family with a spatial condition: a network that is told by a mask where to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evolvedirector.lightning_modules.codecs.pixels import Pixels
from evolvedirector.lightning_modules.families.family import KeyMap, Layout, diffusers_names_only
from evolvedirector.lightning_modules.text_encoders import RandomTextEncoder
from evolvedirector.lightning_modules.text_encoders.text_encoder import FrozenPart
from evolvedirector.records.condition import Condition, Extras, Size, TextStates, Tokens


class MaskedNetwork(nn.Module):
    """Two convolutions over the noisy image and its mask, modulated by text and time."""

    def __init__(self, text_dimension: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.modulation = nn.Linear(text_dimension + 1, 8)

    def forward(self, noisy: Tensor, time: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        hidden = self.first(torch.cat([noisy, mask], dim=1))
        return self.last(
            torch.relu(hidden + self.modulation(torch.cat([text, time[:, None] / 1000], 1))[..., None, None])
        )


class MaskedFamily:
    """Read the role `mask` of each sample beside its text."""

    roles = ("mask",)
    codec = Pixels()

    def __init__(self, text_dimension: int = 8) -> None:
        self.encoder = RandomTextEncoder(text_dimension)

    @property
    def fingerprint(self) -> str:
        return f"masked-{self.text_fingerprint}"

    @property
    def text_fingerprint(self) -> str:
        return self.encoder.fingerprint

    @property
    def text_encoders(self) -> Mapping[str, FrozenPart]:
        return {"text_encoder": self.encoder}

    def check_image_size(self, image_size_px: int) -> None:
        pass

    def tokens(self, size: Size) -> int:
        return size.height_px * size.width_px

    def text_bytes(self) -> int:
        return 4 * 4 * self.encoder.dimension

    def encode_text(self, texts: Sequence[str]) -> TextStates:
        return TextStates({"text": Tokens(*self.encoder.encode(texts, 4))})

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        return Condition(states.tokens, spatial={"mask": extras.files["mask"][:, :1].float() / 255})

    def build(self) -> nn.Module:
        return MaskedNetwork(self.encoder.dimension)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        return [network.first, network.last]

    def lora_targets(self) -> Sequence[str]:
        return ("modulation",)

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        text = condition.tokens["text"]
        pooled = (text.values * text.mask[..., None]).sum(1) / text.mask.sum(1, keepdim=True)
        return network(noisy, time, pooled, condition.spatial["mask"])

    def pipeline(self, network: nn.Module, scheduler: Any) -> Any:
        raise ValueError("There is no stock pipeline of this toy. Draw with TextToImage.generate instead.")

    def key_map(self, layout: Layout) -> KeyMap:
        return diffusers_names_only("MaskedFamily", layout)
