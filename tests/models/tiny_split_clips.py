"""CLIPs of random weights as they are published: whole, and in the folders of a pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from evolvedirector.models.clip_towers import half_config, load_half
from evolvedirector.models.model_files import ModelSettings, ModelSource
from tests.rewards.tiny_clips import save_tiny_clip


def whole(folder: Path) -> Path:
    save_tiny_clip(folder)
    return folder


def stock(folder: Path) -> tuple[Any, Any]:
    """Load both halves of a whole CLIP with the width of its joint space written into them."""
    text = CLIPTextModelWithProjection.from_pretrained(folder, projection_dim=8)
    return text.eval(), CLIPVisionModelWithProjection.from_pretrained(folder, projection_dim=8).eval()


def split(clip: Path, folder: Path, processor: str = "image_processor") -> Path:
    """Save a whole CLIP again as a pipeline has it (Kandinsky 2.2: `image_processor`; Karlo: `feature_extractor`)."""
    for half, name in (("text", "text_encoder"), ("vision", "image_encoder")):
        source = ModelSource(str(clip), clip, None)
        config = half_config(half, source, None, None)  # type: ignore[arg-type]
        model = load_half(half, source, ModelSettings(str(clip), dtype="float32"), config)  # type: ignore[arg-type]
        model.save_pretrained(folder / name)
    AutoTokenizer.from_pretrained(clip).save_pretrained(folder / "tokenizer")
    AutoImageProcessor.from_pretrained(clip, backend="pil").save_pretrained(folder / processor)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyV22PriorPipeline"}), encoding="utf-8")
    return folder
