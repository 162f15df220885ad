"""Families of networks: what each is built from, what it reads and how it is called."""

from evolvedirector.lightning_modules.families.family import Family, KeyMap, Layout
from evolvedirector.lightning_modules.families.pixart import PixArt, edgen_xl_2, pixart_alpha_xl_2
from evolvedirector.lightning_modules.families.sd3 import SD3

__all__ = ["SD3", "Family", "KeyMap", "Layout", "PixArt", "edgen_xl_2", "pixart_alpha_xl_2"]
