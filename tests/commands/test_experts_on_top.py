"""`--expert` of generate and export draws what its stage drew in training, with what it stood on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import yaml
from PIL import Image

from evolvedirector.callbacks._run.drawing import student_draw
from evolvedirector.cli import main
from evolvedirector.commands.generate import requests_of
from tests.callbacks.staged import made_root
from tests.lightning_modules.tiny_student import SIDE, student_tree

PROMPTS = ["tone 0", "tone 240"]
STAGES: list[dict[str, Any]] = [
    {"name": "one", "steps": 2},
    {"name": "two", "steps": 2, "on_top_of": {"one": 0.5}},
    {"name": "three", "steps": 2, "on_top_of": {"one": 0.5, "two": 0.25}},
]


class DrawsEachStage(pl.Callback):
    """Keeps what the student draws when a stage ends, with the averaged weights that become the expert's."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = Path(trainer.default_root_dir) / f"drawn-{trainer.global_step}"
        folder.mkdir()
        named = requests_of(PROMPTS, [0], SIDE, SIDE)
        images = student_draw(trainer, pl_module)([request for _, request in named])
        for (name, _), image in zip(named, images, strict=True):
            (folder / name).write_bytes(image)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three experts, two of them on top of others."""
    here = tmp_path_factory.mktemp("on_top")
    model = student_tree(layers=1, head_dim=8)
    model["init_args"]["family"]["class_path"] = "tests.lightning_modules.tiny_student.Awake"
    model["init_args"] |= {
        "trained": {"lora": {"rank": 2}, "experts": ["one", "two", "three"]},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.03}},
    }
    of = "evolvedirector.callbacks."
    data = {
        "root": str(made_root(here / "data")),
        "global_batch_size": 4,
        "batches_per_epoch": 2,
        "image_size_px": SIDE,
    }
    tree = {
        "seed_everything": 0,
        "model": model,
        "data": {"class_path": "evolvedirector.datamodules.EvolvingDataModule", "init_args": data},
        "trainer": {
            "default_root_dir": str(here / "run"), "accelerator": "cpu", "max_steps": 6, "logger": False,
            "enable_progress_bar": False, "reload_dataloaders_every_n_epochs": 1,
            "callbacks": [
                {"class_path": of + "EMA", "init_args": {"decay": 0.5}},
                {"class_path": f"{__name__}.DrawsEachStage"},  # before a stage's end lets the next one work
                {"class_path": of + "ExpertStages", "init_args": {"stages": STAGES}},
                {"class_path": of + "RunCheckpoint"},
            ],
        },
    }  # fmt: skip
    (here / "run.yaml").write_text(yaml.safe_dump(tree))
    assert not main(["fit", "-c", str(here / "run.yaml")])
    return here / "run"


def drawn(source: Path, out: Path, *words: str) -> np.ndarray:
    assert not main(["generate", str(source), "--prompts", *PROMPTS, "--out", str(out), *words])
    return pictures(out)


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("0*.png"))])


@pytest.mark.parametrize(
    ("name", "step"),
    [("three", 6), *(pytest.param(*each, marks=pytest.mark.slow) for each in (("one", 2), ("two", 4)))],
)
def test_an_expert_is_drawn_as_it_was_trained(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, step: int
) -> None:
    in_training = pictures(run / f"drawn-{step}")
    assert len(in_training) == len(PROMPTS) and (in_training != pictures(run / f"drawn-{step % 6 + 2}")).any()
    assert (drawn(run, tmp_path / "images", "--expert", name) == in_training).all()
    said = {"one": "expert one.", "two": "two on top of 0.5 one.", "three": "three on top of 0.5 one + 0.25 two."}
    assert said[name] in capsys.readouterr().out


@pytest.mark.slow
def test_an_export_holds_what_an_expert_stands_on(run: Path, tmp_path: Path) -> None:
    assert not main(["export", str(run), str(tmp_path / "out"), "--expert", "three", "--merged", "--samples", "0"])
    exported = drawn(tmp_path / "out", tmp_path / "images")
    assert np.abs(exported - pictures(run / "drawn-6")).max() <= 1
    assert "expert three on top of 0.5 one + 0.25 two" in (tmp_path / "out" / "README.md").read_text()
