"""`evolvedirector doctor`: what is installed, what this machine can do, and what each recipe still needs."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

import evolvedirector
import evolvedirector.configs
from evolvedirector.assets.cache import cache_folder
from evolvedirector.commands.console import plain_console
from evolvedirector.errors import UserError
from evolvedirector.planning.recipe_needs import (
    Need,
    Recipe,
    missing_artwork,
    missing_package,
    read_recipe,
    requirements,
)
from evolvedirector.store.paths import user_path

if TYPE_CHECKING:
    from rich.console import Console

Rows = dict[str, str]
LEAST_FREE_BYTES = 2**30
"""A quickstart writes about 300 MB: checkpoints, the dataset, previews."""
REMEDY = "  <- "
"""Stands between what is missing and the line to write."""
_EXTRAS = ("miniature", "emoji")
_OPTIONAL = ("wandb",)
_KEYS = ("HF_TOKEN", "WANDB_API_KEY")
_MOST_FILES = 200_000  # counted in a folder; more would take minutes on a network disk


def main(args: list[str]) -> int:
    """Print what is here and what is missing; 0 when the quickstart can run, else 1. Nothing is fetched or built.

    Args:
        args: The words after `doctor`.
    """
    parser = argparse.ArgumentParser(
        prog="evolvedirector doctor",
        description="Say what is installed, what this machine can do and what each recipe needs. No network is used. "
        "The exit code is 0 when the quickstart can run here, else 1.",
    )
    parser.parse_args(args)
    cache, devices = cache_folder(), device_rows()
    accelerators = [name for name in ("cuda", "mps") if any(key.startswith(name) for key in devices)]
    folder = evolvedirector.configs.path()
    recipes = [read_recipe(path, cache, accelerators) for path in evolvedirector.configs.recipe_files()]
    problems = quickstart_problems(recipes)
    console = plain_console(None if sys.stdout.isatty() else 120)
    for title, rows in (
        ("packages", package_rows()),
        ("devices", devices),
        ("folders", folder_rows(cache)),
        ("keys", key_rows()),
    ):
        _print(console, title, rows)
    _print(console, "recipes", dict(recipe_row(recipe, folder) for recipe in recipes))
    for problem in problems:
        console.print(f"Missing: {problem.what}.{f' Write: {problem.remedy}' if problem.remedy else ''}")
    quickstart = f"evolvedirector fit -c {shown_path(folder / 'quickstart.yaml', folder)}"
    console.print("The quickstart cannot run yet." if problems else f"The quickstart can run: {quickstart}")
    return 1 if problems else 0


def quickstart_problems(recipes: list[Recipe]) -> list[Need]:
    """List what keeps the quickstart from running: packages, room on the disk, a folder that cannot be written.

    Args:
        recipes: The shipped recipes, read on this machine.
    """
    quickstart = [recipe for recipe in recipes if recipe.path.name == "quickstart.yaml"]
    found = [need for recipe in quickstart for need in recipe.lacks]
    found += [need for req in requirements() if req.marker is None and (need := missing_package(req.name))]
    if not quickstart:
        found.append(Need("the configs of this package", "pip install --force-reinstall evolvedirector"))
    here = Path.cwd()
    if not os.access(here, os.W_OK):
        found.append(Need(f"the right to write into {here}", "cd into a folder of your own"))
    if (free := shutil.disk_usage(here).free) < LEAST_FREE_BYTES:
        found.append(Need(f"room in {here}: {_size(free)} is free and {_size(LEAST_FREE_BYTES)} is wanted"))
    return list(dict.fromkeys(found))


def package_rows() -> Rows:
    """List versions: this project, what it requires and what its extras bring; what is missing has a row of its own."""
    rows: Rows = {"evolvedirector": f"{evolvedirector.__version__} on Python {platform.python_version()}"}
    groups = {"required": [req.name for req in requirements() if req.marker is None]}
    groups |= {f"extra {extra}": [req.name for req in requirements(extra)] for extra in _EXTRAS}
    for group, names in {**groups, "optional": list(_OPTIONAL)}.items():
        needs = {name: missing_package(name) for name in names}
        rows[group] = ", ".join(f"{name} {_version(name)}" for name, need in needs.items() if need is None) or "none"
        rows |= {name: f"missing{REMEDY}{need.remedy}" for name, need in needs.items() if need is not None}
    return rows


def device_rows() -> Rows:
    """Say what torch finds and what it can do: memory, bf16, cores."""
    try:
        import torch
    except (ImportError, OSError) as error:  # a broken installation raises OSError for a missing shared library
        return {"torch": f"cannot be imported: {error}"}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = torch.backends.cpu.get_cpu_capability()
    rows: Rows = {"cpu": f"{cores} cores, {_memory()}, {kind}, torch uses {torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        bf16 = "bf16 (write trainer.precision: bf16-mixed)" if torch.cuda.is_bf16_supported(False) else "no bf16"
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            rows[f"cuda:{index}"] = f"{found.name}, {_size(found.total_memory)}, {bf16}"
    elif torch.backends.mps.is_available():
        rows["mps"] = "Apple GPU, shares the memory of the CPU"
    else:
        rows["gpu"] = "none that torch can use; the recipes for CPU run"
    return rows


def folder_rows(cache: Path) -> Rows:
    """Say where things lie, how large they are and how much room is left.

    Args:
        cache: The cache folder.
    """
    here = Path.cwd()
    artwork = missing_artwork(cache)
    state = "complete" if artwork is None else f"{artwork.what.partition(': ')[2]}{REMEDY}{artwork.remedy}"
    rows: Rows = {"here": f"{here} ({_size(shutil.disk_usage(here).free)} free)"}
    if (here / "runs").is_dir():
        rows["runs"] = f"{sum(path.is_dir() for path in (here / 'runs').iterdir())} run folders, {_used(here / 'runs')}"
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    rows["cache"] = f"{cache} ({_used(cache)}, {_size(shutil.disk_usage(existing).free)} free)"
    rows["emoji artwork"] = state
    try:
        hub = user_path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
        rows["Hugging Face cache"] = f"{hub} ({_used(hub)})"
    except UserError as error:
        rows["Hugging Face cache"] = str(error)
    return rows


def key_rows() -> Rows:
    """Say which keys are set; their values are never shown."""
    names = sorted({*_KEYS, *(name for name in os.environ if name.endswith("_API_KEY"))})
    return {name: "set" if os.environ.get(name) else "not set" for name in names}


def recipe_row(recipe: Recipe, folder: Path) -> tuple[str, str]:
    """Return a recipe's name, and whether it runs here with the line to write.

    Args:
        recipe: The recipe.
        folder: The folder of all configs.
    """
    name = recipe.path.relative_to(folder).as_posix()
    shown = recipe.command.replace(f"configs/{name}", shown_path(recipe.path, folder))
    if recipe.lacks:
        lines = [f"needs {need.what}{REMEDY + need.remedy if need.remedy else ''}" for need in recipe.lacks]
        return name, "\n".join(lines)
    if recipe.is_part:
        return name, f"part of a run ({recipe.hardware})"
    return name, f"ready ({recipe.hardware})\n{shown}"


def shown_path(path: Path, folder: Path) -> str:
    """Return how a config is written on a command line from here: relative where the checkout is here, else whole."""
    local = Path("configs") / path.relative_to(folder)
    return str(local) if local.exists() and local.samefile(path) else str(path)


def _print(console: Console, title: str, rows: Rows) -> None:
    table = Table("", "", title=title, title_justify="left", title_style="bold", show_header=False, box=None)
    table.columns[0].no_wrap = True
    table.columns[1].overflow = "fold"
    for name, value in rows.items():
        style = "yellow" if REMEDY in value or value.startswith("needs ") else ""
        table.add_row(Text(f"  {name}"), Text(value, style=style))
    console.print(table)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> str:
    try:
        return f"{_size(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))} memory"
    except (AttributeError, ValueError, OSError):  # Windows
        return "memory unknown"


def _used(folder: Path) -> str:
    sizes: list[int] = []
    for size in _file_sizes(folder):
        sizes.append(size)
        if len(sizes) == _MOST_FILES:
            return f"more than {_size(sum(sizes))}"
    return _size(sum(sizes)) if folder.exists() else "not there yet"


def _file_sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.lstat(os.path.join(place, name)).st_size
            except OSError:  # deleted meanwhile
                continue


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"
