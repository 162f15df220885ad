"""Choose own images, train experts and a gate on them and make their table, killed again and again: run by the test."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch

from evolvedirector.callbacks import EvolutionCallback, ExpertTable
from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.evolution import Budget
from evolvedirector.experts import GatedLoRA, LoRA, Trained
from evolvedirector.experts.merge_settings import Merge
from evolvedirector.experts.stages import Stage
from evolvedirector.policies import Aspect, BestOfN
from evolvedirector.records import ImageAndPrompt, ImageReply, ImageRequest, Score
from evolvedirector.records.subset import Subset
from tests.callbacks.expert_toys import HeldOut, Measures
from tests.callbacks.staged import Staged, made_root
from tests.lightning_modules.tiny_student import SIDE
from tests.toys import ToyJudge, ToyTeacher, ToyWriter, flat_png

EXPERTS = ("bright", "dull", "joint")
STAGES = (
    Stage("bright", 2, Subset(variants=["bright"])),
    Stage("dull", 2, Subset(variants=["dull"])),
    Stage("joint", 4, Subset(variants=["bright", "dull"])),
    Stage("gate", 2, kind="gate"),
)
IMAGES_PER_PROMPT, EVALUATED = 2, 4
DEATHS = (0, 2, 4, 6, 8)
"""Steps at whose epoch a run is killed: before every stage and inside of one."""


def note(folder: Path, word: str) -> None:
    with (folder / "asked").open("a") as file:
        file.write(word + "\n")


class SelfTeacher(ToyTeacher):
    """Draws a tone that follows from the seed; every request is a line in a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__("self")
        self.folder = folder

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        for request in requests:
            note(self.folder, f"draw {request.request_id}")
            yield ImageReply(request.request_id, "image", flat_png(request.seed % 256, SIDE))


class Tells(Measures):
    """Writes a line for every image that it scores."""

    def __init__(self, folder: Path, name: str, red: float) -> None:
        super().__init__(name, (red, 0.0, 0.0))
        self.folder = folder

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        for _ in items:
            note(self.folder, f"score {self.name}")
        return super().score(items)


class Dies(pl.Callback):
    """Kills its process when the epoch of a step begins, behind all other callbacks."""

    def __init__(self, at: int | None) -> None:
        self.at = at

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class DiesInTheTable(Tells):
    """Kills its process when it has scored two arms."""

    def __init__(self, folder: Path, dies: bool) -> None:
        super().__init__(folder, "evaluator", 1.0)
        self.dies = dies

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        if self.dies and self.scored == 2 * EVALUATED:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(items)


def fit(folder: Path, at: int | None, dies_in_table: bool = False) -> None:
    torch.set_num_threads(1)
    evolution = EvolutionCallback(
        {"self": SelfTeacher(folder)}, ToyJudge(), ToyWriter(),
        BestOfN({"bright": Aspect("bright", top_share=0.75), "dull": Aspect("dull")}, None, IMAGES_PER_PROMPT),
        Budget(), rewards={"bright": Tells(folder, "bright", 1.0), "dull": Tells(folder, "dull", -1.0)},
        judge_health=False, first_rounds=1, max_rounds=1,
    )  # fmt: skip
    table = ExpertTable({"red": DiesInTheTable(folder, dies_in_table)}, HeldOut())
    run = Staged(
        folder, folder / "data", stages=STAGES, merges={"uniform": Merge(experts=["bright", "dull"])},
        trained=Trained(LoRA(2), experts=EXPERTS, gate=GatedLoRA("pooled"), gated=["bright", "dull"]),
        callbacks=[evolution, table, Dies(at)],
    )  # fmt: skip
    last = latest_committed(folder)
    run.fit(None if last is None else last.parent.name)
    torch.save(run.weights(), folder / "result.pt")


def attempt(folder: Path, at: int | None, dies_in_table: bool = False) -> int:
    """Fit in a process of its own; return how it ended."""
    child = os.fork()
    if not child:
        try:
            fit(folder, at, dies_in_table)
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    for name in ("whole", "killed"):
        made_root(folder / name / "data")
    assert attempt(folder / "whole", None) == 0
    ends = [attempt(folder / "killed", at) for at in DEATHS] + [attempt(folder / "killed", None, dies_in_table=True)]
    assert ends == [-signal.SIGKILL] * len(ends), ends
    assert attempt(folder / "killed", None) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
