"""Families of networks: what each is built from, what it reads and how it is called."""

from typing import Any

from evolvedirector.lightning_modules.families.family import Family, KeyMap, Layout
from evolvedirector.lightning_modules.families.pixart import PixArt, edgen_xl_2, pixart_alpha_xl_2
from evolvedirector.lightning_modules.families.sd3 import SD3
from evolvedirector.renamed import old_attribute

__all__ = ["SD3", "Family", "KeyMap", "Layout", "PixArt", "edgen_xl_2", "pixart_alpha_xl_2"]


def __getattr__(name: str) -> Any:
    return old_attribute(__name__, name)
