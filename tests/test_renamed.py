"""Old names load for one release, each with a warning that prints the new line."""

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from evolvedirector import renamed
from evolvedirector.renamed import new_name, renew, renew_flags, table
from tests.parsed_config import ParsedConfig

ROOT = Path(__file__).parents[1]
MODULES = sorted(table()["modules"].items())
CLASSES = sorted(table()["classes"].items())


@pytest.mark.parametrize(("old", "new"), MODULES, ids=[old for old, _ in MODULES])
def test_every_old_module_hands_on_what_the_new_one_holds(old: str, new: str) -> None:
    if new == "worlds.shapes.shapes" or "emoji" in new:
        pytest.importorskip("resvg_py")
    moved = importlib.import_module(f"evolvedirector.{new}")
    own = [name for name, thing in vars(moved).items() if getattr(thing, "__module__", "") == moved.__name__]
    for name in own[:1]:
        if new.startswith(f"{old}."):  # the module became a package of the same name
            assert getattr(importlib.import_module(f"evolvedirector.{old}"), name) is getattr(moved, name)
            continue
        with pytest.warns(FutureWarning, match=rf"evolvedirector\.{old}\.{name} is an old name"):
            found = getattr(importlib.import_module(f"evolvedirector.{old}"), name)
        assert found is getattr(moved, name)


@pytest.mark.parametrize(("old", "new"), CLASSES, ids=[old for old, _ in CLASSES])
def test_every_old_class_is_the_new_one(old: str, new: str) -> None:
    (old_holder, _, old_last), (holder, _, last) = f"evolvedirector.{old}".rpartition("."), new.rpartition(".")
    with pytest.warns(FutureWarning, match="an old name"):
        found = getattr(importlib.import_module(old_holder), old_last)
    assert found is getattr(importlib.import_module(f"evolvedirector.{holder}"), last)


def test_a_name_that_never_was_is_refused_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("evolvedirector.miniature_two")
    with pytest.raises(ImportError), warnings.catch_warnings():
        warnings.simplefilter("error")
        exec("from evolvedirector.miniature import NoSuchThing")
    assert new_name("evolvedirector.callbacks.EvolutionCallback") is None


def test_the_readme_of_before_still_runs() -> None:
    code = "from evolvedirector.miniature import MiniatureJudge, MiniatureTeacher; print(MiniatureJudge.__module__)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "evolvedirector.worlds.shapes.judge"
    assert ran.stderr.count("Write evolvedirector.worlds.shapes.MiniatureJudge.") == 1


def test_a_config_is_rewritten_while_it_is_read() -> None:
    tree = {
        "judge": {"class_path": "evolvedirector.miniature.MiniatureJudge"},
        "others": [{"class_path": "evolvedirector.evolution.ScreeningPolicy", "init_args": {}}],
        "model": "package:miniature/vlm",
        "kept": {"class_path": "torch.optim.AdamW"},
    }
    with pytest.warns(FutureWarning) as said:
        new = renew(tree)
    assert "Write class_path: evolvedirector.worlds.shapes.MiniatureJudge." in str(said[0].message)
    assert new == {
        "judge": {"class_path": "evolvedirector.worlds.shapes.MiniatureJudge"},
        "others": [{"class_path": "evolvedirector.policies.ScreeningPolicy", "init_args": {}}],
        "model": "package:worlds/shapes/vlm",
        "kept": {"class_path": "torch.optim.AdamW"},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert renew(new) == new


def test_old_arguments_move_into_parts_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {
        "depth": "size.depth",
        "reader": "network.init_args.reader",
        "network": "network",
        "looks": {"unless": True, "adds": {"off": "looks"}},
    }
    known = {**table(), "arguments": {"things.Thing": rules}, "without_class": {"model": {"encoder": "family.encoder"}}}
    monkeypatch.setattr(renamed, "table", lambda: known)
    written = {"depth": 3, "reader": {"class_path": "x.R"}, "network": {"class_path": "x.N"}, "looks": False, "seed": 1}
    with pytest.warns(FutureWarning) as said:
        new = renew({"class_path": "evolvedirector.things.Thing", "init_args": written})
    assert new["init_args"] == {
        "seed": 1,
        "size": {"depth": 3},
        "network": {"class_path": "x.N", "init_args": {"reader": {"class_path": "x.R"}}},
        "off": ["looks"],
    }
    assert any("`off: [looks]`" in str(one.message) for one in said)
    with pytest.warns(FutureWarning):
        assert renew({"model": {"init_args": {"encoder": 1}}}) == {"model": {"init_args": {"family": {"encoder": 1}}}}
    with pytest.warns(FutureWarning):
        assert renew_flags(["fit", "--model.init_args.encoder.size=4"]) == [
            "fit",
            "--model.init_args.family.encoder.size=4",
        ]
    assert renew_flags(["fit", "--model.init_args.encoders=4"]) == ["fit", "--model.init_args.encoders=4"]


def test_the_command_line_reads_a_config_of_before(tmp_path: Path) -> None:
    new = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    text = yaml.safe_dump(new).replace("evolvedirector.worlds.shapes.", "evolvedirector.miniature.")
    old = tmp_path / "old.yaml"
    old.write_text(text.replace("evolvedirector.policies.", "evolvedirector.evolution."))
    with pytest.warns(FutureWarning) as said:
        parsed = ParsedConfig(["fit", "-c", str(old)]).config["fit"]
    assert any("class_path: evolvedirector.policies.ScreeningPolicy" in str(one.message) for one in said)
    evolution = next(c for c in parsed.trainer.callbacks if c.class_path.endswith("EvolutionCallback")).init_args
    assert evolution.policy.class_path == "evolvedirector.policies.ScreeningPolicy"
    assert evolution.judge.class_path == "evolvedirector.worlds.shapes.MiniatureJudge"


def test_the_page_on_upgrading_lists_the_whole_table() -> None:
    page = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")
    assert page == upgrading_page(), "write it anew: python -m tests.test_renamed"


def upgrading_page() -> str:
    """Draw the page from the table."""

    def rows(part: dict[str, str], prefix: str = "evolvedirector.") -> str:
        return "\n".join(f"| `{prefix}{old}` | `{prefix}{new}` |" for old, new in sorted(part.items()))

    def arguments() -> str:
        lines = []
        for owner, rules in table()["arguments"].items():
            if owner.count(".") != 1:  # the same class by its file
                continue
            for old, new in rules.items():
                shown = f"`{new}`" if isinstance(new, str) else _switch(new)
                was = f"`{old}`" if isinstance(new, str) else f"`{old}: {str(not new['unless']).lower()}`"
                lines.append(f"| `{owner.rpartition('.')[2]}` | {was} | {shown} |")
        return "\n".join(lines)

    return UPGRADING.format(
        modules=rows(table()["modules"]),
        classes=rows(table()["classes"]),
        models=rows(table()["models"], ""),
        arguments=arguments(),
    )


def _switch(rule: dict) -> str:
    lines = [f"`{argument}: [{word}]`" for argument, word in rule.get("adds", {}).items()]
    return ", ".join([*lines, *(f"`{place}: {value}`" for place, value in rule.get("sets", {}).items())])


UPGRADING = (ROOT / "tests" / "upgrading_page.txt").read_text(encoding="utf-8")


if __name__ == "__main__":
    (ROOT / "docs" / "upgrading.md").write_text(upgrading_page(), encoding="utf-8")
