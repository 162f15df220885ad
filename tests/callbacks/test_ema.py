"""Averaged weights: the formula, when they are used, and that they survive a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from evolvedirector.callbacks.ema import EMA, warmed_decay


class Walker(LightningModule):
    """One weight that gains 1 with every optimizer step, and remembers it at validation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return -self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(self.weight.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1.0)


def fit(module: LightningModule, ema: EMA, steps: int, resume: Path | None = None, **settings: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[ema],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    loader: Any = DataLoader(torch.zeros(4, 1))  # type: ignore[arg-type]
    trainer.fit(module, loader, loader, ckpt_path=resume)
    return trainer


def expected(steps: range, decay: float) -> float:
    average, updates = float(steps[0]), 0
    for weight in steps[1:]:
        share = warmed_decay(decay, updates)
        average, updates = share * average + (1 - share) * weight, updates + 1
    return average


def value(ema: EMA, module: LightningModule) -> float:
    with ema.averaged(module):
        return module.weight.item()


def test_decay_warms_up() -> None:
    assert warmed_decay(0.999, 0) == 0.1 and warmed_decay(0.999, 90) == 0.91 and warmed_decay(0.5, 90) == 0.5


def test_average_follows_the_formula_and_is_swapped_back() -> None:
    module, ema = Walker(), EMA(decay=0.9)
    fit(module, ema, 6, limit_val_batches=0)
    assert value(ema, module) == pytest.approx(expected(range(1, 7), 0.9))
    assert module.weight.item() == 6.0


def test_validation_sees_the_average() -> None:
    module, ema = Walker(), EMA(decay=0.9)
    fit(module, ema, 4)
    assert module.seen == pytest.approx([expected(range(1, 5), 0.9)] * 4)
    assert module.weight.item() == 4.0


def test_updates_at_chosen_optimizer_steps_only() -> None:
    module, ema = Walker(), EMA(decay=0.9, every_n_steps=2, starts_at_step=3)
    fit(module, ema, 8, limit_val_batches=0)
    assert value(ema, module) == pytest.approx(expected(range(4, 9, 2), 0.9))
    module, ema = Walker(), EMA(decay=0.9)
    fit(module, ema, 2, limit_val_batches=0, accumulate_grad_batches=2)
    assert value(ema, module) == pytest.approx(expected(range(1, 3), 0.9))


def test_without_an_average_yet_the_weights_are_used() -> None:
    module, ema = Walker(), EMA(starts_at_step=100)
    fit(module, ema, 2, limit_val_batches=0)
    assert value(ema, module) == 2.0


def test_resumes_exactly(tmp_path: Path) -> None:
    module, ema = Walker(), EMA(decay=0.9)
    fit(module, ema, 4, limit_val_batches=0).save_checkpoint(tmp_path / "a.ckpt")
    resumed, resumed_ema = Walker(), EMA(decay=0.9)
    trainer = fit(resumed, resumed_ema, 8, resume=tmp_path / "a.ckpt", limit_val_batches=0)
    assert trainer.global_step == 8
    assert value(resumed_ema, resumed) == pytest.approx(expected(range(1, 9), 0.9))


def test_evaluation_of_a_checkpoint_uses_its_average(tmp_path: Path) -> None:
    module, ema = Walker(), EMA(decay=0.9)
    fit(module, ema, 4, limit_val_batches=0).save_checkpoint(tmp_path / "a.ckpt")
    fresh = Walker()
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[EMA(decay=0.9)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.validate(fresh, DataLoader(torch.zeros(1, 1)), ckpt_path=tmp_path / "a.ckpt")  # type: ignore[arg-type]
    assert fresh.seen == pytest.approx([expected(range(1, 5), 0.9)]) and fresh.weight.item() == 4.0


def test_nested_and_failing_use_leaves_the_trained_weights() -> None:
    module, ema = Walker(), EMA(decay=0.9)
    trainer = fit(module, ema, 4, limit_val_batches=0)
    with pytest.raises(KeyError), ema.averaged(module), ema.averaged(module):
        assert module.weight.item() != 4.0
        with pytest.raises(RuntimeError, match="swapped in"):
            trainer.save_checkpoint("never.ckpt")
        raise KeyError
    assert module.weight.item() == 4.0


def test_average_of_another_model_is_refused(tmp_path: Path) -> None:
    module, ema = Walker(), EMA(decay=0.9)
    trainer = fit(module, ema, 2, limit_val_batches=0)
    other = EMA()
    other.on_load_checkpoint(
        trainer, module, {"ema": {other.state_key: {"updates": 1, "weights": {"odd": module.weight}}}}
    )
    with pytest.raises(ValueError, match="odd"), other.averaged(module):
        pass


def test_impossible_settings_are_refused() -> None:
    for settings in ({"decay": 1.0}, {"every_n_steps": 0}):
        with pytest.raises(ValueError, match="Allowed"):
            EMA(**settings)  # type: ignore[arg-type]
