"""The recipes for real teachers and judges run as they are, with tiny models and with services on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.serving.teacher_server import TeacherServer
from evolvedirector.store import RevisionFiles
from evolvedirector.store.imports import read_prompt_file
from evolvedirector.worlds.shapes import MiniatureTeacher
from tests.chaos import chat
from tests.chaos.script import Script
from tests.chaos.server import ChaosServer
from tests.tiny_hub import tiny_hub

CONFIGS = evolvedirector.configs.path()
KEY = "a-key-of-this-test-0123"
WORDS = ("a red circle", "a blue square", "two green stars", "a yellow triangle", "three red squares", "a green circle")
TINY = """
model:
  init_args:
    image_size_px: 32
    family:
      init_args:
        text_encoder:
          class_path: evolvedirector.lightning_modules.RandomTextEncoder
          init_args: {dimension: 32}
        codec: null
        text_length: 8
        sample_size: 32
        patch_size: 8
        out_channels: 6
        layers: 1
        heads: 1
        head_dim: 16
        gradient_checkpointing: false
    sampling_steps: 1
    generation_chunk_size: 4
data:
  init_args: {root: run/data, seeds: seeds.jsonl, held_out: held_out.jsonl, global_batch_size: 4, batches_per_epoch: 2,
              image_size_px: 32, num_workers: 0, generation_chunk_size: 4}
trainer:
  {default_root_dir: run, accelerator: cpu, devices: 1, precision: 32-true, strategy: auto, max_steps: 6,
   check_val_every_n_epoch: 9, log_every_n_steps: 1}
"""
TINY_EDGEN = """
model:
  init_args:
    image_size_px: 32
    family:
      init_args:
        text_encoder: {init_args: {dimension: 32, dtype: float32}}
        codec: {init_args: {downscaling: 2}}
        text_length: 12
        sample_size: 16
        layers: 2
        heads: 2
        head_dim: 12
    sampling_steps: 1
    generation_chunk_size: 4
data:
  init_args: {root: run/data, seeds: seeds.jsonl, held_out: held_out.jsonl, global_batch_size: 4, batches_per_epoch: 2,
              image_size_px: 32, num_workers: 0, generation_chunk_size: 4, buckets: []}
trainer:
  {default_root_dir: run, accelerator: cpu, devices: 1, precision: 32-true, strategy: auto, max_steps: 6,
   check_val_every_n_epoch: 9, log_every_n_steps: 1}
