"""The recipes that need no service run as they are, with tiny models of the same classes and names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import yaml

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.store import RevisionFiles
from evolvedirector.store.imports import read_prompt_file
from tests.tiny_hub import tiny_hub

CONFIGS = evolvedirector.configs.path()
FLUX, SD35, JUDGE = (
    "black-forest-labs/FLUX.1-schnell",
    "stabilityai/stable-diffusion-3.5-medium",
    "Qwen/Qwen3-VL-8B-Instruct",
)
SDXL, SD15 = "stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD15_NUMBERS = {
    "text_encoder": {"init_args": {"dimension": 32, "dtype": "float32"}},
    "codec": {"init_args": {"downscaling": 2}},
    "channels": [8, 16], "transformer_layers": [1, 0], "heads": [2, 2], "layers_per_level": 1, "norm_groups": 4,
}  # fmt: skip
SDXL_NUMBERS = {
    "clip_l": {"init_args": {"dimension": 8, "dtype": "float32"}},
    "clip_g": {"init_args": {"dimension": 20, "pooled_dimension": 32, "dtype": "float32"}},
    "codec": {"init_args": {"downscaling": 2}},
    "channels": [8, 16, 16], "transformer_layers": [0, 1, 2], "heads": [1, 2, 4], "layers_per_level": 2,
    "norm_groups": 4, "size_embed_dim": 8,
}  # fmt: skip
RANDOM_TEXT = {"class_path": "evolvedirector.lightning_modules.RandomTextEncoder", "init_args": {"dimension": 32}}
EDGEN_NUMBERS = {
    "text_encoder": RANDOM_TEXT,
    "codec": None, "text_length": 8, "sample_size": 32, "patch_size": 8, "out_channels": 6, "layers": 1, "heads": 1,
    "head_dim": 16, "gradient_checkpointing": False,
}  # fmt: skip
PROMPTS = {
    "own": ["a red circle", "a blue square"], "regularisation": ["a circle", "a square"],
    "held_out": ["three red squares", "a green circle"],
}  # fmt: skip
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:.*litmodels.*",
        "ignore:.*val_dataloader.*",
        "ignore:.*refused in this round.*",
        "ignore:.*repeat.*",
        "ignore:.*bitsandbytes.*",
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",  # diffusers' scheduler
    ),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder made the current one, with small prompt files and a state folder of its own."""
    skills = {"seeds.jsonl": ["own", "regularisation"], "held_out.jsonl": ["held_out"]}
    for name, listed in skills.items():
        rows = [{"prompt": text, "skill": skill} for skill in listed for text in PROMPTS[skill]]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    return tmp_path


