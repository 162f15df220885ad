"""Families of transformers: what each is built from and how it is called."""

from typing import Any

from evolvedirector.lightning_modules.families.family import TransformerFamily
from evolvedirector.lightning_modules.families.pixart import PixArt, edgen_xl_2, pixart_alpha_xl_2
from evolvedirector.renamed import old_attribute

__all__ = ["PixArt", "TransformerFamily", "edgen_xl_2", "pixart_alpha_xl_2"]


def __getattr__(name: str) -> Any:
    return old_attribute(__name__, name)
