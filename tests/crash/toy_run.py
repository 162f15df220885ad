"""A small evolving run that notes all it does and can end itself at any event; many of them from one set of imports.

As a script it reads one JSON experiment per line from standard input and writes one JSON result per line: it imports
once and forks a child for each run, so that a run costs a second instead of ten.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import webdataset

from evolvedirector.callbacks import EvolutionCallback, RunCheckpoint, RunSummary
from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget
from evolvedirector.execution.signals import EndBySignal, run_until_signal
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.store import DatasetStore
from evolvedirector.store.blobs import Blobs
from evolvedirector.store.ledger.file import LedgerFile
from evolvedirector.store.revision import RevisionFiles
from tests.toys import ToyJudge, ToyPrompts, ToyStudent, ToyTeacher, ToyWriter, flat_png, tone_of

EPOCHS, BATCHES_PER_EPOCH = 4, 3
BUDGET_TEACHER_CALLS = 400


class Events:
    """Count what happens, and send this process a signal at one of the events."""

    def __init__(self, number: int | None = None, signal_number: int = signal.SIGKILL) -> None:
        self.kinds: list[str] = []
        self._number, self._signal, self._lock = number, signal_number, threading.Lock()

    def happen(self, kind: str) -> None:
        with self._lock:
            self.kinds.append(kind)
            now = len(self.kinds) - 1 == self._number
        if now:
            os.kill(os.getpid(), self._signal)
            if self._signal == signal.SIGKILL:
                time.sleep(60)  # the kernel is on its way

    def around(self, owner: Any, name: str, kind: str, after: bool = False) -> None:
        """Let each call of `owner.name` count as an event, and its return as another."""
        call = getattr(owner, name)

        @wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.happen(kind)
            result = call(*args, **kwargs)
            if after:
                self.happen(f"{kind} done")
            return result

        setattr(owner, name, counted)

    def watch(self) -> None:
        self.around(os, "fsync", "fsync")
        self.around(os, "replace", "replace", after=True)
        self.around(Blobs, "put_many", "blobs", after=True)
        self.around(DatasetStore, "publish", "publish", after=True)
        self.around(RevisionFiles, "write", "revision", after=True)
        self.around(RevisionFiles, "set_current", "current", after=True)
        self.around(pl.Trainer, "save_checkpoint", "checkpoint", after=True)
        self.around(ToyStudent, "generate", "generate")
        self.around(ToyWriter, "write", "writer")
        transaction = LedgerFile.transaction

        @contextmanager
        def counted(file: LedgerFile) -> Iterator[Any]:
            with transaction(file) as connection:
                yield connection
                self.happen("before commit")
            self.happen("after commit")

        LedgerFile.transaction = counted  # type: ignore[method-assign]


class NotingStudent(ToyStudent):
    """Notes the keys of each batch it has trained on."""

    def __init__(self, notes: Path, happen: Callable[[str], None]) -> None:
        super().__init__()
        self._notes, self._happen = notes, happen

    def on_train_batch_start(self, batch: dict, batch_idx: int) -> None:
        self._happen("batch start")

    def on_train_batch_end(self, outputs: Any, batch: dict, batch_idx: int) -> None:
        with open(self._notes, "a") as file:
            file.write(json.dumps([self.trainer.global_step, batch["key"]]) + "\n")
        self._happen("batch end")


class NotingTeacher(ToyTeacher):
    """Notes each request that reached it, as a server would; draws some tones badly and refuses a few."""

    def __init__(self, name: str, notes: Path, happen: Callable[[str], None]) -> None:
        super().__init__(name)
        self._notes, self._happen = notes, happen

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        for request in requests:
            with open(self._notes, "a") as file:
                file.write(request.request_id + "\n")
            self._happen("teacher asked")
            tone = tone_of(request.prompt)
            if self.name == "first" and tone % 5 == 0:
                yield ImageReply(request.request_id, "refusal", reason="not this one")
            else:
                shifted = (tone + 60 * (tone % 3)) % 256
                yield ImageReply(request.request_id, "image", flat_png(shifted, request.width_px))
            self._happen("teacher answered")


class NotingJudge(ToyJudge):
    def __init__(self, happen: Callable[[str], None]) -> None:
        super().__init__()
        self._happen = happen

    def look(self, pairs: Sequence) -> Iterator:
        for look in super().look(pairs):
            self._happen("look")
            yield look


def train(folder: Path, experiment: dict[str, Any], events: Events) -> dict[str, Any]:
    """Run to the end, from the last committed checkpoint as `--ckpt_path last` does; returns the final state."""
    warnings.simplefilter("ignore")
    run_folder, happen = folder / "run", events.happen
    data = EvolvingDataModule(
        root=folder / "data",
        seeds=ToyPrompts(8),
        global_batch_size=4,
        batches_per_epoch=BATCHES_PER_EPOCH,
        image_size_px=8,
    )
    evolution = EvolutionCallback(
        teachers={name: NotingTeacher(name, folder / "asked.txt", happen) for name in ("first", "second")},
        judge=NotingJudge(happen),
        writer=ToyWriter(),
        policy=EvolveDirectorPolicy(expansions=1, mutation_probability=0.5),
        budget=Budget(experiment.get("budget", BUDGET_TEACHER_CALLS)),
        mode=experiment.get("mode", "between_epochs"),
    )
    limit = {"max_epochs": EPOCHS} if experiment.get("limit") != "max_steps" else {}
    steps = {"max_steps": EPOCHS * BATCHES_PER_EPOCH - 1} if experiment.get("limit") == "max_steps" else {}
    model = NotingStudent(folder / "batches.txt", happen)

    def fit(ending: EndBySignal) -> None:
        trainer = pl.Trainer(
            default_root_dir=run_folder,
            accelerator="cpu",
            logger=False,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[
                evolution,
                RunSummary(),
                RunCheckpoint(every_n_train_steps=experiment.get("every_n_train_steps")),
                ending,
            ],
            enable_progress_bar=False,
            enable_model_summary=False,
            **limit,
            **steps,
        )
        last = latest_committed(run_folder)
        trainer.fit(model, datamodule=data, ckpt_path=str(last) if last else None, weights_only=True)

    code = run_until_signal(fit, ["fit"])
    return {"code": code, **(final_state(folder, model, data) if code == 0 else {})}


def final_state(folder: Path, model: pl.LightningModule, data: EvolvingDataModule) -> dict[str, Any]:
    """Everything that must not depend on interruptions."""
    weights = hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest()
    chain = []
    with DatasetStore(folder / "data") as store:
        sha: str | None = data.revision_sha
        revision = store.revision(sha or "")
        live = sorted(entry.sample.key for entry in revision.state.in_state("live") if entry.sample)
        spend = store.ledger.spend()
        answered = len(store.ledger.calls.images())
        while sha is not None:
            chain.append(sha)
            sha = store.revision(sha).parent_sha
    tars = [str(folder / "data" / "shards" / f"{name}.tar") for name in revision.shards]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    batches = dict(map(json.loads, (folder / "batches.txt").read_text().splitlines()))
    return {
        "weights": weights,
        "chain": chain[::-1],
        "live": live,
        "live_in_shards": set(live) <= {sample["__key__"] for sample in samples},
        "batches": sorted(batches.items()),
        "teacher_calls": spend.teacher_calls,
        "lost_calls": spend.lost_calls,
        "images_bought": answered,
        "asked": len((folder / "asked.txt").read_text().split()),
        "summary": json.loads((folder / "run" / "summary.json").read_text()),
    }


def settled_requests(root: Path) -> list[str]:
    """Name the requests whose answers the ledger holds, and everything asked so far is known to be."""
    if not (root / "ledger.sqlite").exists():
        return []
    with DatasetStore(root) as store:
        return [row[0] for row in store.ledger.file.rows("SELECT request_id FROM calls WHERE status != 'submitted'")]


def in_child(work: Callable[[], Any], log: Path) -> tuple[int, Any, float]:
    """Do some work in a forked process; returns its exit status (negative: a signal), its result and its seconds."""
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = 1
        try:
            result = work()
            code = result["code"] if isinstance(result, dict) and "code" in result else 0
            with open(writing, "w") as pipe:
                json.dump(result, pipe)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            traceback.print_exc()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, json.loads(text) if text else None, time.monotonic() - began


def attempt(folder: Path, experiment: dict[str, Any], at: int | None, signal_number: int) -> dict[str, Any]:
    def work() -> dict[str, Any]:
        torch.manual_seed(0)
        events = Events(at, signal_number)
        events.watch()
        return {**train(folder, experiment, events), "kinds": events.kinds}

    code, result, seconds = in_child(work, folder / "log.txt")
    return {**(result or {}), "code": code, "seconds": seconds}


def perform(experiment: dict[str, Any]) -> dict[str, Any]:
    """Run with the interruptions asked for, each followed by the same command, until it ends by itself."""
    folder = Path(experiment["folder"])
    folder.mkdir(parents=True)
    ends, asked_again = [], 0
    for at in experiment.get("at", []):
        ends.append(attempt(folder, experiment, at, experiment.get("signal", signal.SIGKILL)))
        _, settled, _ = in_child(lambda: settled_requests(folder / "data"), folder / "log.txt")
        before = (folder / "asked.txt").read_text().split() if (folder / "asked.txt").exists() else []
        ends[-1]["settled"], ends[-1]["asked_before"] = settled or [], len(before)
    final = attempt(folder, experiment, None, signal.SIGKILL)
    asked = (folder / "asked.txt").read_text().split()
    for end in ends:
        asked_again += len(set(end.pop("settled")) & set(asked[end.pop("asked_before") :]))
        end.pop("kinds", None)
    return {**experiment, "ends": ends, "final": final, "asked_again": asked_again}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(perform(json.loads(line))), flush=True)
