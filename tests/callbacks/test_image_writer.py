import json
from pathlib import Path

import lightning.pytorch as pl
import torch
from PIL import Image

from evolvedirector.callbacks import ImageWriter
from evolvedirector.records import ImageRequest
from tests import toys


class Drawing(toys.ToyStudent):
    def predict_step(self, batch, batch_idx):
        return self.generate(batch)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch


def test_each_prompt_becomes_one_picture_and_one_line(tmp_path: Path, capsys) -> None:
    requests = [ImageRequest(f"id{n}", f"tone {n}", n, 8, 8) for n in (1, 2, 3)]
    loader = torch.utils.data.DataLoader([*requests, requests[-1]], batch_size=2, collate_fn=list)
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[ImageWriter()], enable_progress_bar=False
    )
    for _ in range(2):  # a second call starts the list again
        trainer.predict(Drawing(), loader)
    folder = tmp_path / "predictions"
    listed = [json.loads(line) for line in (folder / "prompts-rank0.jsonl").read_text().splitlines()]
    assert [entry["prompt"] for entry in listed] == ["tone 1", "tone 2", "tone 3"]
    for entry in listed:
        with Image.open(folder / entry["image"]) as picture:
            assert picture.size == (8, 8)
    assert str(folder) in capsys.readouterr().out
