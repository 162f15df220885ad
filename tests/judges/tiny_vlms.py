"""Vision-language models of a few thousand random parameters, saved as real ones are: config, processor, weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
VISION: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer(*control: str, **named: str) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer on a handful of words; `control` are signs of its own, `named` get attributes."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>", *control, *named.values()]
    trainer = trainers.BpeTrainer(
        vocab_size=360, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    inner.train_from_iterator(["yes no Yes No A B picture of two images which fits this exactly"] * 3, trainer)
    named_signs: dict[str, Any] = {"extra_special_tokens": named} if named else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", **named_signs
    )


def chat_template(picture: str) -> str:
    """Write a chat template that shows a picture by this sign."""
    return (
        "{% for m in messages %}{{ m.role }}: {% for c in m.content %}{% if c.type == 'image' %}"
        + picture
        + "{% else %}{{ c.text }}{% endif %}{% endfor %}{{ '\\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}assistant:{% endif %}"
    )


def token_id(words: PreTrainedTokenizerFast, sign: str) -> Any:
    """Return the token of a sign."""
    return words.convert_tokens_to_ids(sign)


def signs(words: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Name the tokens that every configuration wants to know."""
    return {"pad_token_id": words.pad_token_id, "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}


def save_parts(
    folder: Path, pictures: Any, words: PreTrainedTokenizerFast, picture: str, name: str, **settings: Any
) -> None:
    """Save a processor piece by piece: without torchvision it cannot even be built whole."""
    pictures.save_pretrained(folder)
    words.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(chat_template(picture), encoding="utf-8")
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": name, **settings}), encoding="utf-8")


def save(architecture: Any, config: Any, folder: Path) -> Path:
    """Save a model of random weights beside its processor."""
    from transformers.utils import logging

    torch.manual_seed(0)
    logging.disable_progress_bar()
    model = architecture(config)
    with torch.no_grad():  # random models of small weights say nearly the same of everything
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return folder


def save_llava(
    folder: Path, pictures: Any, processor: Any, configuration: Any, architecture: Any, **settings: Any
) -> Path:
    """Save a CLIP tower and a Llama, one token per patch: what all kinds of LLaVA have."""
    words = tokenizer("<image>")
    processor(
        pictures,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>\n"),
    ).save_pretrained(folder)
    config = configuration(
        vision_config=CLIPVisionConfig(**VISION, image_size=28, patch_size=14),
        text_config=LlamaConfig(**TEXT, vocab_size=len(words), **signs(words)),
        image_token_index=token_id(words, "<image>"),
        vision_feature_layer=-1,
        **settings,
        **signs(words),
    )
    return save(architecture, config, folder)


def llava(folder: Path) -> Path:
    """LLaVA: one picture of one size."""
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    pictures = LlavaImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return save_llava(folder, pictures, LlavaProcessor, LlavaConfig, LlavaForConditionalGeneration)
