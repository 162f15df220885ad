"""Import diffusers and peft without bitsandbytes where bitsandbytes has nothing to run on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def import_diffusers() -> None:
    """Import the model code of diffusers; without an accelerator, bitsandbytes is left out of it.

    diffusers imports peft, and both import bitsandbytes, whether weights are quantised or not: on a CPU that costs a
    second and prints a warning about a kernel that nobody asked for, as the first line of a run. Quantised pipelines
    need an accelerator anyway. transformers, which quantises on a CPU as well, still finds bitsandbytes afterwards.
    """
    if "diffusers" in sys.modules:
        return
    with without_bitsandbytes():
        import diffusers.models.modeling_utils  # noqa: F401
        import peft  # noqa: F401


def diffusers_class(name: str) -> Any:
    """Return a class of diffusers, which is imported only now: that takes seconds.

    Args:
        name: Of the class.
    """
    import_diffusers()
    return getattr(importlib.import_module("diffusers"), name)


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """Let libraries find no bitsandbytes for a while, where there is no accelerator and nobody has imported it yet."""
    import torch
    from transformers.utils import is_bitsandbytes_available

    hidden = not torch.accelerator.is_available() and "bitsandbytes" not in sys.modules
    is_bitsandbytes_available()  # transformers remembers its first answer, which must be the true one
    if hidden:
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # Python reads this as: no such package
    try:
        yield
    finally:
        if hidden:
            del sys.modules["bitsandbytes"]
            if "peft" in sys.modules:  # it remembers its answer, too
                from peft import import_utils

                import_utils.is_bnb_available.cache_clear()
                import_utils.is_bnb_4bit_available.cache_clear()
