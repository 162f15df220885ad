"""Train with rounds on one machine, or on two that share no disk but a place at a URL: run by the tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy

from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.execution.ranks import leaving_process_group
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from tests.toys import ToyJudge, ToyPrompts, ToyStudent, ToyTeacher, ToyWriter


class Student(ToyStudent):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[str]]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen.append((self.trainer.datamodule.revision_sha, batch["key"]))
        return super().training_step(batch, batch_idx)


def main(shared: Path, name: str, machines: int) -> None:
    """Train three epochs, with a round before each.

    Args:
        shared: Where results are written, and where the URL is.
        name: Of the run.
        machines: With a process each; the root is the folder `data` of each one's own current folder.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    several: dict[str, Any] = {"num_nodes": 2, "strategy": DDPStrategy(process_group_backend="gloo")}
    student = Student()
    data = EvolvingDataModule(
        "data",
        ToyPrompts(9),
        global_batch_size=4,
        batches_per_epoch=3,
        image_size_px=8,
        remote=f"file://{shared}/{name}-objects" if machines > 1 else None,
    )
    evolution = EvolutionCallback(
        teachers={"toy": ToyTeacher()},
        judge=ToyJudge(),
        writer=ToyWriter(),
        policy=EvolveDirectorPolicy(expansions=1),
    )
    trainer = pl.Trainer(
        default_root_dir=shared / name,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=3,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        callbacks=[evolution],
        **(several if machines > 1 else {}),
    )
    trainer.fit(student, datamodule=data)
    found = {
        "seen": student.seen,
        "weights": [parameter.flatten().tolist() for parameter in student.parameters()],
        "root": str(data.data_root.absolute()),
    }
    (shared / f"{name}-{trainer.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    with leaving_process_group():
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
