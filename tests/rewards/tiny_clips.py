"""CLIPs of random weights, saved as real ones are."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from evolvedirector.callbacks._run.drawing import encode_png
from evolvedirector.records import ImageAndPrompt
from tests.judges.tiny_vlms import TEXT, VISION, save, signs, tokenizer

PROMPTS = ["a red circle", "two green stars and a blue square"]
IMAGES = torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ITEMS = [
    ImageAndPrompt(str(place), encode_png(image), prompt)
    for place, (image, prompt) in enumerate(zip(IMAGES, PROMPTS, strict=True))
]


def save_tiny_clip(path: Path) -> CLIPModel:
    words = tokenizer()
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    CLIPProcessor(pictures, words).save_pretrained(path)
    heads = {name: value for name, value in TEXT.items() if name != "num_key_value_heads"}
    text = {**heads, **signs(words), "max_position_embeddings": 64, "vocab_size": len(words), "hidden_act": "gelu"}
    vision = {**VISION, "image_size": 28, "patch_size": 14, "hidden_act": "gelu"}
    save(CLIPModel, CLIPConfig(text_config=text, vision_config=vision, projection_dim=8), path)
    return CLIPModel.from_pretrained(path).eval()
