"""Every shipped YAML parses in the composition that its own header names."""

import shlex
from pathlib import Path

import pytest

import evolvedirector.configs
from evolvedirector.commands.lightning_cli import ParsedConfig

CONFIGS = evolvedirector.configs.path()
ROOT = CONFIGS.parent
RECIPES = sorted(CONFIGS.rglob("*.yaml"))
HEADER = ("Trains:", "Hardware:", "Downloads:", "# Command:")


def command_of(recipe: Path) -> list[str]:
    """Return the words of a recipe's `# Command:` line, without those that only print."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith("# Command: "))
    words = shlex.split(line.removeprefix("# Command: "))
    assert words[0] == "evolvedirector", line
    return [word for word in words[1:] if word != "--print_config"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_recipe_parses_as_its_header_says(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = command_of(recipe)
    assert recipe.relative_to(ROOT).as_posix() in words, "the command does not use this file"
    assert ParsedConfig(words).config.subcommand == words[0]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_recipe_says_what_it_trains_on_what_and_how(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    assert [word for word in HEADER if word not in text] == []


def test_recipes_are_shipped() -> None:
    assert (CONFIGS / "base.yaml") in RECIPES
