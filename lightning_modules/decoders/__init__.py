"""Decoders: from image embeddings to images."""

from evolvedirector.lightning_modules.decoders.kandinsky_decoder import KandinskyDecoder
from evolvedirector.lightning_modules.decoders.karlo_decoder import KarloDecoder

__all__ = ["KandinskyDecoder", "KarloDecoder"]
