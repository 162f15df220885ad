"""Documented commands away from a checkout: recipes by name, their prompts, a copy, and words people look for."""

from pathlib import Path

import pytest
import yaml

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.commands import recipes
from evolvedirector.commands.copy_configs import copy_configs
from evolvedirector.commands.recipes import find_recipe, recipe_names, with_packaged_files, with_recipes
from evolvedirector.commands.words import FURTHER_WORDS, HINTS, LIGHTNING_WORDS
from tests.parsed_config import ParsedConfig

CONFIGS = evolvedirector.configs.path()
QUICKSTART = str(CONFIGS / "quickstart.yaml")
SCENES = str(CONFIGS / "experiment" / "emoji_scenes.yaml")


@pytest.fixture(autouse=True)
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipes, "_said", set())
    return tmp_path


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("quickstart", QUICKSTART),
        ("quickstart.yaml", QUICKSTART),
        ("configs/quickstart.yaml", QUICKSTART),
        ("./configs/quickstart.yaml", QUICKSTART),
        ("experiment/emoji_scenes", SCENES),
        ("configs/experiment/emoji_scenes.yaml", SCENES),
        ("emoji_scenes", SCENES),
        ("tiny", str(CONFIGS / "model" / "tiny.yaml")),
        ("prompts/seeds", None),
        ("../configs/quickstart", None),
        ("/quickstart.yaml", None),
        ("my_run.yaml", None),
        ("", None),
    ],
)
def test_a_recipe_by_name(name: str, path: str | None) -> None:
    assert find_recipe(name) == (Path(path) if path else None)


def test_what_is_here_is_taken_as_it_is(away: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "-c", "quickstart", "--config=configs/base.yaml", "-c", "{model: x}", "--model", "quickstart", "-c"]
    found = with_recipes(words)
    assert found[2:4] == [QUICKSTART, f"--config={CONFIGS / 'base.yaml'}"] and found[4:] == words[4:]
    said = capsys.readouterr().err
    assert f"quickstart is no file here: the packaged recipe is taken, {QUICKSTART}" in said
    (away / "quickstart").write_text("seed_everything: 1")
    (away / "configs").mkdir()
    (away / "configs" / "base.yaml").write_text("seed_everything: 2")
    assert with_recipes(words) == words
    assert capsys.readouterr().err == ""


def test_prompts_of_recipes_are_found_from_anywhere(away: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = "configs/prompts/seeds.jsonl"
    tree = {"data": {"init_args": {"seeds": named, "held_out": [named], "count": 3}}, "other": "configs/none.jsonl"}
    packaged = str(CONFIGS / "prompts" / "seeds.jsonl")
    assert with_packaged_files(tree) == {
        "data": {"init_args": {"seeds": packaged, "held_out": [packaged], "count": 3}},
        "other": "configs/none.jsonl",
    }
    assert capsys.readouterr().err.count("the packaged file is read") == 1
    assert with_packaged_files("configs/../configs/base.yaml") == "configs/../configs/base.yaml"
    (away / "configs" / "prompts").mkdir(parents=True)
    (away / named).write_text('{"prompt": "mine"}')
    assert with_packaged_files(tree) == tree
    assert main(["data", "import", "data", "--prompts", "configs/prompts/held_out.jsonl"]) == 0


def test_prompts_beside_a_recipe_in_a_checkout_are_taken_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    config = ParsedConfig(
        ["fit", "-c", "configs/base.yaml", "-c", "configs/model/edgen.yaml", "-c", "configs/experiment/api_only.yaml"]
    ).config
    assert config.fit.data.init_args.held_out == "configs/prompts/held_out.jsonl"
    assert "the packaged file is read" not in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["configs", "mine", "deep/my recipes: #1"])
def test_copied_recipes_name_their_own_prompts(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["copy-configs", folder]) == 0
    assert folder in capsys.readouterr().out
    copied = {path.relative_to(folder).with_suffix("").as_posix() for path in Path(folder).rglob("*.yaml")}
    assert {name for name in copied if not name.startswith(("prompts/", "pairs/"))} == set(recipe_names())
    assert "prompts/selma/counting" in copied
    for name, path in recipe_names().items():
        ours, theirs = (yaml.safe_load(file.read_text("utf-8")) for file in (path, Path(folder) / f"{name}.yaml"))
        if name == "experiment/edgen_512":
            copied = theirs["data"]["init_args"]
            assert copied["seeds"] == f"{folder}/prompts/seeds.jsonl" and Path(copied["held_out"]).is_file()
            assert folder == "configs" or "configs/" not in (Path(folder) / f"{name}.yaml").read_text("utf-8")
        elif "prompts/" not in path.read_text("utf-8"):
            assert ours == theirs


def test_a_copy_overwrites_nothing(away: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (away / "mine").mkdir()
    (away / "mine" / "quickstart.yaml").write_text("precious")
    (away / "file").write_text("precious")
    for folder in ("mine", "file", "file/below"):
        assert main(["copy-configs", folder]) == 2
        assert folder in capsys.readouterr().err
    assert [path.name for path in (away / "mine").iterdir()] == ["quickstart.yaml"]
    (away / "empty").mkdir()
    assert copy_configs(away / "empty") > 15


def test_an_unknown_recipe_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c", "quikstart"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert told.endswith("quikstart does not exist, and no packaged recipe has that name. Did you mean `quickstart`?")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("train", "`evolvedirector fit -c quickstart` trains"),
        ("draw", "`evolvedirector generate RUN"),
        ("sample", "`evolvedirector teach --draw"),
        ("convert", "`evolvedirector export RUN FOLDER`"),
        ("serve", "`evolvedirector teach --serve"),
        ("EVALUATE", "`evolvedirector validate"),
        ("dry_run", "`evolvedirector check"),
        ("--list", "copy-configs configs"),
    ],
)
def test_a_word_that_people_look_for_gets_a_hint(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert hint in " ".join(capsys.readouterr().err.split())


def test_no_hint_stands_in_for_a_command() -> None:
    assert not HINTS.keys() & {*LIGHTNING_WORDS, *FURTHER_WORDS}
