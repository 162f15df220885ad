"""The prior: learns, repeats itself exactly, draws through a frozen decoder, and says what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from evolvedirector.lightning_modules import DiffusionPriorObjective, EclipseObjective, ImagePrior, ProjectionObjective
from tests.lightning_modules.priors.prior_toys import pairs, prior, request


def fit(module: ImagePrior, steps: int, resume: Path | None = None, **settings: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    batches: Any = [pairs(number) for number in range(steps)]
    trainer.fit(module, DataLoader(batches, batch_size=None), ckpt_path=resume, weights_only=True)
    return trainer


def distance(module: ImagePrior) -> float:
    batch = pairs()
    predicted = module.embed([request(text, seed) for seed, text in enumerate(batch["prompt"])])
    return float(((predicted - batch["image_embedding"]) ** 2).mean())


@pytest.mark.parametrize(
    "objective", [EclipseObjective(0.5), ProjectionObjective("mean"), DiffusionPriorObjective(sampling_steps=5)]
)
def test_each_objective_learns(objective: Any) -> None:
    module = prior(objective)
    before = distance(module)
    fit(module, 60)
    assert distance(module) < 0.5 * before
