"""The closeness of image and prompt is torchmetrics' own, one number per image."""

import warnings
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.multimodal import clip_score
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

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


def test_each_image_gets_the_value_of_torchmetrics(folder: Path) -> None:
    reward = CLIPScore(str(folder), device="cpu")
    reward.verify()
    scores = reward.score(IMAGES, PROMPTS)
    plain = Plain(folder)
    with torch.no_grad():
        own = [clip_score(*pair, lambda: (plain, plain.processor)) for pair in zip(IMAGES, PROMPTS, strict=True)]
    assert isinstance(reward, Reward) and scores.dtype == torch.float32 and scores.shape == (2,)
    torch.testing.assert_close(scores, torch.stack(own))
    assert scores.max() > 0.0 and scores[0] != scores[1], "random weights, but not the same of everything"


def test_closed_it_holds_nothing_and_loads_again(folder: Path) -> None:
    reward = CLIPScore(str(folder), device="cpu")
    reward.close()
    before = reward.score(IMAGES, PROMPTS)
    reward.close()
    assert not reward._clip.is_loaded
    torch.testing.assert_close(reward.score(IMAGES, PROMPTS), before)


def test_a_long_prompt_is_cut_in_silence(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (score,) = CLIPScore(str(folder), device="cpu").score(IMAGES[:1], ["a red circle " * 99])
    assert 0.0 <= score <= 100.0


def test_what_cannot_be_scored_is_refused(folder: Path, tmp_path: Path) -> None:
    reward = CLIPScore(str(folder), device="cpu")
    assert reward.score(IMAGES[:0], []).shape == (0,)
    with pytest.raises(ValueError, match=r"1 prompts for 2 images"):
        reward.score(IMAGES, PROMPTS[:1])
    with pytest.raises(ValueError, match=r"Allowed: uint8"):
        reward.score(IMAGES.float(), PROMPTS)
    with pytest.raises(ValueError, match=r"has no config\.json"):
        CLIPScore(str(tmp_path)).verify()
