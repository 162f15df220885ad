"""The module being trained as a part of a round: what it reads beside the prompt is asked of it."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl

from evolvedirector.callbacks._run.drawing import student_part
from tests import toys


class Reading(toys.ToyStudent):
    """Draws from a reference where there is one, and not without a mask."""

    @property
    def file_roles(self) -> Sequence[str]:
        return ("reference", "mask")

    @property
    def needed_roles(self) -> Sequence[str]:
        return ("mask",)


def test_a_student_says_which_files_it_reads_and_one_that_says_nothing_reads_none() -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    reading, plain = (student_part(trainer, module) for module in (Reading(), toys.ToyStudent()))
    assert (reading.roles, reading.needed_roles) == (("reference", "mask"), ("mask",))
    assert (plain.roles, plain.needed_roles) == ((), ())
