"""Families of transformers: what each is built from and how it is called."""

from evolvedirector.lightning_modules.families.family import TransformerFamily
from evolvedirector.lightning_modules.families.pixart import PixArt, edgen_xl_2, pixart_alpha_xl_2

__all__ = ["PixArt", "TransformerFamily", "edgen_xl_2", "pixart_alpha_xl_2"]
