"""A vision model by name gives its pooled output; weights come from safetensors only."""

from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, Dinov2Config, Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from evolvedirector.evaluation import EfficientNetFeatures, VisionFeatures
from evolvedirector.evaluation.feature_network import FeatureNetwork
from tests.judges.tiny_vlms import save
from tests.rewards.tiny_clips import IMAGES, ITEMS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dinov2")
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    BitImageProcessorPil(**size).save_pretrained(path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    save(Dinov2Model, Dinov2Config(**sizes), path)
    return path


def test_the_pooled_output_of_a_vision_model(folder: Path) -> None:
    network = VisionFeatures(str(folder), device="cpu", batch_size=1)
    network.verify()
    found = network.features([item.image for item in ITEMS])
    pixels = AutoImageProcessor.from_pretrained(folder)(images=list(IMAGES), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = Dinov2Model.from_pretrained(folder).eval()(pixels).pooler_output
    assert isinstance(network, FeatureNetwork) and found.shape == (2, 16)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert (network.estimated_bytes() or 0) > 0 and network.fingerprint.startswith("vision-features-1/")
    network.close()


def test_what_is_no_model_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json"):
        VisionFeatures(str(tmp_path)).verify()
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match="no complete safetensors weights"):
        VisionFeatures(str(tmp_path)).verify()
    for network in (EfficientNetFeatures, lambda batch_size: VisionFeatures("x", batch_size=batch_size)):
        with pytest.raises(ValueError, match="batch_size is 0"):
            network(batch_size=0)
