"""The site builds without a warning, opens from disk and fetches nothing; generated parts match their sources."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from evolvedirector.configs import path as configs
from evolvedirector.configs import recipe_files

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    """The site's own page generator."""
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_recipe_is_described_by_its_header(generated: ModuleType) -> None:
    head = "# Trains: a student\n#   on scenes.\n# Hardware: any. Downloads: nothing.\n# A note.\n# Command: run it\n"
    text = head + "a: 1\n# no"
    assert generated.header_fields(text) == {
        "Trains": "a student on scenes.", "Hardware": "any.", "Downloads": "nothing.", "Notes": "A note.",
        "Command": "run it",
    }  # fmt: skip


def test_every_recipe_is_shown(generated: ModuleType) -> None:
    shown = generated.on_page_markdown("<!-- generated: recipes -->\n")
    for path in recipe_files():
        assert f"### configs/{path.relative_to(configs()).as_posix()}\n" in shown
    assert shown.count("**Hardware**") == len(recipe_files())
    assert "generated:" not in shown


def test_known_limits_stand_in_one_place_and_the_changelog_is_short() -> None:
    assert (ROOT / "docs/limits.md").read_text("utf-8").count("\n- ") > 20
    for path in (ROOT / "CHANGELOG.md", ROOT / "README.md"):
        text = path.read_text("utf-8")
        assert "docs/limits.md" in text and "known limits\n" not in text.lower(), f"{path.name} lists limits of its own"
    for section in (ROOT / "CHANGELOG.md").read_text("utf-8").split("\n## ")[1:]:
        assert len(section.splitlines()) <= 125


def test_a_marker_with_a_typing_mistake_is_an_error(generated: ModuleType) -> None:
    with pytest.raises(KeyError):
        generated.on_page_markdown("<!-- generated: recipies -->")


def test_the_site_is_not_in_the_repository_nor_in_the_wheel() -> None:
    assert "/site/" in (ROOT / ".gitignore").read_text().splitlines()
    packages = (ROOT / "setup.cfg").read_text().partition("packages =")[2].partition("package_dir")[0]
    assert "docs" not in packages and "site" not in packages


def test_every_class_of_a_recipe_is_on_an_api_page() -> None:
    recipes = "\n".join(path.read_text("utf-8") for path in recipe_files())
    pages = "\n".join(path.read_text("utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    shown = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", pages, flags=re.MULTILINE)}
    named = {name.rpartition(".")[2] for name in re.findall(r"\bevolvedirector(?:\.\w+)+\.[A-Z]\w+", recipes)}
    assert named - shown == set(), "write `::: path.of.the.Class` on a page of docs/api/"


@pytest.mark.slow
def test_nothing_is_fetched(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text("utf-8")):
            address = re.search(r'(?:src|href)="([^"]*)"', tag)
            assert not address or not re.match(r"(https?:)?//", address.group(1)), f"{page.name}: {tag}"


@pytest.mark.slow
def test_pages_open_from_disk(site: Path) -> None:
    """Every relative address of every page is a file, so no link needs a server."""
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for address in re.findall(r'(?:src|href)="([^"#?]+)', page.read_text("utf-8")):
            if not re.match(r"[a-z]+:", address):
                assert (page.parent / address).is_file(), f"{page.relative_to(site)}: {address}"
    assert (site / "search" / "search_index.js").is_file()  # what a page without a server can load


@pytest.mark.slow
def test_the_api_pages_show_signatures_and_docstrings(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "api" / "callbacks.html").read_text("utf-8"))
    assert "budget_teacher_calls: 2000" in text  # an example
    assert "every_n_epochs" in text and "Epochs between rounds." in text
    assert "on_train_epoch_end" not in text  # what Lightning calls is no one else's business
    names = {path.stem for path in (site / "api").glob("*.html")}
    assert names == {path.stem for path in (ROOT / "docs" / "api").glob("*.md")}
