import torch
from lightning.pytorch import LightningModule, Trainer

from evolvedirector.commands.run_notes import opening_line


class LazyModule(LightningModule):
    """A student one of whose layers has no size before its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.known = torch.nn.Linear(2, 3)
        self.lazy = torch.nn.LazyLinear(4)


def test_the_first_line_counts_what_has_a_size() -> None:
    trainer = Trainer(accelerator="cpu", max_steps=7, logger=False, enable_progress_bar=False)
    said = opening_line(trainer, LazyModule())
    assert "LazyModule (9 parameters), 7 steps on 1 x cpu" in said
