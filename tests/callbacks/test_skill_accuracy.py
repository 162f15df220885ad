from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from evolvedirector.callbacks import SkillAccuracy
from evolvedirector.evolution.summary import wilson_interval
from evolvedirector.records import ImageRequest, Prompt
from tests import toys

HELD_OUT = [Prompt.create(f"tone {tone}", skill="dark" if tone < 100 else "light") for tone in (10, 20, 120, 125, 250)]


class Measured(toys.ToyStudent):
    def test_step(self, batch, batch_idx):
        return self.generate(batch)


class Data(pl.LightningDataModule):
    def held_out_prompts(self) -> list[Prompt]:
        return HELD_OUT

    def val_dataloader(self):
        requests = [ImageRequest(p.id, p.text, 0, 8, 8) for p in HELD_OUT]
        return torch.utils.data.DataLoader([*requests, requests[-1]], batch_size=2, collate_fn=list)

    test_dataloader = val_dataloader

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch


def module_that_draws(tone: int) -> Measured:
    module = Measured()
    torch.nn.init.constant_(module.line.bias, tone / 255)
    return module


@pytest.mark.parametrize("loop", ["validate", "test"])
def test_the_share_shown_is_reported_by_skill(tmp_path: Path, loop: str) -> None:
    accuracy = SkillAccuracy(toys.ToyJudge())
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[accuracy], enable_progress_bar=False
    )
    (figures,) = getattr(trainer, loop)(module_that_draws(122), datamodule=Data(), verbose=False)
    # 122 is within 10 of 120 and 125; the padded repetition of 250 does not count twice
    entries = accuracy.summary_entries()
    assert entries["accuracy"] == {"dark": 0.0, "light": pytest.approx(2 / 3, abs=1e-6)}
    assert entries["accuracy_mean"] == pytest.approx(1 / 3, abs=1e-6), "the mean is over skills, not over prompts"
    assert entries["accuracy_interval"]["light"] == pytest.approx(wilson_interval(2, 3), abs=1e-6)
    low, high = entries["accuracy_mean_interval"]
    assert low < 1 / 3 < high
    assert figures["accuracy_mean"] == pytest.approx(1 / 3, abs=1e-6)
    assert figures["accuracy/light"] == pytest.approx(2 / 3, abs=1e-6)


def test_unreadable_looks_show_nothing(tmp_path: Path) -> None:
    accuracy = SkillAccuracy(toys.ToyJudge(mass=0.0))
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[accuracy], enable_progress_bar=False
    )
    trainer.validate(module_that_draws(122), datamodule=Data(), verbose=False)
    assert accuracy.accuracy == {"dark": 0.0, "light": 0.0}


def test_a_run_without_reader_contributes_nothing() -> None:
    assert SkillAccuracy(toys.ToyJudge()).summary_entries() == {}
