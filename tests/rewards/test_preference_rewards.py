"""Rewards by model name, on tiny models of the same classes: each value is computed once more by hand."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPProcessor

from evolvedirector.records import ImageAndPrompt
from evolvedirector.records.part import OnDevice, Verifiable
from evolvedirector.rewards import AestheticScore, HPSv2, ImageReward, PickScore, Reward
from evolvedirector.rewards.aesthetic_score import rating_head
from evolvedirector.rewards.hps_v2 import from_open_clip, padded_square
from tests.rewards.tiny_clips import IMAGES, ITEMS, PROMPTS, save_tiny_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CLIPModel]:
    folder = tmp_path_factory.mktemp("clip")
    return folder, save_tiny_clip(folder)


def vectors(folder: Path, model: CLIPModel, images: list[Tensor]) -> tuple[Tensor, Tensor]:
    inputs = CLIPProcessor.from_pretrained(folder)(text=PROMPTS, images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        found = model(**inputs)
    return found.image_embeds, found.text_embeds


def values(reward: Reward) -> list[float]:
    return [score.value for score in reward.score(ITEMS)]


def test_pick_score_is_the_cosine_at_the_learned_temperature(clip: tuple[Path, CLIPModel]) -> None:
    folder, model = clip
    reward = PickScore(str(folder), processor=None, device="cpu")
    reward.verify()
    shown, said = vectors(folder, model, list(IMAGES))
    wanted = model.logit_scale.exp() * (shown * said).sum(-1)
    assert values(reward) == pytest.approx(wanted.tolist(), rel=1e-4)
    assert isinstance(reward, Reward) and isinstance(reward, Verifiable) and isinstance(reward, OnDevice)
    broken = list(reward.score([ImageAndPrompt("x", b"no image", "a red circle")]))
    assert broken[0].value != broken[0].value and "no image" in broken[0].reason
    reward.close()
    with pytest.raises(ValueError, match="batch_size is 0"):
        PickScore(batch_size=0)


def test_the_aesthetic_head_sees_the_normalised_image_vector(clip: tuple[Path, CLIPModel], tmp_path: Path) -> None:
    folder, model = clip
    head = rating_head(8).eval()
    save_file({f"layers.{name}": value for name, value in head.state_dict().items()}, tmp_path / "model.safetensors")
    reward = AestheticScore(str(tmp_path), str(folder), device="cpu")
    reward.verify()
    shown, _ = vectors(folder, model, list(IMAGES))
    with torch.no_grad():
        assert values(reward) == pytest.approx(head(shown)[:, 0].tolist(), rel=1e-4)


class OpenClipTower(nn.Module):
    """A tower as open_clip builds it: one matrix for queries, keys and values, layer norms before each half."""

    def __init__(self, width: int, heads: int, layers: int, inner: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            block = nn.Module()
            block.ln_1, block.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            block.attn = nn.MultiheadAttention(width, heads, batch_first=True)
            block.mlp = nn.Module()
            block.mlp.c_fc, block.mlp.c_proj = nn.Linear(width, inner), nn.Linear(inner, width)
            self.blocks.append(block)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            normed = block.ln_1(x)
            x = x + block.attn(normed, normed, normed, need_weights=False)[0]
            x = x + block.mlp.c_proj(nn.functional.gelu(block.mlp.c_fc(block.ln_2(x))))
        return x


def test_open_clips_names_make_the_same_image_tower(clip: tuple[Path, CLIPModel]) -> None:
    _, model = clip
    sizes = model.config.vision_config
    torch.manual_seed(0)
    width, layers = sizes.hidden_size, sizes.num_hidden_layers
    tower = OpenClipTower(width, sizes.num_attention_heads, layers, sizes.intermediate_size)
    pre, post, stem = nn.LayerNorm(width), nn.LayerNorm(width), nn.Conv2d(3, width, 14, 14, bias=False)
    for norm in (pre, post):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    first, places, proj = torch.randn(width), torch.randn(5, width), torch.randn(width, 8)
    published = {
        "visual.class_embedding": first, "visual.conv1.weight": stem.weight, "visual.positional_embedding": places,
        "visual.ln_pre.weight": pre.weight, "visual.ln_pre.bias": pre.bias, "visual.proj": proj,
        "visual.ln_post.weight": post.weight, "visual.ln_post.bias": post.bias,
        **{f"visual.transformer.resblocks.{name}": value for name, value in tower.blocks.state_dict().items()},
    }  # fmt: skip
    renamed = from_open_clip(published)
    own = CLIPModel(model.config).eval()
    missing, unknown = own.load_state_dict(renamed, strict=False)
    assert not unknown and all(name.startswith(("text", "logit")) for name in missing)
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        x = stem(pixels).flatten(2).transpose(1, 2)
        x = pre(torch.cat([first.expand(2, 1, -1), x], 1) + places)
        wanted = post(tower(x)[:, 0]) @ proj
        found = own.get_image_features(pixels).pooler_output
    assert torch.allclose(found, wanted, atol=1e-4)


def in_open_clip(model: CLIPModel) -> dict[str, Tensor]:
    """Write a model's weights under open_clip's names, by asking which of its names each of ours comes from."""
    own, published = model.state_dict(), {}
    for tower, start in (("vision_model", "visual."), ("text_model", "")):
        sizes = model.config.vision_config if start else model.config.text_config
        for layer in range(sizes.num_hidden_layers):
            ours, theirs = f"{tower}.encoder.layers.{layer}.", f"{start}transformer.resblocks.{layer}."
            for kind in ("weight", "bias"):
                thirds = [own[f"{ours}self_attn.{part}_proj.{kind}"] for part in "qkv"]
                published[f"{theirs}attn.in_proj_{kind}"] = torch.cat(thirds)
                for new, old in (
                    ("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                    ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
                ):  # fmt: skip
                    published[f"{theirs}{old}.{kind}"] = own[f"{ours}{new}.{kind}"]
    embeddings, text = "vision_model.embeddings.", "text_model."
    return published | {
        "visual.class_embedding": own[f"{embeddings}class_embedding"],
        "visual.conv1.weight": own[f"{embeddings}patch_embedding.weight"],
        "visual.positional_embedding": own[f"{embeddings}position_embedding.weight"],
        "visual.ln_pre.weight": own["vision_model.pre_layrnorm.weight"],
        "visual.ln_pre.bias": own["vision_model.pre_layrnorm.bias"],
        "visual.ln_post.weight": own["vision_model.post_layernorm.weight"],
        "visual.ln_post.bias": own["vision_model.post_layernorm.bias"],
        "visual.proj": own["visual_projection.weight"].T, "text_projection": own["text_projection.weight"].T,
        "token_embedding.weight": own[f"{text}embeddings.token_embedding.weight"],
        "positional_embedding": own[f"{text}embeddings.position_embedding.weight"],
        "ln_final.weight": own[f"{text}final_layer_norm.weight"], "ln_final.bias": own[f"{text}final_layer_norm.bias"],
        "logit_scale": own["logit_scale"],
    }  # fmt: skip


def test_hps_is_the_cosine_of_padded_images(clip: tuple[Path, CLIPModel], tmp_path: Path) -> None:
    folder, model = clip
    published = {name: value.clone().contiguous() for name, value in in_open_clip(model).items()}
    save_file(published, tmp_path / "model.safetensors")
    model.config.to_json_file(tmp_path / "config.json", use_diff=False)
    reward = HPSv2(str(tmp_path), processor=str(folder), device="cpu")
    reward.verify()
    shown, said = vectors(folder, model, [padded_square(image) for image in IMAGES])
    assert values(reward) == pytest.approx((shown * said).sum(-1).tolist(), rel=1e-4)
    square = padded_square(IMAGES[0])
    assert square.shape == (3, 48, 48) and (square[:, :4] == 0).all() and (square[:, 4:44] == IMAGES[0]).all()
    assert reward.estimated_bytes() > 0 and reward.fingerprint == HPSv2(str(tmp_path / "model.safetensors")).fingerprint


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (HPSv2, r"for HPSv2.*HPS_v2\.1_compressed\.pt, which is pickled.*weights_only=True\)\['state_dict'\]"),
        (ImageReward, r"for ImageReward.*ImageReward\.pt, which is pickled.*save_file"),
        (AestheticScore, r"for AestheticScore.*linearMSE\.pth, which is pickled"),
    ],
)
def test_weights_that_are_published_pickled_say_how_to_convert_them(tmp_path: Path, reward, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        reward(str(tmp_path)).verify()


def test_weights_of_another_model_are_refused_by_name(clip: tuple[Path, CLIPModel], tmp_path: Path) -> None:
    folder, model = clip
    save_file({"visual.proj": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    model.config.to_json_file(tmp_path / "config.json", use_diff=False)
    with pytest.raises(ValueError, match=r"lacks \d+ of the \d+ weights of HPSv2, such as logit_scale"):
        values(HPSv2(str(tmp_path), processor=str(folder), device="cpu"))
    (tmp_path / "model.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        values(HPSv2(str(tmp_path), processor=str(folder), device="cpu"))
