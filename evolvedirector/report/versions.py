"""What a run ran with: the versions that matter, read without importing anything."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "evolvedirector", "torch", "lightning", "diffusers", "transformers", "webdataset", "torchmetrics", "bitsandbytes",
    "safetensors", "numpy", "pillow", "jsonargparse", "tensorboard", "plotly", "jinja2",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of Python, the system and the packages that are installed."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
