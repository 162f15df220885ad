"""Families of networks: what each is built from, what it reads and how it is called."""

from typing import Any

from evolvedirector.lightning_modules.families.family import Family, KeyMap, Layout
from evolvedirector.lightning_modules.families.flux1 import Flux1
from evolvedirector.lightning_modules.families.flux2 import Flux2Klein
from evolvedirector.lightning_modules.families.pixart import PixArt
from evolvedirector.lightning_modules.families.pixart_published import edgen_xl_2, pixart_alpha_xl_2, pixart_sigma_xl_2
from evolvedirector.lightning_modules.families.qwen_image import QwenImage
from evolvedirector.lightning_modules.families.sana import Sana
from evolvedirector.lightning_modules.families.sd3 import SD3
from evolvedirector.lightning_modules.families.sdxl import SDXL
from evolvedirector.lightning_modules.families.stable_diffusion import StableDiffusion
from evolvedirector.lightning_modules.families.z_image import ZImage
from evolvedirector.renamed import old_attribute

__all__ = [
    "SD3",
    "SDXL",
    "Family",
    "Flux1",
    "Flux2Klein",
    "KeyMap",
    "Layout",
    "PixArt",
    "QwenImage",
    "Sana",
    "StableDiffusion",
    "ZImage",
    "edgen_xl_2",
    "pixart_alpha_xl_2",
    "pixart_sigma_xl_2",
]


def __getattr__(name: str) -> Any:
    return old_attribute(__name__, name)
