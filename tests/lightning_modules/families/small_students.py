"""A student that draws four steps of one image, and the stock pipeline that must draw the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from evolvedirector.lightning_modules import TextToImage
from evolvedirector.lightning_modules.families import Family
from evolvedirector.lightning_modules.objectives import Objective
from evolvedirector.records.condition import Size


def student_of(family: Family, objective: Objective, guidance_scale: float) -> TextToImage:
    """Build a student of 32 px images, its network too."""
    module = TextToImage(
        family,
        objective,
        32,
        guidance_scale=guidance_scale,
        sampling_steps=4,
        generation_chunk_size=1,
        condition_dropout=0.0,
    )
    module.configure_model()
    return module


def stock_image(pipeline: Any, prompt: str, size: Size, call: Mapping[str, Any]) -> Any:
    """Draw one image with seed 7, as values from 0 to 1 of [height, width, 3]."""
    pipeline.set_progress_bar_config(disable=True)
    numbers = {"height": size.height_px, "width": size.width_px, **call}
    return pipeline(prompt, **numbers, generator=torch.Generator().manual_seed(7), output_type="np").images[0]
