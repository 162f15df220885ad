"""The closeness of image and prompt is torchmetrics' own, one number per image."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.multimodal import clip_score
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from evolvedirector.callbacks._run.drawing import encode_png
from evolvedirector.records import ImageAndPrompt
from evolvedirector.records.part import OnDevice
from evolvedirector.rewards import CLIPScore, Reward
from tests.judges.tiny_vlms import TEXT, VISION, save, signs, tokenizer

PROMPTS = ["a red circle", "two green stars and a blue square"]
IMAGES = torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights, saved as real ones are."""
    path = tmp_path_factory.mktemp("clip")
    words = tokenizer()
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    CLIPProcessor(pictures, words).save_pretrained(path)
    heads = {name: value for name, value in TEXT.items() if name != "num_key_value_heads"}
    text = {**heads, **signs(words), "max_position_embeddings": 64, "vocab_size": len(words)}
    vision = {**VISION, "image_size": 28, "patch_size": 14}
    save(CLIPModel, CLIPConfig(text_config=text, vision_config=vision, projection_dim=8), path)
    model = CLIPModel.from_pretrained(path)
    with torch.no_grad():  # these weights find all images far from all prompts, where every score is 0
        model.visual_projection.weight.neg_()
    model.save_pretrained(path)
    return path


class Plain:
    """The same model for torchmetrics itself, which wants features as tensors."""

    def __init__(self, folder: Path) -> None:
        self.model, self.processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
        self.config = self.model.config

    def to(self, device: torch.device) -> "Plain":
        return self

    def get_image_features(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model.get_image_features(*inputs).pooler_output

    def get_text_features(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model.get_text_features(*inputs).pooler_output


def items(images: torch.Tensor, prompts: Sequence[str]) -> list[ImageAndPrompt]:
    pairs = zip(images, prompts, strict=True)
    return [ImageAndPrompt(str(place), encode_png(image), prompt) for place, (image, prompt) in enumerate(pairs)]


def values(reward: CLIPScore, images: torch.Tensor = IMAGES, prompts: Sequence[str] = PROMPTS) -> list[float]:
    return [score.value for score in reward.score(items(images, prompts))]


@pytest.mark.parametrize("batch_size", [1, 32])
def test_each_image_gets_the_value_of_torchmetrics(folder: Path, batch_size: int) -> None:
    reward = CLIPScore(str(folder), device="cpu", batch_size=batch_size)
    reward.verify()
    scores = list(reward.score(items(IMAGES, PROMPTS)))
    plain = Plain(folder)
    with torch.no_grad():
        own = [clip_score(*pair, lambda: (plain, plain.processor)) for pair in zip(IMAGES, PROMPTS, strict=True)]
    assert isinstance(reward, Reward) and [score.item_id for score in scores] == ["0", "1"]
    assert [score.value for score in scores] == pytest.approx([float(value) for value in own], rel=1e-4)
    assert max(values(reward)) > 0.0 and scores[0].value != scores[1].value, "random weights, but not all the same"


def test_closed_it_holds_nothing_and_loads_again(folder: Path) -> None:
    reward = CLIPScore(str(folder), device="cpu")
    reward.close()
    before = values(reward)
    reward.close()
    assert not reward._clip.is_loaded
    assert values(reward) == pytest.approx(before)


def test_a_long_prompt_is_cut_in_silence(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (score,) = values(CLIPScore(str(folder), device="cpu"), IMAGES[:1], ["a red circle " * 99])
    assert 0.0 <= score <= 100.0


def test_what_is_no_image_has_no_score_and_costs_the_others_nothing(folder: Path) -> None:
    reward = CLIPScore(str(folder), device="cpu")
    broken = ImageAndPrompt("broken", b"no image", "a red circle")
    first, other, last = reward.score([items(IMAGES, PROMPTS)[0], broken, items(IMAGES, PROMPTS)[1]])
    assert math.isnan(other.value) and other.item_id == "broken" and "no image that can be read" in other.reason
    assert [first.value, last.value] == pytest.approx(values(reward))
    assert list(reward.score([])) == []


def test_what_it_is_and_what_it_needs(folder: Path, tmp_path: Path) -> None:
    reward = CLIPScore(str(folder), device="cpu")
    assert reward.fingerprint == CLIPScore(str(folder), batch_size=1).fingerprint
    assert reward.fingerprint.startswith("clip-score-1/")
    size = sum(value.numel() * 4 for value in CLIPModel.from_pretrained(folder).state_dict().values())
    assert isinstance(reward, OnDevice) and reward.estimated_bytes() == pytest.approx(size, rel=0.01)
    with pytest.raises(ValueError, match=r"has no config\.json"):
        CLIPScore(str(tmp_path)).verify()
    with pytest.raises(ValueError, match="batch_size is 0"):
        CLIPScore(str(folder), batch_size=0)
