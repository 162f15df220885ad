"""Every shipped YAML parses in the composition that its own header names."""

import re
import shlex
from pathlib import Path

import pytest

import evolvedirector.configs
from tests.parsed_config import ParsedConfig

CONFIGS = evolvedirector.configs.path()
ROOT = CONFIGS.parent
RECIPES = evolvedirector.configs.recipe_files()
BORING = "lightning.pytorch.demos.boring_classes.Boring"


def command_of(recipe: Path) -> list[str]:
    """Return the words of a recipe's `# Command:` line (`# Use:` for a part of a run), with its `#   --flags` lines.

    A part ends in `...`: what it leaves open is filled with a module and data of Lightning's own.
    """
    text = recipe.read_text(encoding="utf-8")
    found = re.search(r"^# (?:Command|Use): (.*\n(?:#\s+--.*\n)*)", text, flags=re.MULTILINE)
    assert found, f"{recipe} has no `# Command:` line"
    words = shlex.split(found.group(1).replace("#", " ").replace("HASH", "a" * 40))
    words = words[words.index("evolvedirector") + 1 :]
    files = "".join((ROOT / word).read_text(encoding="utf-8") for word in words if word.endswith(".yaml"))
    for key, name in (("model", "Model"), ("data", "DataModule")):
        if not re.search(rf"^{key}:", files, flags=re.MULTILINE) and f"--{key}" not in words:
            words += [f"--{key}", BORING + name]
    return [word for word in words if word not in ("...", "--print_config")]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_recipe_parses_as_its_header_says(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = command_of(recipe)
    assert recipe.relative_to(ROOT).as_posix() in words, "the command does not use this file"
    assert ParsedConfig(words).config.subcommand == words[0]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_recipe_says_on_what_it_runs_and_what_it_downloads(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    assert [word for word in ("Hardware:", "Downloads:") if word not in text] == []


def test_recipes_are_shipped() -> None:
    assert (CONFIGS / "base.yaml") in RECIPES