def tiny(family: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of the stand-ins, and of a run of few steps."""
    data = {
        "root": "run/data", "seeds": "seeds.jsonl", "held_out": "held_out.jsonl", "global_batch_size": 2,
        "batches_per_epoch": 1, "image_size_px": 32, "num_workers": 0, "generation_chunk_size": 4,
    }  # fmt: skip
    trainer = {
        "default_root_dir": "run", "accelerator": "cpu", "devices": 1, "precision": "32-true", "max_steps": 2,
        "check_val_every_n_epoch": 9, "log_every_n_steps": 1,
    }  # fmt: skip
    model = {
        "image_size_px": 32, "family": {"init_args": family}, "sampling_steps": 1, "generation_chunk_size": 2,
    }  # fmt: skip
    return {"model": {"init_args": model}, "data": {"init_args": data}, "trainer": trainer}


def run(model: str, recipe: str, family: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Check and fit a recipe; of its parts only the writer is another, and what a CPU cannot do is left out."""
    tree = yaml.safe_load((CONFIGS / recipe).read_text(encoding="utf-8"))
    (evolution,) = [part["init_args"] for part in tree["trainer"]["callbacks+"] if "Evolution" in part["class_path"]]
    for part in [*evolution["teachers"].values(), evolution["judge"]]:
        assert part["init_args"].pop("quantisation") == "nf4"  # needs a GPU
    for teacher in evolution["teachers"].values():
        teacher["init_args"] |= {"dtype": "float32", "num_inference_steps": 1, "min_side_px": 1}
    evolution["judge"]["init_args"]["image_size_px"] = 32
    evolution["writer"] = {"class_path": "evolvedirector.worlds.shapes.MiniatureWriter"}
    # random pipelines draw noise: a check of canaries, and a policy that looks at teachers' images, would keep none
    evolution |= {"judge_health": False, "budget": {"budget_teacher_calls": 8}}
    if "every_n_epochs" in evolution:
        evolution["every_n_epochs"] = 1
    if evolution["policy"]["class_path"].endswith("ScreeningPolicy"):
        evolution["policy"] = {"class_path": "evolvedirector.policies.EvolveDirectorPolicy"}
    if "model" in tree:
        tree["model"]["init_args"]["trained"]["base_precision"] = "float32"  # bfloat16 wants bf16-mixed
    Path("recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny(family)), encoding="utf-8")
    files = [CONFIGS / "base.yaml", CONFIGS / "model" / model, "recipe.yaml", "tiny.yaml"]
    options = [word for path in files for word in ("-c", str(path))]
    assert main(["check", *options]) == 0, capsys.readouterr().err
    plan = " ".join(capsys.readouterr().out.split())
    assert "judge" in plan and "teach" in plan, plan
    assert not Path("run").exists(), "check wrote something"
    assert main(["fit", *options]) in (None, 0), capsys.readouterr().err
    summary: dict[str, Any] = json.loads(Path("run/summary.json").read_text(encoding="utf-8"))
    return summary


def skills_bought() -> Sequence[str]:
    """List the skill of every prompt that has an image."""
    files = RevisionFiles("run/data")
    entries = files.load(files.current() or "").state.entries.values()
    return [entry.prompt.skill for entry in entries if entry.samples]


def test_a_lora_of_sdxl_with_everything_local(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_hub(here / "hub", {SDXL, FLUX, JUDGE}, monkeypatch)
    summary = run("sdxl.yaml", "experiment/local_lora_24gb.yaml", SDXL_NUMBERS, capsys)
    assert summary["rounds"] >= 1 and summary["teacher_calls"] > 0 and summary["judge_calls"] > 0, summary
    assert main(["export", "run", "lora", "--layout", "kohya", "--samples", "1"]) == 0
    card = Path("lora/README.md").read_text(encoding="utf-8")
    assert f'base_model: "{SDXL}"' in card and "base_model_relation: adapter" in card
    assert "LoRA of rank 32 and alpha 32" in card and str(here) not in card
    assert {path.name for path in Path("lora").iterdir()} == {
        "README.md", "samples.png", "pytorch_lora_weights.safetensors",
    }  # fmt: skip


def test_a_lora_of_images_that_one_teacher_draws_for_own_prompts_and_plain_ones(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_hub(here / "hub", {SD15, FLUX, JUDGE}, monkeypatch)
    summary = run("sd15.yaml", "experiment/distil_own.yaml", SD15_NUMBERS, capsys)
    assert summary["teacher_calls"] == 4, summary
    assert sorted(skills_bought()) == ["own", "own", "regularisation", "regularisation"]


def test_the_published_method_with_a_model_file(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_hub(here / "hub", {SD35, FLUX, JUDGE}, monkeypatch)
    summary = run("edgen.yaml", "method/evolvedirector.yaml", EDGEN_NUMBERS, capsys)
    assert summary["rounds"] >= 1 and summary["teacher_calls"] > 0 and summary["judge_calls"] > 0, summary


def test_own_prompts_come_with_as_many_plain_ones() -> None:
    own = read_prompt_file(CONFIGS / "prompts" / "own.jsonl")
    held_out = read_prompt_file(CONFIGS / "prompts" / "held_out.jsonl")
    skills = [prompt.skill for prompt in own]
    assert skills.count("own") == skills.count("regularisation") == 20 and len({prompt.id for prompt in own}) == 40
    assert {prompt.id for prompt in own}.isdisjoint(prompt.id for prompt in held_out)
