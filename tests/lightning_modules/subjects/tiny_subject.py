"""What the tests of subjects share: a tiny family that reads them, whose weights are all awake, and its files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from evolvedirector.lightning_modules import PixArt, RandomTextEncoder, RawPatches, SubjectFamily
from evolvedirector.records import FileRef, ImageRequest

SIDE = 8


class Awake(SubjectFamily):
    """Its layers that begin at zero are random, so that what depends on them shows."""

    def build(self) -> nn.Module:
        network = super().build()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        return network


def pixart(**changes: Any) -> PixArt:
    numbers = {"text_length": 4, "patch_size": 4, "layers": 2, "heads": 2, "head_dim": 16} | changes
    return PixArt(RandomTextEncoder(16), SIDE, **numbers)


def family(kind: type[SubjectFamily] = Awake, **changes: Any) -> SubjectFamily:
    numbers = {"width": 16, "layers": 1, "heads": 2} | changes
    return kind(pixart(), RawPatches(8, 4), **numbers)


def picture(seed: int, count: int = 4, side: int = SIDE) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def half_mask(side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[:, side // 2 :] = 255
    return mask


def png(pixels: Any) -> FileRef:
    array = pixels.permute(1, 2, 0).numpy() if isinstance(pixels, Tensor) else pixels
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return FileRef.of(file.getvalue(), "image/png", array.shape[1], array.shape[0])


def npy(values: Any) -> FileRef:
    file = io.BytesIO()
    np.save(file, np.asarray(values), allow_pickle=False)
    return FileRef.of(file.getvalue(), "application/x-npy")


def request(name: str = "one", prompt: str = "a cat", seed: int = 7, **files: FileRef) -> ImageRequest:
    return ImageRequest(name, prompt, seed, SIDE, SIDE, files=files)


def batch(seed: int = 0, **files: Any) -> dict[str, Any]:
    return {
        **{"image": picture(1), "prompt": ["a", "b", "c", "d"], "sample_seed": seed * 4 + torch.arange(4)},
        **files,
    }
