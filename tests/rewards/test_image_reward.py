"""ImageReward on a tiny BLIP: the image tower is computed once more from the published names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BlipConfig

from evolvedirector.rewards import ImageReward, Reward
from evolvedirector.rewards.image_reward import _DEVIATION, _MEAN, _Blip, _seen, from_published
from tests.judges.tiny_vlms import tokenizer
from tests.rewards.tiny_clips import IMAGES, ITEMS, PROMPTS

WIDTH, HEADS = 16, 2


def config(words: int) -> BlipConfig:
    vision = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 32}
    text = {"hidden_size": 24, "encoder_hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"intermediate_size": 32, "vocab_size": words, "max_position_embeddings": 64, "is_decoder": True}
    vision |= {"patch_size": 16, "image_size": 32, "layer_norm_eps": 1e-6}
    return BlipConfig(vision_config=vision, text_config=text)


def published(model: _Blip) -> dict[str, Tensor]:
    """Write a model's weights under the published names."""
    names = (
        ("embeddings.class_embedding", "cls_token"), ("embeddings.position_embedding", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"), ("encoder.layers", "blocks"),
        ("self_attn.projection", "attn.proj"), ("self_attn.qkv", "attn.qkv"), ("layer_norm1", "norm1"),
        ("layer_norm2", "norm2"), ("post_layernorm", "norm"),
    )  # fmt: skip
    found = {}
    for name, value in model.state_dict().items():
        if name.startswith("vision_model."):
            for new, old in names:
                name = name.replace(new, old)
            name = name.replace("vision_model.", "blip.visual_encoder.")
        elif name.startswith("text_encoder."):
            name = f"blip.{name}"
        else:
            name = name.replace("mlp.", "mlp.layers.")
        found[name] = value.clone()
    return found | {"blip.text_proj.weight": torch.zeros(2, 2), "blip.temp": torch.zeros(())}


def image_tower(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Compute BLIP's image tower from the published weights: a vision transformer as timm writes it."""
    w = {name.removeprefix("blip.visual_encoder."): value for name, value in weights.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return nn.functional.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return nn.functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = nn.functional.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], 16)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1) + w["pos_embed"]
    for block in ("blocks.0", "blocks.1"):
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.unflatten(2, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(mixed, f"{block}.attn.proj")
        hidden = nn.functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    return norm(x, "norm")


def test_the_score_is_the_head_over_the_first_sign_of_text_that_saw_the_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = tokenizer()
    words.save_pretrained(tmp_path / "words")
    sizes = config(len(words))
    model = _Blip(sizes).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    weights = published(model)
    assert set(from_published(weights)) == set(model.state_dict())
    save_file(weights, tmp_path / "model.safetensors")
    sizes.to_json_file(tmp_path / "config.json", use_diff=False)
    reward = ImageReward(str(tmp_path), tokenizer=str(tmp_path / "words"), device="cpu")
    reward.verify()
    found = [score.value for score in reward.score(ITEMS)]

    pixels = torch.stack([_seen(image, 32) for image in IMAGES])
    seen = image_tower(weights, pixels)
    read = words(PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt")
    with torch.no_grad():
        state = model.text_encoder(
            input_ids=read["input_ids"], attention_mask=read["attention_mask"], encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
        ).last_hidden_state[:, 0]  # fmt: skip
        wanted = (model.mlp(state)[:, 0] - _MEAN) / _DEVIATION
    assert found == pytest.approx(wanted.tolist(), rel=1e-3) and isinstance(reward, Reward)
    assert abs(found[0] - found[1]) > 1e-4, "random weights, but not all the same"


def test_the_middle_of_an_image_is_seen_in_its_own_proportions() -> None:
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    image[:, :, 20:60] = 255
    seen = _seen(image, 20)
    assert seen.shape == (3, 20, 20) and torch.allclose(seen[0, 10, 5:15], torch.tensor((1 - 0.48145466) / 0.26862954))
