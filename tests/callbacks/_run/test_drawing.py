"""What leaves the device while judge and teachers work there."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from evolvedirector.callbacks._run.drawing import offloader
from evolvedirector.records.part import Part

CPU, HOME = torch.device("cpu"), torch.device("cuda", 0)


class Encoder:
    fingerprint = "encoder"

    def __init__(self) -> None:
        self.sent_to: list[torch.device] = []

    def to(self, device: torch.device) -> None:
        self.sent_to.append(device)


class Student(pl.LightningModule):
    """On a GPU by its own account; it has nothing that would have to be there."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()

    @property
    def device(self) -> torch.device:
        return HOME

    def parts(self) -> Mapping[str, Part]:
        return {"text_encoder": self.encoder, "family": SimpleNamespace(fingerprint="family")}


@pytest.mark.parametrize(("what", "moves"), [("all", [CPU, HOME]), ("optimizer", [])])
def test_text_encoders_leave_with_the_weights_and_come_back(what: Any, moves: list[torch.device]) -> None:
    module, trainer = Student(), pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy._optimizers = []
    move = offloader(trainer, module, what)
    assert move is not None
    move(True)
    move(False)
    assert module.encoder.sent_to == moves
