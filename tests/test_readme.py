"""Every command and snippet of the README is run, shrunk by flags; nothing of it is only words."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
SHRUNK = {
    "configs/quickstart.yaml": [
        "--trainer.max_steps=4", "--trainer.check_val_every_n_epoch=2", "--trainer.log_every_n_steps=1",
        "--data.init_args.batches_per_epoch=2", "--data.init_args.global_batch_size=8",
        "--data.init_args.seeds.init_args.count=8",
        "--data.init_args.held_out.init_args.per_skill=1",
        "--data.init_args.seeds.init_args.held_out.init_args.per_skill=1",
        "--model.init_args.sampling_steps=2", "--model.init_args.lr_scheduler.init_args.total_steps=4",
    ],
}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line]


def run(command: list[str], folder: Path, **variables: str) -> str:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the checkout to the README's commands."""
    place = tmp_path_factory.mktemp("readme")
    (place / "configs").symlink_to(ROOT / "configs")
    (place / "prompts.txt").write_text("a red circle\ntwo green stars\n")
    (place / "pictures").mkdir()
    from evolvedirector.records import ImageRequest
    from evolvedirector.worlds.shapes import MiniatureTeacher

    requests = [ImageRequest(str(n), "a red circle", n, 32, 32) for n in range(3)]
    for reply in MiniatureTeacher().generate(requests):
        assert reply.image is not None
        (place / "pictures" / f"{reply.request_id}.png").write_bytes(reply.image)
        (place / "pictures" / f"{reply.request_id}.txt").write_text(f"a red circle number {reply.request_id}")
    return place


def test_every_kind_of_command_is_known_to_these_tests() -> None:
    tested = (
        "make ",
        "evolvedirector ",
        "python -m evolvedirector ",
        "torchrun ",
        "pip install ",
        "python3.11 -m venv ",
    )
    assert all(line.startswith(tested) for line in commands()), commands()


