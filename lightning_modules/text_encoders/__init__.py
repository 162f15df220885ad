"""Text encoders: frozen models that turn a prompt into token states."""

from evolvedirector.lightning_modules.text_encoders.clip_encoder import CLIPEncoder
from evolvedirector.lightning_modules.text_encoders.minilm_encoder import MiniLMEncoder
from evolvedirector.lightning_modules.text_encoders.random_text_encoder import RandomTextEncoder
from evolvedirector.lightning_modules.text_encoders.t5_encoder import T5Encoder
from evolvedirector.lightning_modules.text_encoders.text_encoder import FrozenPart, PooledTextEncoder, TextEncoder

__all__ = [
    "CLIPEncoder",
    "FrozenPart",
    "MiniLMEncoder",
    "PooledTextEncoder",
    "RandomTextEncoder",
    "T5Encoder",
    "TextEncoder",
]