"""
"""The numbers of the stand-ins in tests/tiny_hub.py."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:.*litmodels.*",
        "ignore:.*val_dataloader.*",
        "ignore:.*refused in this round.*",
        "ignore:.*repeat.*",
        "ignore:.*bitsandbytes.*",
        "ignore:.*training data too.*",  # the tiny model stands for both judges
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",  # diffusers' scheduler
    ),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder made the current one, with small prompt files, keys and a state folder of its own."""
    for name, texts in (("seeds", WORDS[:4]), ("held_out", WORDS[4:])):
        lines = [json.dumps({"prompt": text, "skill": "shapes"}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "BFL_API_KEY", "FAL_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    return tmp_path


def a_chat(body: dict[str, Any]) -> chat.Answer:
    """Write new prompts of the miniature world when asked for a list; else find some images wrong."""
    asked = json.dumps(body)
    if "descriptions" in asked:
        colours, shapes = ("red", "green", "blue", "yellow"), ("circles", "squares", "triangles", "stars")
        texts = [f"{count} {colour} {shape}" for count in ("two", "three") for colour in colours for shape in shapes]
        return chat.Answer(json.dumps({"descriptions": texts}), document={"descriptions": texts})
    wrong = len(asked) % 3 != 0
    words = ("no", "yes") if "yes or no" in asked else ("B", "A")
    said = words if wrong else words[::-1]
    return chat.Answer(said[0], ((said[0], 0.9), (said[1], 0.1)), document={"answer": said[0]})


def written(recipe: str, changes: dict[str, str]) -> Path:
    """Write a recipe with other addresses, models and numbers into the current folder."""
    text = (CONFIGS / "experiment" / recipe).read_text(encoding="utf-8")
    for old, new in {r"every_n_epochs: \d+": "every_n_epochs: 1", **changes}.items():
        text, count = re.subn(old, new, text)
        assert count, f"{recipe} has no {old!r}"
    path = Path(recipe)
    path.write_text(text, encoding="utf-8")
    return path


def check_and_fit(
    recipe: Path, capsys: pytest.CaptureFixture[str], *rows: str, more: Sequence[Path] = ()
) -> dict[str, Any]:
    words = [CONFIGS / "base.yaml", CONFIGS / "model" / "edgen.yaml", recipe, *more, "tiny.yaml"]
    options = [word for path in words for word in ("-c", str(path))]
    assert main(["check", *options]) == 0, capsys.readouterr().err
    plan = " ".join(capsys.readouterr().out.split())
    assert [row for row in rows if row not in plan] == [], plan
    assert not Path("run").exists(), "check wrote something"
    assert main(["fit", *options]) in (None, 0), capsys.readouterr().err
    summary: dict[str, Any] = json.loads(Path("run/summary.json").read_text(encoding="utf-8"))
    return summary


def assert_it_evolved(summary: dict[str, Any]) -> None:
    """There were rounds; images were bought in them and judged."""
    assert summary["rounds"] >= 1 and summary["teacher_calls"] > 0 and summary["judge_calls"] > 0, summary


@pytest.fixture
def services() -> Iterator[Callable[..., tuple[str, str]]]:
    """Start a served miniature teacher and a server for everything else; returns their addresses."""
    with ExitStack() as stack:

        def start(models: tuple[str, ...]) -> tuple[str, str]:
            teacher = TeacherServer(MiniatureTeacher(), model="gpt-image-1.5", api_key_env="OPENAI_API_KEY")
            script = Script(shares={"busy": 0.1, "error_503": 0.1})
            server = ChaosServer(script, api_key=KEY, answer=a_chat, models=models)
            return stack.enter_context(teacher).address, stack.enter_context(server).url

        yield start


@pytest.mark.parametrize("name", ["edgen_512", "edgen_1024"])
def test_edgen_from_the_weights_of_pixart_alpha_with_hosted_teachers_and_a_local_judge(
    name: str,
    here: Path,
    services: Callable[..., tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, rest = services(("gpt-4.1-mini",))
    start = {"edgen_512": "PixArt-alpha/PixArt-XL-2-512x512", "edgen_1024": "PixArt-alpha/PixArt-XL-2-1024-MS"}[name]
    encoder, judges = "PixArt-alpha/PixArt-XL-2-512x512", ("Qwen/Qwen3-VL-8B-Instruct", "OpenGVLab/InternVL3_5-8B-HF")
    tiny_hub(here / "hub", {start, encoder, "stabilityai/sd-vae-ft-ema", *judges}, monkeypatch)
    recipe = written(
        f"{name}.yaml",
        {
            r'base_url: "https://api.openai.com/v1"': f'base_url: "{images}"',
            r"endpoint: \*openai": f'endpoint: {{base_url: "{rest}/v1", api_key_env: OPENAI_API_KEY}}',
            r'base_url: "https://api.bfl.ai"': f'base_url: "{rest}/bfl"',
            "( +)quality: low": r"\1cost_usd_per_image: 0.01\n\1sizes: []",  # the served teacher knows neither
            "dtype: bfloat16, batch_size: 16": "image_size_px: 32",
            "budget_teacher_calls: 20000": "budget_teacher_calls: 8",
        },
    )
    sized = name == "edgen_1024"
    more = [CONFIGS / "buckets" / "buckets_1024.yaml"] if sized else []
    buckets = "buckets: [[32, 32], [48, 24], [24, 48]]" if sized else "buckets: []"
    Path("tiny.yaml").write_text(TINY_EDGEN.replace("buckets: []", buckets), encoding="utf-8")
    rows = ("flux at most 8 images x 0.04 USD = 0.32 USD", "cost (most) 0.32 USD")
    summary = check_and_fit(recipe, capsys, *rows, more=more)
    assert_it_evolved(summary)
    trained = shapes_of("run/data")
    assert trained <= {(32, 32), (48, 24), (24, 48)} if sized else trained == {(32, 32)}
    assert len(trained) > 1 or not sized


def shapes_of(root: str) -> set[tuple[int, int]]:
    """List the widths and heights of the images that were bought."""
    files = RevisionFiles(root)
    return {(place.width_px, place.height_px) for place in files.load(files.current() or "").places.values()}


def test_everything_hosted(
    here: Path, services: Callable[..., tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    images, rest = services(("gpt-4.1-mini", "gpt-4.1"))
    recipe = written(
        "api_only.yaml",
        {
            r'base_url: "https://api.openai.com/v1"': f'base_url: "{images}"',
            r"endpoint: \*openai": f'endpoint: {{base_url: "{rest}/v1", api_key_env: OPENAI_API_KEY}}',
            r'base_url: "https://queue.fal.run"': f'base_url: "{rest}/fal"',
            "budget_teacher_calls: 8000": "budget_teacher_calls: 8",
        },
    )
    summary = check_and_fit(
        recipe,
        capsys,
        "gpt_image at most 8 images x 0.009 USD = 0.07 USD",
        "USD for images and looks",
        "looks of EvaluationCallback.suites.held_out.reader at most 4 x 0.002 USD = 0.01 USD (outside the budget)",
        "cost in all (most)",
    )
    assert_it_evolved(summary)


def test_everything_on_this_machine(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teachers = ("stabilityai/stable-diffusion-3.5-medium", "black-forest-labs/FLUX.1-schnell")
    judges = ("Qwen/Qwen3-VL-8B-Instruct", "OpenGVLab/InternVL3_5-8B-HF")
    tiny_hub(here / "hub", {*teachers, *judges}, monkeypatch)
    recipe = written(
        "local_only.yaml",
        {
            r"quantisation: nf4, min_side_px: 512": "dtype: float32",
            r"num_inference_steps: \d+": "num_inference_steps: 1",
            "8B(-Instruct|-HF), quantisation: nf4": r"8B\1, image_size_px: 32",
            "evolvedirector.writers.TransformersWriter": "evolvedirector.worlds.shapes.MiniatureWriter",
            r"init_args: \{model: Qwen/Qwen3-4B.*\}": "init_args: {}",
            "budget_teacher_calls: 10000": "budget_teacher_calls: 8",
            # Random pipelines draw noise: a policy and a health check that look at it would keep none of it.
            "evolvedirector.policies.ScreeningPolicy": "evolvedirector.policies.EvolveDirectorPolicy",
            r"judge_health: .*": "judge_health: false",
        },
    )
    summary = check_and_fit(recipe, capsys, "sd35 at most 8 images", "judge", "teach")
    assert_it_evolved(summary)


def test_the_miniature_world_with_a_real_judge(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = written(
        "miniature_vlm.yaml",
        {
            "runs/miniature_vlm": "run",
            "max_steps: 1200": "max_steps: 8",
            "batches_per_epoch: 150": "batches_per_epoch: 4",
            "global_batch_size: 32": "global_batch_size: 4",
            "count: 60": "count: 8",
            "per_skill: 24": "per_skill: 1",
            "check_val_every_n_epoch: 5": "check_val_every_n_epoch: 9",
            "budget_teacher_calls: 300": "budget_teacher_calls: 24",
        },
    )
    assert main(["check", "-c", str(recipe)]) == 0, capsys.readouterr().err
    assert not Path("run").exists(), "check wrote something"
    assert main(["fit", "-c", str(recipe)]) in (None, 0), capsys.readouterr().err
    assert_it_evolved(json.loads(Path("run/summary.json").read_text(encoding="utf-8")))


def test_the_shipped_prompts_are_apart_and_spread_over_skills() -> None:
    seeds, held_out = (read_prompt_file(CONFIGS / "prompts" / f"{name}.jsonl") for name in ("seeds", "held_out"))
    assert {prompt.id for prompt in seeds}.isdisjoint(prompt.id for prompt in held_out)
    assert len({prompt.id for prompt in seeds}) == len(seeds) == 96
    assert {prompt.skill for prompt in seeds} == {prompt.skill for prompt in held_out}