def test_the_words_of_make_exist() -> None:
    words = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert words
    for word in words:
        done = subprocess.run(["make", "-n", word], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_quickstart_commands_in_order(folder: Path) -> None:
    """fit, then fit with `last`, check, data show, print_config: as a reader would type them."""
    lines = [line for line in commands() if line.startswith("evolvedirector ") and "quickstart" in line]
    assert len(lines) >= 5
    for line in dict.fromkeys(lines):
        words = shlex.split(line)
        extra = (
            list(SHRUNK["configs/quickstart.yaml"])
            if "configs/quickstart.yaml" in words and "--print_config" not in words
            else []
        )
        extra += ["--looks=60"] if words[1] == "probe" else []
        said = run([*words, *extra], folder)
        if words[1] == "fit" and "--print_config" not in words:
            assert "summary.json" in said or "max_steps" in said
    assert (folder / "runs/quickstart/summary.json").exists()
    assert list((folder / "runs/quickstart/previews").glob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["python -m", "torchrun"])
def test_the_launchers(folder: Path, start: str) -> None:
    (line,) = [line for line in commands() if line.startswith(start)]
    words = [*shlex.split(line), *SHRUNK["configs/quickstart.yaml"]]
    name = start.split()[0]
    run([*words, f"--trainer.default_root_dir=runs/{name}", f"--data.init_args.root=runs/{name}/data"], folder)
    assert (folder / f"runs/{name}/summary.json").exists()


@pytest.mark.slow
def test_importing_your_own_data(folder: Path) -> None:
    lines = [line for line in commands() if line.startswith("evolvedirector data import")]
    assert len(lines) == 3
    for number, line in enumerate(lines):
        if "--webdataset" in line:
            continue  # the same words with shards: tested in tests/store
        words = [word.replace("runs/mine/data", f"runs/mine{number}/data") for word in shlex.split(line)]
        run(words, folder)
        assert "revision 1" in run(["evolvedirector", "data", "show", f"runs/mine{number}/data"], folder).lower()


@pytest.mark.slow
def test_the_python_snippet_runs(folder: Path) -> None:
    (snippet,) = blocks("python")
    (folder / "my_project.py").write_text(
        "import torch, lightning.pytorch as pl\n"
        "class MyModule(pl.LightningModule):\n"
        "    image_size_px = 32\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.picture = torch.nn.Parameter(torch.zeros(3, 32, 32))\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return (self.picture - batch['image'] / 255).square().mean()\n"
        "    def generate(self, requests):\n"
        "        return [(self.picture * 255).clamp(0, 255).to(torch.uint8) for _ in requests]\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.SGD(self.parameters(), 0.1)\n"
    )
    shrunk = snippet.replace("max_epochs=20", "max_epochs=2").replace(
        "image_size_px=32)", "image_size_px=32, batches_per_epoch=3)"
    )
    (folder / "snippet.py").write_text(shrunk.replace("runs/mine/data", "runs/snippet/data"))
    assert "round 1/1: wrote" in run([sys.executable, "snippet.py"], folder)


@pytest.mark.slow
def test_the_yaml_snippet_is_understood(folder: Path) -> None:
    (snippet,) = blocks("yaml")
    (folder / "snippet.yaml").write_text(snippet)
    said = run(
        ["evolvedirector", "fit", "--print_config", "-c", "configs/quickstart.yaml", "-c", "snippet.yaml"], folder
    )
    assert "budget_teacher_calls: 500" in said


def test_every_link_and_folder_exists() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for row in re.findall(r"^\| `([^|]+)` \|", README, flags=re.MULTILINE):
        first, *others = row.split()
        base = ROOT / first
        assert base.is_dir(), row
        assert all((ROOT / other).is_dir() or (base.parent / other).is_dir() for other in others), row


TITLED = dict(re.findall(r'```python title="(\w+)\.py"\n(.*?)```', README, flags=re.DOTALL))
LIBRARY = """
from evolvedirector.worlds.shapes import MiniatureJudge, MiniatureTeacher
from evolvedirector.records import ImageAndPrompt, ImageRequest

def draw(text, seed, width_px, height_px):
    (reply,) = MiniatureTeacher().generate([ImageRequest("x", text, seed, width_px, height_px)])
    if reply.image is None:
        raise RuntimeError(reply.reason)
    return reply.image

def score(image, text):
    (look,) = MiniatureJudge().check([ImageAndPrompt("x", image, text)])
    return max(0.01, look.probability)
"""
OWN = """
trainer:
  callbacks:
    - class_path: evolvedirector.callbacks.EvolutionCallback
      init_args:
        teachers: {mine: {class_path: my_teacher.MyTeacher}}
        judge: {class_path: my_judge.MyJudge}
        writer: {class_path: evolvedirector.worlds.shapes.MiniatureWriter}
        budget: {budget_teacher_calls: 12}
    - class_path: evolvedirector.callbacks.RunSummary
"""


def test_your_own_parts_are_short_and_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evolvedirector.judges import Judge
    from evolvedirector.records import ImageAndPrompt, ImageRequest, OrderedPair
    from evolvedirector.teachers import Teacher

    (tmp_path / "my_library.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in TITLED.items():
        (tmp_path / f"{name}.py").write_text(text)
        assert len([line for line in text.splitlines() if line.strip()]) <= 15
    teacher = runpy.run_path(str(tmp_path / "my_teacher.py"))["MyTeacher"]()
    judge = runpy.run_path(str(tmp_path / "my_judge.py"))["MyJudge"]()
    sys.modules.pop("my_library", None)
    assert isinstance(teacher, Teacher) and isinstance(judge, Judge)
    asked = [ImageRequest(text, text, 1, 32, 32) for text in ("a red circle", "a sonnet")]
    drawn, refused = teacher.generate(asked)
    assert (drawn.status, refused.status) == ("image", "failure") and drawn.image is not None
    right, wrong = judge.check([ImageAndPrompt(text, drawn.image, text) for text in ("a red circle", "a blue square")])
    (tie,) = judge.look([OrderedPair("x", drawn.image, drawn.image, "a red circle")])
    assert right.probability > 0.5 > wrong.probability and tie.probability == 0.5


@pytest.mark.slow
def test_a_run_with_your_own_parts(folder: Path) -> None:
    place = folder / "own"
    place.mkdir()
    (place / "configs").symlink_to(ROOT / "configs")
    files = {"my_library": LIBRARY, **TITLED}
    for name, text in files.items():
        (place / f"{name}.py").write_text(text)
    (place / "own.yaml").write_text(OWN)
    words = ["python", "-m", "evolvedirector", "fit", "-c", "configs/quickstart.yaml", "-c", "own.yaml"]
    said = run([*words, *SHRUNK["configs/quickstart.yaml"]], place)
    assert "Finished at step 4" in said
