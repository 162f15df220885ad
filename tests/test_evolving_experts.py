"""The recipe of experts for failing skills, tiny: killed between stages it goes on, and nothing is bought twice."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import yaml

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.experts.expert_files import read_expert
from tests.test_own_recipes import here

CONFIGS = evolvedirector.configs.path()
PER_STAGE = 4
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*repeat.*", "ignore:.*refused in this round.*"),
]
__all__ = ["here"]  # the fixture


def shrunk(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a recipe and make it tiny; return it and, by the last word of their class, what its callbacks are given."""
    tree = yaml.safe_load((CONFIGS / "experiment" / name).read_text(encoding="utf-8"))
    model, data = tree["model"]["init_args"], tree["data"]["init_args"]
    model["family"]["init_args"] |= {"layers": 1, "heads": 1, "head_dim": 16, "pretrained": None}
    del model["family"]["init_args"]["pretrained_subfolder"]
    model |= {"sampling_steps": 1, "trained": model["trained"] | {"lora": {"rank": 2}}}
    data |= {"global_batch_size": 4, "batches_per_epoch": 2, "root": "run/data"}
    data["seeds"]["init_args"]["count"] = 12
    data["held_out"]["init_args"]["per_skill"] = 2
    given = {part["class_path"].rpartition(".")[2]: part.get("init_args", {}) for part in tree["trainer"]["callbacks"]}
    for stage in given["ExpertStages"]["stages"]:
        stage["steps"] = PER_STAGE * stage["steps"] // 200
    tree["trainer"] |= {"default_root_dir": "run", "max_steps": 6 * PER_STAGE, "logger": False}
    given["EvolutionCallback"]["budget"] = {"budget_teacher_calls": 30}
    given["ExpertTable"]["images_per_prompt"] = 1
    return tree, given


def calls() -> tuple[int, int]:
    """Return how many images were asked for, and how many of them again."""
    ledger = sqlite3.connect("file:run/data/ledger.sqlite?mode=ro", uri=True)
    try:
        found = ledger.execute("select count(*), total(repeats) + total(lost) from calls").fetchone()
        return int(found[0]), int(found[1])
    finally:
        ledger.close()


def test_killed_between_stages_it_goes_on_and_a_scale_is_chosen_later(here: Path) -> None:
    tree, given = shrunk("evolving_experts.yaml")
    given["ExpertStages"]["validation"]["prompts"]["init_args"]["count"] = 24
    Path("recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    first = subprocess.Popen(
        [sys.executable, "-m", "evolvedirector", "fit", "-c", "recipe.yaml"], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("Stage expert-3"):
            first.kill()
            break
    first.stdout.close()
    assert first.wait() == -signal.SIGKILL
    assert main(["fit", "-c", "recipe.yaml", "--ckpt_path", "last"]) in (None, 0)
    told = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in Path("run/experts").glob("*.json")
        if path.stem != "table"
    }
    skills = [told[f"expert-{number}"]["provenance"]["stage"]["trains_on"]["skills"] for number in range(1, 7)]
    assert all(len(skill) == 1 for skill in skills)
    arms = json.loads(Path("run/experts/table.json").read_text(encoding="utf-8"))["arms"]
    assert set(arms) == {
        "base", *(f"expert-{number}" for number in range(1, 7)), "first_merge", "second_merge", "scaled"
    }  # fmt: skip
    scaled = read_expert(Path("run/experts/scaled.safetensors")).provenance
    scores = scaled["validation"]["scores"]
    assert len(scores) == 5 and scores[f"{scaled['merge']['scale']:g}"] == max(scores.values())
    reward = given["ExpertStages"]["validation"]["reward"]
    Path("reward.yaml").write_text(yaml.safe_dump(reward), encoding="utf-8")
    Path("validation.txt").write_text("a red star\na blue circle\ntwo green squares\n", encoding="utf-8")
    files = [f"run/experts/expert-{number}.safetensors" for number in (1, 2)]
    words = ["--method", "task_arithmetic", "--scales", "0.5", "1", "--reward", "reward.yaml", "--run", "run"]
    assert main(["merge", *files, *words, "--validation", "validation.txt", "-o", "later.safetensors"]) == 0
    assert list(read_expert(Path("later.safetensors")).provenance["validation"]["scores"]) == ["0.5", "1"]
    asked, again = calls()
    assert 12 < asked <= 30 and again == 0


def test_the_control_has_as_many_steps_and_calls(here: Path) -> None:
    trees = [
        yaml.safe_load((CONFIGS / "experiment" / f"evolving_{name}.yaml").read_text("utf-8"))
        for name in ("experts", "joint")
    ]
    one, other = (
        {part["class_path"].rpartition(".")[2]: part.get("init_args") for part in tree["trainer"]["callbacks"]}
        for tree in trees
    )
    assert one.pop("ExpertStages") != other.pop("ExpertStages") and one == other
    assert trees[0]["trainer"]["max_steps"] == trees[1]["trainer"]["max_steps"]
    tree, _ = shrunk("evolving_joint.yaml")
    Path("recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert main(["fit", "-c", "recipe.yaml"]) in (None, 0)
    assert set(json.loads(Path("run/experts/table.json").read_text("utf-8"))["arms"]) == {"base", "joint"}
