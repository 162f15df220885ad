"""The recipes of experts run as they are, with tiny models of the same classes, in a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import yaml

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.store import RevisionFiles
from tests.test_own_recipes import JUDGE, SD15, SD15_NUMBERS, SDXL, SDXL_NUMBERS, here, tiny
from tests.tiny_hub import tiny_hub

CONFIGS = evolvedirector.configs.path()
SHAPES = "evolvedirector.worlds.shapes"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("here"),
    pytest.mark.filterwarnings(
        "ignore:.*litmodels.*",
        "ignore:.*repeat.*",
        "ignore:.*refused in this round.*",
        "ignore:.*bitsandbytes.*",
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",  # diffusers' scheduler
    ),
]
__all__ = ["here"]  # the fixture


def recipe(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a method's recipe; return it and, by the last word of their class, what its callbacks are given."""
    tree = yaml.safe_load((CONFIGS / "method" / name).read_text(encoding="utf-8"))
    given = {part["class_path"].rpartition(".")[2]: part.get("init_args", {}) for part in tree["trainer"]["callbacks+"]}
    for stage in given["ExpertStages"]["stages"]:
        stage["steps"] = 1
    given["EvolutionCallback"]["teachers"]["self"]["init_args"] |= {"dtype": "float32", "num_inference_steps": 1}
    given["ExpertTable"]["evaluators"] = {"saturation": {"class_path": f"{SHAPES}.MeanSaturation"}}
    tree["model"]["init_args"]["trained"] |= {"base_precision": "float32"}  # bfloat16 wants bf16-mixed
    tree["model"]["init_args"]["trained"]["lora"]["rank"] = 2
    return tree, given


def run(tree: dict[str, Any], model: str, numbers: dict[str, Any], stages: int, **data: Any) -> dict[str, Any]:
    """Fit a recipe with a model file, one step a stage; return what `experts/table.json` says by arm."""
    shrunk = tiny(numbers)
    shrunk["trainer"] |= {"max_steps": stages}
    shrunk["data"]["init_args"] |= data
    Path("recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    Path("tiny.yaml").write_text(yaml.safe_dump(shrunk), encoding="utf-8")
    files = [CONFIGS / "base.yaml", CONFIGS / "model" / model, "recipe.yaml", "tiny.yaml"]
    options = [word for path in files for word in ("-c", str(path))]
    assert main(["check", *options]) == 0
    assert not Path("run").exists(), "check wrote something"
    assert main(["fit", *options]) in (None, 0)
    arms: dict[str, Any] = json.loads(Path("run/experts/table.json").read_text(encoding="utf-8"))["arms"]
    assert main(["report", "run"]) in (None, 0)
    return arms


def samples() -> list[Any]:
    files = RevisionFiles("run/data")
    entries = files.load(files.current() or "").state.entries.values()
    return [sample for entry in entries for sample in entry.samples]


def test_selma_with_a_model_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_hub(here / "hub", {SD15}, monkeypatch)
    tree, given = recipe("selma.yaml")
    evolution = given["EvolutionCallback"]
    evolution["teachers"]["self"]["init_args"] |= {"source": SD15, "revision": None}
    evolution["writer"]["init_args"] |= {"writer": {"class_path": "tests.toys.ToyWriter"}, "folder": "run/prompts"}
    evolution["policy"]["init_args"]["prompts_per_skill"] = 4
    arms = run(tree, "sd15.yaml", SD15_NUMBERS, 6, seeds=tree["data"]["init_args"]["seeds"])
    skills = [sample.prompt.skill for sample in samples()]
    assert {skill: skills.count(skill) for skill in skills} == dict.fromkeys(
        ["short_captions", "paragraph_captions", "user_prompts", "counting", "against_common_sense"], 4
    )
    assert set(arms) >= {"base", "counting", "joint", "product_mean", "factor_mean"}


def test_versat2i_with_a_model_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_hub(here / "hub", {SDXL, JUDGE}, monkeypatch)
    tree, given = recipe("versat2i.yaml")
    evolution = given["EvolutionCallback"]
    judge = evolution["rewards"]["faithfulness"]["init_args"]["judge"]
    judge["init_args"] = {"model": JUDGE, "image_size_px": 32}
    for aspect, reward in {"aesthetics": "Colourfulness", "geometry": "MirrorSymmetry"}.items():
        evolution["rewards"][aspect] = {"class_path": f"{SHAPES}.{reward}"}
    evolution["rewards"]["quality"] = {"class_path": "evolvedirector.rewards.SharpnessScore"}
    evolution["writer"] = {"class_path": "tests.toys.ToyWriter"}
    evolution["policy"]["init_args"] |= {"prompts": 3, "images_per_prompt": 2}
    # pictures of random weights show nothing that a judge would be sure of
    evolution["policy"]["init_args"]["aspects"]["faithfulness"] = {"reward": "faithfulness", "top_share": 0.5}
    arms = run(tree, "sdxl.yaml", SDXL_NUMBERS, 7)
    variants = {sample.variant for sample in samples()}
    assert variants == {"aesthetics", "faithfulness", "geometry", "quality", "chance"}
    assert set(arms) >= {"base", "geometry", "chance", "joint", "uniform", "gate"}
