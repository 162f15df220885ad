"""Measure a toy student in one or two processes and write what each rank knows; run by the tests, not collected."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch

from evolvedirector.callbacks import EvaluationCallback, RunCheckpoint, RunSummary
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evaluation.suites import HeldOutAccuracy, MasteredPrompts, TeacherComparison
from evolvedirector.records import Prompt
from tests import toys


class HeldOut:
    def prompts(self) -> list[Prompt]:
        return [Prompt.create(f"tone {tone}", skill="dark" if tone < 100 else "light") for tone in range(3, 200, 28)]


class Student(toys.ToyStudent):
    """Draws the tone 100, or 200 for some seeds; counts what this rank drew."""

    drawn = 0

    def generate(self, requests):
        self.drawn += len(requests)
        tones = [200 if request.seed % 3 else 100 for request in requests]
        return [torch.full((3, 8, 8), tone, dtype=torch.uint8) for tone in tones]


class BreaksOnRankOne(toys.ToyJudge):
    """Reads on rank 0, breaks on rank 1."""

    def check(self, items):
        if torch.distributed.get_rank() == 1:
            raise OSError("no reader")
        return super().check(items)


def main(folder: Path, ranks: int, reader: toys.ToyJudge) -> None:
    teacher = toys.ToyTeacher()
    measured = EvaluationCallback(
        {
            "held_out": HeldOutAccuracy(reader, seeds_per_prompt=3),
            "win_rate": TeacherComparison(toys.ToyJudge(), {"toy": teacher}),
            "forgetting": MasteredPrompts(reader),
        }
    )
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto",
        max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False,
        callbacks=[measured, RunSummary(), RunCheckpoint()],
    )  # fmt: skip
    data = EvolvingDataModule(
        folder / "data", held_out=HeldOut(), global_batch_size=4, batches_per_epoch=2, image_size_px=8,
        generation_chunk_size=2,
    )  # fmt: skip
    student = Student()
    trainer.fit(student, datamodule=data)
    report = {"figures": measured.summary_entries(), "asked": len(teacher.asked), "drawn": student.drawn}
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    broken = "broken" in sys.argv[3:]
    main(Path(sys.argv[1]), int(sys.argv[2]), BreaksOnRankOne() if broken else toys.ToyJudge())
