"""The wheel holds what the folders hold, and the tools see what the wheel holds."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools import find_packages
from setuptools.config.setupcfg import read_configuration

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def options() -> dict:
    """Read setup.cfg's options in a form that does not import the package."""
    return read_configuration(ROOT / "setup.cfg", ignore_option_errors=True)["options"]


def test_setup_cfg_lists_exactly_the_packages_there_are(options: dict) -> None:
    mapped = options["package_dir"]
    found = {"evolvedirector"} | {f"evolvedirector.{name}" for name in find_packages(str(ROOT / "evolvedirector"))}
    for name, folder in mapped.items():
        found |= {name} | {f"{name}.{sub}" for sub in find_packages(str(ROOT / folder))}
    assert set(options["packages"]) == found


def test_every_folder_with_code_is_a_package(options: dict) -> None:
    for folder in ("evolvedirector", *options["package_dir"].values()):
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), (
                f"{path.parent} has no __init__.py: a wheel would leave it out"
            )


def test_typings_link_to_every_part_of_the_package(options: dict) -> None:
    links = ROOT / "typings" / "evolvedirector"
    parts = {path.name for path in (ROOT / "evolvedirector").iterdir() if path.suffix in (".py", ".typed")}
    parts |= {name.split(".")[1] for name in options["packages"] if "." in name}
    assert {path.name for path in links.iterdir() if path.suffix != ".pyi"} == parts
    assert all(path.exists() for path in links.iterdir()), "a link points nowhere"


def test_the_mapped_folders_import_under_their_public_names(options: dict) -> None:
    for name, folder in options["package_dir"].items():
        assert Path(importlib.import_module(name).__file__).parent == ROOT / folder


def test_every_pinned_requirement_allows_its_pin(options: dict) -> None:
    from packaging.requirements import Requirement

    text = (ROOT / "constraints.txt").read_text()
    pins = dict(line.split("==") for line in text.splitlines() if line and not line.startswith("#"))
    extras = [requirement for extra in options["extras_require"].values() for requirement in extra]
    for requirement in map(Requirement, [*options["install_requires"], *extras]):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in pins, f"constraints.txt does not pin {name}"
        assert requirement.specifier.contains(pins[name]), f"{requirement} refuses its own pin {pins[name]}"


def test_constraints_name_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9-]+==[0-9A-Za-z.]+", line), line


def test_make_alone_prints_every_word_with_its_help() -> None:
    printed = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    for word in ("quickstart", "test", "test-slow", "coverage", "lint", "types", "bench", "wheel-check", "clean"):
        assert re.search(rf"make {word}\s+\w", printed), word


def test_the_store_and_the_records_import_without_torch() -> None:
    code = (
        "import sys, evolvedirector.records, evolvedirector.store, evolvedirector.evolution\n"
        "print([name for name in ('torch', 'lightning') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
