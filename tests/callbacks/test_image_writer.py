"""Pictures of `predict`: one per prompt, with a list of which is which, and never those of two predictions together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image

from evolvedirector.callbacks import ImageWriter
from evolvedirector.callbacks.image_writer import checkpoint_name
from evolvedirector.records import ImageRequest
from tests import toys


class Drawing(toys.ToyStudent):
    def predict_step(self, batch, batch_idx):
        return self.generate(batch)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch


def predict(folder: Path, tones: list[int], module: Any = None) -> None:
    requests = [ImageRequest(f"id{n}", f"tone {n}", n, 8, 8) for n in tones]
    loader = torch.utils.data.DataLoader([*requests, requests[-1]], batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, callbacks=[ImageWriter()], enable_progress_bar=False
    )
    trainer.predict(module or Drawing(), loader)


def listed(folder: Path) -> list[str]:
    lines = (folder / "prompts-rank0.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert {entry["image"] for entry in entries} == {path.name for path in folder.glob("*.png")}
    return [entry["prompt"] for entry in entries]


def test_each_prompt_becomes_one_picture_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # the same once more takes its own place
        predict(tmp_path, [1, 2, 3])
        assert listed(tmp_path / "predictions") == ["tone 1", "tone 2", "tone 3"]
    for path in (tmp_path / "predictions").glob("*.png"):
        with Image.open(path) as picture:
            assert picture.size == (8, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions"]
    assert f"Images:  {tmp_path / 'predictions'}\n" in capsys.readouterr().out


def test_pictures_of_two_predictions_never_mix(tmp_path: Path) -> None:
    class Breaking(Drawing):
        def predict_step(self, batch, batch_idx):
            if batch_idx == 1:
                raise OSError("broken")
            return super().predict_step(batch, batch_idx)

    predict(tmp_path, [1, 2, 3])
    with pytest.raises(OSError, match="broken"):
        predict(tmp_path, [4, 5, 6], Breaking())
    assert listed(tmp_path / "predictions") == ["tone 1", "tone 2", "tone 3"]  # untouched by one that was cut short
    predict(tmp_path, [3, 4])
    assert listed(tmp_path / "predictions") == ["tone 3", "tone 4"]
    assert listed(tmp_path / "predictions-no-checkpoint") == ["tone 1", "tone 2", "tone 3"]
    assert listed(tmp_path / "predictions-unfinished") == ["tone 4", "tone 5"]


def test_predictions_are_named_after_their_checkpoint() -> None:
    assert checkpoint_name("run/checkpoints/step-00000040/state.ckpt") == "step-00000040"
    assert checkpoint_name("logs/epoch=3-step=9.ckpt") == "epoch=3-step=9"
    assert checkpoint_name("../a b:c.ckpt") == "a_b_c" and checkpoint_name(None) == "no-checkpoint"
