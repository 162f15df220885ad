"""The tiny vision-language model: a SigLIP tower, a projector and a small Llama, as LLaVA (Liu et al. 2023) joins them.

The class is Aya Vision's (Dash et al. 2025): LLaVA whose projector joins 2 x 2 patches to one token, so that the
language model reads 16 tokens a picture and not 64.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    CLIPImageProcessorPil,
    LlamaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from benchmarks.tiny_vlm_pictures import IMAGE_SIZE_PX, WORLD
from benchmarks.tiny_vlm_questions import NUMBER_WORDS
from evolvedirector.judges.questions.judge_questions import PAIR_QUESTION
from evolvedirector.records.questions import CHECK_QUESTION
from evolvedirector.worlds.shapes.shapes import PLURALS

PATCH_PX = 4
JOINED_PATCHES = 2
"""Patches of a row that become one token, and likewise of a column."""
IMAGE_TOKENS = (IMAGE_SIZE_PX // PATCH_PX // JOINED_PATCHES) ** 2
VISION_WIDTH = 128
IMAGE_TOKEN = "<image>"
_CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }} "
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }} {% endif %}{% endfor %}{% endif %}{% endfor %}"
)
_PHRASES = (
    "Answer yes or no.",
    "Is there a",
    "Is the number of",
    "Is the",
    "How many",
    "What colour is the",
    "What shape is",
    "Where is the",
    "from the",
    "left of",
    "right of",
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of the grammar's words, with one token for each standing phrase of the questions.

    One token per phrase is what a learned tokenizer would find in this language too, and it makes a question half as
    long.
    """
    before_check, after_check = CHECK_QUESTION.split("{prompt}")
    before_pair, after_pair = PAIR_QUESTION.split("{prompt}")
    words = [
        *("<pad>", "<unk>", "</s>", IMAGE_TOKEN, "yes", "no", "A", "B", "Yes", "No"),
        *("a", "an", "and", "the", "is", "Is", "of", "above", "below", "objects", "?", ".", ",", ":", '"', "'"),
        *WORLD.colours,
        *(word for shape in WORLD.shapes for word in (shape, PLURALS[shape])),
        *NUMBER_WORDS.values(),
    ]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[^\w<>/]"), "isolated")]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    phrases = (before_check, after_check, before_pair, after_pair, *_PHRASES)
    tokenizer.add_tokens([AddedToken(text.strip(), normalized=False, lstrip=True, rstrip=True) for text in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=[IMAGE_TOKEN],
        model_max_length=1024,
        padding_side="left",
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Join the tokenizer with an image processor that resizes to the tower's 32 px."""
    side = {"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}
    images = CLIPImageProcessorPil(
        size=side,
        do_center_crop=False,
        crop_size=side,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH_PX * JOINED_PATCHES,
        vision_feature_select_strategy="full",
        chat_template=_CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> AyaVisionForConditionalGeneration:
    """Make the model with random weights: some 2 million parameters."""
    vision = SiglipVisionConfig(
        image_size=IMAGE_SIZE_PX,
        patch_size=PATCH_PX,
        hidden_size=VISION_WIDTH,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        vision_use_head=False,
        attention_dropout=0.0,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        initializer_range=0.06,  # 0.02 is for wide models; narrow ones start on a plateau with it
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    # A mapping: the width inside the projector is read by the model but not declared by its configuration.
    settings: dict[str, Any] = dict(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.encode(IMAGE_TOKEN, add_special_tokens=False)[0],
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        downsample_factor=JOINED_PATCHES,
        alignment_intermediate_size=512,
        tie_word_embeddings=True,
    )
    return AyaVisionForConditionalGeneration(AyaVisionConfig(**settings))
