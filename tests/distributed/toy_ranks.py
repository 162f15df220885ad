"""Toy runs of several ranks that fail, stall or get signals in a round; all of them from one set of imports.

A script: reads a JSON list of experiments from standard input, forks the ranks of all of them, and writes a JSON list.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy

from evolvedirector.callbacks import EvolutionCallback, RunCheckpoint
from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget
from evolvedirector.execution.ranks import leaving_process_group
from evolvedirector.execution.signals import EndBySignal, run_until_signal
from evolvedirector.policies import ScreeningPolicy, Weighting
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.policies.policy import Policy
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    ImageReply,
    ImageRequest,
    LossRequest,
    RoundInfo,
)
from tests.embedding_toys import ToyEmbedder
from tests.toys import ToyJudge, ToyPrompts, ToyStudent, ToyTeacher, ToyWriter, mean_tone, tone_of

LIMIT_S = 45.0
EPOCHS = 3


class Trouble:
    """Raise or stall at the first use of one part on one rank, after leaving a sign that the round is under way."""

    def __init__(self, experiment: dict[str, Any], rank: int, folder: Path) -> None:
        self._experiment, self._rank, self._folder = experiment, rank, folder

    def at(self, part: str) -> None:
        if self._experiment.get("fails") == [part, self._rank]:
            raise ValueError(f"the {part} broke")
        if part == "judge" and self._experiment.get("slow") is not None:
            (self._folder / f"in-round-{self._rank}").touch()
            if self._experiment["slow"] == self._rank:
                time.sleep(60)


class Student(ToyStudent):
    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__()
        self._notes = folder / f"rank{rank}.txt"

    def _note(self, *fields: Any) -> None:
        with open(self._notes, "a") as file:
            file.write(json.dumps(fields) + "\n")

    def on_train_batch_end(self, outputs: Any, batch: dict, batch_idx: int) -> None:
        self._note("batch", self.trainer.global_step, self.trainer.datamodule.revision_sha, batch["key"])

    def generate(self, requests: Sequence[ImageRequest]) -> list[torch.Tensor]:
        self._note("drew", [request.request_id for request in requests])
        return super().generate(requests)

    def sample_losses(self, requests: Sequence[LossRequest]) -> list[float]:
        self._note("measured", [request.request_id for request in requests])
        tones = self.line(torch.tensor([[tone_of(request.prompt) / 255] for request in requests]))[:, 0].tolist()
        return [(tone - mean_tone(r.image) / 255) ** 2 for tone, r in zip(tones, requests, strict=True)]


class Teacher(ToyTeacher):
    def __init__(self, trouble: Trouble) -> None:
        super().__init__()
        self._trouble = trouble

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        if requests:
            self._trouble.at("teacher")
        yield from super().generate(requests)


class Judge(ToyJudge):
    def __init__(self, trouble: Trouble) -> None:
        super().__init__()
        self._trouble = trouble

    def look(self, pairs: Sequence) -> Iterator:
        self._trouble.at("judge")
        yield from super().look(pairs)


def policy_of(experiment: dict[str, Any]) -> Policy:
    if experiment.get("fails") == ["policy", 0]:
        return BrokenPolicy()
    by_loss = Weighting(loss_power=1.0)
    return ScreeningPolicy(weighting=by_loss) if experiment.get("by_loss") else EvolveDirectorPolicy(expansions=1)


class BrokenPolicy(EvolveDirectorPolicy):
    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        raise ValueError("the policy broke")


def train(experiment: dict[str, Any], rank: int, world_size: int, port: int) -> int | None:
    """Train as one rank; returns the exit code."""
    folder = Path(experiment["folder"])
    trouble = Trouble(experiment, rank, folder)
    evolution = EvolutionCallback(
        teachers={"toy": Teacher(trouble)},
        judge=Judge(trouble),
        writer=ToyWriter(),
        policy=policy_of(experiment),
        budget=Budget(30) if experiment.get("by_loss") else None,
        embedder=ToyEmbedder() if experiment.get("embeds") else None,
    )
    data = EvolvingDataModule(
        root=folder / "data",
        seeds=ToyPrompts(9),
        global_batch_size=4,
        batches_per_epoch=3,
        image_size_px=8,
    )
    several: dict[str, Any] = {}
    if world_size > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
        several = {"devices": world_size, "strategy": DDPStrategy(process_group_backend="gloo")}

    def fit(ending: EndBySignal) -> None:
        trainer = pl.Trainer(
            default_root_dir=folder / "run",
            accelerator="cpu",
            logger=False,
            max_epochs=experiment.get("epochs", EPOCHS),
            reload_dataloaders_every_n_epochs=1,
            callbacks=[evolution, RunCheckpoint(), ending],
            enable_progress_bar=False,
            enable_model_summary=False,
            **several,
        )
        last = latest_committed(folder / "run")
        student = Student(folder, rank)
        trainer.fit(student, datamodule=data, ckpt_path=str(last) if last else None, weights_only=True)
        if rank == 0:
            (folder / "revision.txt").write_text(data.revision_sha)

    return run_until_signal(fit, ["fit"])


def start(experiment: dict[str, Any], rank: int, world_size: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    descriptor = os.open(Path(experiment["folder"]) / f"log{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.manual_seed(0)
    with leaving_process_group():
        code = train(experiment, rank, world_size, port)
    sys.exit(code)  # ends as a script would: with its own exit handlers


def main(experiments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run all experiments side by side; a rank that is still there after 45 s is killed and has no exit code."""
    ranks: dict[int, tuple[int, int]] = {}
    signalled: dict[int, float] = {}
    results: list[dict[str, Any]] = []
    for number, experiment in enumerate(experiments):
        Path(experiment["folder"]).mkdir(parents=True, exist_ok=True)
        world_size = experiment.get("world_size", 2)
        for rank in range(world_size):
            ranks[start(experiment, rank, world_size, experiment["port"])] = (number, rank)
        results.append({**experiment, "codes": [None] * world_size, "seconds": [None] * world_size})
    began = time.monotonic()
    while ranks:
        child, status = os.waitpid(-1, os.WNOHANG)
        now = time.monotonic()
        if child:
            number, rank = ranks.pop(child)
            results[number]["codes"][rank] = os.waitstatus_to_exitcode(status)
            results[number]["seconds"][rank] = now - signalled.get(number, began)
            continue
        for number, experiment in enumerate(experiments):
            signs = [Path(experiment["folder"]) / f"in-round-{rank}" for rank in (0, 1)]
            if "signal" in experiment and number not in signalled and all(sign.exists() for sign in signs):
                time.sleep(1.0)  # each rank is in its judge or waits for the other by now
                signalled[number] = time.monotonic()
                target, name = experiment["signal"]
                os.kill(next(pid for pid, place in ranks.items() if place == (number, target)), signal.Signals[name])
        if now - began > 2.5 * LIMIT_S:
            break
        time.sleep(0.02)
        for child, (number, _) in list(ranks.items()):
            stopped = experiments[number].get("signal", [0, ""])
            alone = [place for place in ranks.values() if place[0] == number]
            over = number in signalled and now - signalled[number] > LIMIT_S
            if over or (stopped[1] == "SIGSTOP" and alone == [(number, stopped[0])]):
                os.kill(child, signal.SIGKILL)
    for child in ranks:
        os.kill(child, signal.SIGKILL)
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    todo = json.load(sys.stdin)
    parent = os.getpid()
    done = main(todo)
    if os.getpid() == parent:
        print(json.dumps(done))
