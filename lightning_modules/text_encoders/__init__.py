"""Text encoders: frozen models that turn a prompt into token states."""

from evolvedirector.lightning_modules.text_encoders.clip_encoder import CLIPEncoder
from evolvedirector.lightning_modules.text_encoders.flux2_qwen3_encoder import Flux2Qwen3Encoder
from evolvedirector.lightning_modules.text_encoders.gemma2_encoder import Gemma2Encoder
from evolvedirector.lightning_modules.text_encoders.minilm_encoder import MiniLMEncoder
from evolvedirector.lightning_modules.text_encoders.qwen_vl_encoder import QwenVLEncoder
from evolvedirector.lightning_modules.text_encoders.random_text_encoder import RandomTextEncoder
from evolvedirector.lightning_modules.text_encoders.t5_encoder import T5Encoder
from evolvedirector.lightning_modules.text_encoders.text_encoder import FrozenPart, PooledTextEncoder, TextEncoder
from evolvedirector.lightning_modules.text_encoders.z_image_qwen3_encoder import ZImageQwen3Encoder

__all__ = [
    "CLIPEncoder",
    "Flux2Qwen3Encoder",
    "FrozenPart",
    "Gemma2Encoder",
    "MiniLMEncoder",
    "PooledTextEncoder",
    "QwenVLEncoder",
    "RandomTextEncoder",
    "T5Encoder",
    "TextEncoder",
    "ZImageQwen3Encoder",
]
