"""Further vision-language families as tiny random models; apart from LLaVA, since each brings a large import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
)

from tests.judges.tiny_vlms import (
    TEXT,
    VISION,
    chat_template,
    llava,
    save,
    save_llava,
    save_parts,
    signs,
    token_id,
    tokenizer,
)


def internvl(folder: Path) -> Path:
    """InternVL: tiles of a picture, pixel shuffle, a processor that also knows videos and pads on the left."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    words = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    pictures = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, min_patches=1, max_patches=2)
    save_parts(folder, pictures, words, "<IMG_CONTEXT>\n", "InternVLProcessor", image_seq_length=1)
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**VISION, image_size=[28, 28], patch_size=[14, 14]),
        text_config=Qwen2Config(**TEXT, vocab_size=len(words), **signs(words)),
        image_token_id=token_id(words, "<IMG_CONTEXT>"),
        image_seq_length=1,
        downsample_ratio=0.5,
    )
    return save(InternVLForConditionalGeneration, config, folder)


def gemma3(folder: Path) -> Path:
    """Gemma 3: sliding windows, attention in both directions inside a picture, its own text around each picture."""
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    words = tokenizer(boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>")
    pictures = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    Gemma3Processor(
        pictures, words, image_seq_length=1, chat_template=chat_template("<start_of_image>")
    ).save_pretrained(folder)
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**VISION, image_size=28, patch_size=14),
        text_config=Gemma3TextConfig(
            **TEXT,
            head_dim=16,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
            vocab_size=len(words),
            query_pre_attn_scalar=16,
            **signs(words),
        ),
        mm_tokens_per_image=1,
        boi_token_index=token_id(words, "<start_of_image>"),
        eoi_token_index=token_id(words, "<end_of_image>"),
        image_token_index=token_id(words, "<image_soft_token>"),
    )
    return save(Gemma3ForConditionalGeneration, config, folder)


def llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: the whole picture and tiles of it, as many as its shape asks for."""
    from transformers import LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    grid = [[28, 56], [56, 28], [56, 56]]
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=grid
    )
    parts = (LlavaNextProcessor, LlavaNextConfig, LlavaNextForConditionalGeneration)
    return save_llava(folder, pictures, *parts, image_grid_pinpoints=grid)


def save_qwen(
    folder: Path,
    pictures: Any,
    processor: str,
    configuration: Any,
    architecture: Any,
    vision: dict[str, Any],
    text: dict[str, Any],
) -> Path:
    """Save what all kinds of Qwen-VL have: positions in three dimensions, a processor that also knows videos."""
    words = tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    save_parts(folder, pictures, words, "<|vision_start|><|image_pad|><|vision_end|>", processor)
    config = configuration(
        vision_config={**VISION, "depth": 2, "num_heads": 2, "out_hidden_size": 32, **vision},
        text_config={
            **TEXT,
            "vocab_size": len(words),
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
            **text,
            **signs(words),
        },
        image_token_id=token_id(words, "<|image_pad|>"),
        video_token_id=token_id(words, "<|video_pad|>"),
        vision_start_token_id=token_id(words, "<|vision_start|>"),
        vision_end_token_id=token_id(words, "<|vision_end|>"),
    )
    return save(architecture, config, folder)


def qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL: any resolution, and blocks of the eye that see the whole picture."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    pictures = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56})
    parts = ("Qwen2_5_VLProcessor", Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration)
    return save_qwen(folder, pictures, *parts, vision={"fullatt_block_indexes": [1]}, text={})


def qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: features of early layers of the eye go to several layers of the text model."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    pictures = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}, patch_size=16, merge_size=2
    )
    parts = ("Qwen3VLProcessor", Qwen3VLConfig, Qwen3VLForConditionalGeneration)
    vision = {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    return save_qwen(folder, pictures, *parts, vision=vision, text={"head_dim": 16})


def paligemma(folder: Path) -> Path:
    """PaliGemma: no chat at all, and attention in both directions over picture and question."""
    from transformers import PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    words = tokenizer(image_token="<image>")
    pictures: Any = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    pictures.image_seq_length = 4
    PaliGemmaProcessor(pictures, words).save_pretrained(folder)
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**VISION, image_size=28, patch_size=14),
        text_config=GemmaConfig(**TEXT, head_dim=16, vocab_size=len(words), **signs(words)),
        image_token_index=token_id(words, "<image>"),
        projection_dim=32,
        hidden_size=32,
        **signs(words),
    )
    return save(PaliGemmaForConditionalGeneration, config, folder)


def idefics3(folder: Path) -> Path:
    """Idefics3: tiles of a picture in rows and columns, each with signs of its own in the text."""
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    words = tokenizer("<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>")
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    Idefics3Processor(pictures, words, image_seq_len=1, chat_template=chat_template("<image>")).save_pretrained(folder)
    config = Idefics3Config(
        vision_config={**VISION, "image_size": 28, "patch_size": 14},
        text_config=LlamaConfig(**TEXT, vocab_size=len(words), **signs(words)),
        image_token_id=token_id(words, "<image>"),
        scale_factor=2,
    )
    return save(Idefics3ForConditionalGeneration, config, folder)


ARCHITECTURES: dict[str, Callable[[Path], Path]] = {
    "llava": llava,
    "qwen2_5_vl": qwen2_5_vl,
    "internvl": internvl,
    "gemma3": gemma3,
    "llava_next": llava_next,
    "qwen3_vl": qwen3_vl,
    "paligemma": paligemma,
    "idefics3": idefics3,
}
