"""A hub of tiny stand-ins: recipes run as they are written, each model by its own name, of its own classes.

`EVOLVEDIRECTOR_MODELS` names a folder that is laid out as the hub is (docs/configs.md). A test fills one with models of
a few thousand weights under the names that its recipe uses, and sets the variable: no name in the recipe is replaced.
What a recipe says of its models in numbers (width, layers, side) then stands in one more YAML behind it, as those of
tests/test_recipes.py do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

import evolvedirector
from tests.lightning_modules.decoders.tiny_decoders import (
    save_clip,
    save_kandinsky,
    save_karlo,
    save_prior_of_kandinsky,
)
from tests.lightning_modules.families.tiny_sd import save_sdxl, save_stable_diffusion
from tests.teachers.tiny_pipelines import kl_autoencoder, save_tiny, t5_text, word_tokenizer

VARIABLE = "EVOLVEDIRECTOR_MODELS"
_JUDGE = Path(evolvedirector.__file__).parent / "worlds" / "shapes" / "vlm"


def pixart_alpha(folder: Path, sized: bool) -> None:
    """Save a whole PixArt-alpha; with `sized` its network embeds resolution and aspect ratio, as at 1024 px."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    network = PixArtTransformer2DModel(
        **{"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "cross_attention_dim": 24},
        **{"sample_size": 16, "caption_channels": 32, "interpolation_scale": 2 if sized else 1},
        use_additional_conditions=sized,
    )
    tokenizer: Any = word_tokenizer(12)
    end = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])  # an empty text has one token, as T5's
    tokenizer.backend_tokenizer.post_processor = end
    scheduler = DPMSolverMultistepScheduler()
    PixArtAlphaPipeline(tokenizer, t5_text(), kl_autoencoder(), network, scheduler).save_pretrained(folder)


MODELS: dict[str, Callable[[Path], Any]] = {
    "PixArt-alpha/PixArt-XL-2-512x512": lambda folder: pixart_alpha(folder, sized=False),
    "PixArt-alpha/PixArt-XL-2-1024-MS": lambda folder: pixart_alpha(folder, sized=True),
    "stabilityai/sd-vae-ft-ema": lambda folder: kl_autoencoder().save_pretrained(folder),
    "stabilityai/stable-diffusion-xl-base-1.0": save_sdxl,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": save_stable_diffusion,
    "stabilityai/stable-diffusion-3.5-medium": lambda folder: pipeline(folder, "stable_diffusion_3"),
    "black-forest-labs/FLUX.1-schnell": lambda folder: pipeline(folder, "flux"),
    "openai/clip-vit-large-patch14": save_clip,
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": save_clip,
    "kandinsky-community/kandinsky-2-2-prior": save_prior_of_kandinsky,
    "kandinsky-community/kandinsky-2-2-decoder": save_kandinsky,
    "kakaobrain/karlo-v1-alpha": save_karlo,
    # the packaged judge stands for larger ones: it answers what it is asked
    "Qwen/Qwen3-VL-8B-Instruct": lambda folder: folder.symlink_to(_JUDGE),
    "OpenGVLab/InternVL3_5-8B-HF": lambda folder: folder.symlink_to(_JUDGE),
}
"""By name on the hub; each writes its stand-in into a folder that does not exist yet."""


def pipeline(folder: Path, family: str) -> None:
    """Save one of the teachers' pipelines under another name."""
    folder.symlink_to(save_tiny(family, folder.parents[1] / "pipelines"))


def tiny_hub(folder: Path, names: Iterable[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the stand-ins of some models, and let everything read them in place of the hub's.

    Args:
        folder: Of the hub; made here.
        names: On the hub.
        monkeypatch: Sets the variable for the rest of the test.
    """
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            MODELS[name](folder / name)
    monkeypatch.setenv(VARIABLE, str(folder))
