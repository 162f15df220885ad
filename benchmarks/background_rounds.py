"""Measure how long a student idles for its rounds: between epochs, and in the background.

A small student trains on a root of shapes while rounds of the default policy ask a judge and a teacher that stand for
services: each call takes 200 ms, and eight are in flight. Both modes hold the same rounds at the same epochs and
are run in turn, seed by seed, in one process. Idle is what the callback takes at the end of epochs less the student's
drawing, over the time from the opening of the first round to that of the last (so each counts with the training beside
or after it); drawing is work of the student, and so is training. The bar: at most 5 % in the background.

Run: python -m benchmarks.background_rounds [--seeds 0 1] [--batches 400] [--write FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget
from evolvedirector.evolution.background_rounds import BackgroundRounds
from evolvedirector.lightning_modules import FlowMatching, PixArt, RandomTextEncoder, TextToImage
from evolvedirector.records import ImageAndPrompt, ImageReply, ImageRequest, Look, OrderedPair
from evolvedirector.store import DatasetStore
from evolvedirector.worlds.shapes import MiniatureJudge, MiniaturePrompts, MiniatureTeacher, MiniatureWriter

CALL_S = 0.2
IN_FLIGHT = 8
EVERY_N_EPOCHS = 2
ROUNDS = 4
SEEDS = 32
CALLS_PER_ROUND = 24
BAR = 0.05
LAG = BackgroundRounds(write_epochs=1, stale_epochs=1)


class Service:
    """Stands for a service: each request is a call of 200 ms, eight of them at a time."""

    requests_in_flight = IN_FLIGHT

    def __init__(self, part: Any) -> None:
        self._part = part

    @property
    def fingerprint(self) -> str:
        """Name whoever answers."""
        return f"service of {self._part.fingerprint}"

    def _answer(self, ask: Callable[[Sequence[Any]], Iterator[Any]], requests: Sequence[Any]) -> Iterator[Any]:
        def call(request: Any) -> Any:
            time.sleep(CALL_S)
            return next(iter(ask([request])))

        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            for done in as_completed([pool.submit(call, request) for request in requests]):
                yield done.result()

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Draw, as a teacher."""
        yield from self._answer(self._part.generate, requests)

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Compare, as a judge."""
        yield from self._answer(self._part.look, pairs)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Look at single images, as a judge."""
        yield from self._answer(self._part.check, items)


class Stopwatch(EvolutionCallback):
    """Notes when rounds open, and what the ends of epochs take."""

    idle_s = drawing_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time the drawing from here on."""
        super().on_train_start(trainer, pl_module)
        draw = pl_module.generate
        self.marks: list[tuple[float, float, float]] = []

        def timed(requests: Sequence[ImageRequest]) -> Any:
            began = time.monotonic()
            images = draw(requests)
            self.drawing_s += time.monotonic() - began
            return images

        pl_module.generate = timed  # type: ignore[method-assign, assignment]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time the end of an epoch."""
        if (trainer.current_epoch + 1) % EVERY_N_EPOCHS == 0:
            self.marks.append((time.monotonic(), self.idle_s, self.drawing_s))
        began, drew_s = time.monotonic(), self.drawing_s
        super().on_train_epoch_end(trainer, pl_module)
        self.idle_s += time.monotonic() - began - (self.drawing_s - drew_s)


def measure(folder: Path, seed: int, batches: int, settings: dict[str, Any]) -> dict[str, float]:
    """Train through all rounds; return the seconds of them, and those in which the student idled or drew."""
    torch.manual_seed(seed)
    module = TextToImage(
        PixArt(RandomTextEncoder(64), 32, text_length=24, patch_size=8, layers=3, heads=4, head_dim=32),
        FlowMatching(prediction="x0"),
        image_size_px=32,
        sampling_steps=4,
    )
    data = EvolvingDataModule(
        folder, MiniaturePrompts(count=SEEDS), global_batch_size=16, batches_per_epoch=batches, seed=seed
    )
    evolution = Stopwatch(
        {"service": Service(MiniatureTeacher())},
        Service(MiniatureJudge()),
        MiniatureWriter(),
        budget=Budget(SEEDS + ROUNDS * CALLS_PER_ROUND, teacher_calls_per_round=CALLS_PER_ROUND),
        every_n_epochs=EVERY_N_EPOCHS,
        seed=seed,
        rehearse=False,
        **settings,
    )
    trainer = pl.Trainer(
        default_root_dir=folder.with_name(f"{folder.name}-run"),
        accelerator="cpu",
        max_epochs=EVERY_N_EPOCHS * (ROUNDS + 1) + 1,
        reload_dataloaders_every_n_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[evolution],
    )
    trainer.fit(module, datamodule=data)
    (began, idle_0_s, drew_0_s), (ended, idle_1_s, drew_1_s) = evolution.marks[0], evolution.marks[ROUNDS - 1]
    with DatasetStore(folder) as store:
        spend = store.ledger.spend()
    seconds, idle_s = ended - began, idle_1_s - idle_0_s
    return {
        "rounds": ROUNDS - 1,
        "seconds": seconds,
        "idle_s": idle_s,
        "drawing_s": drew_1_s - drew_0_s,
        "idle_share": idle_s / seconds,
        "teacher_calls": spend.teacher_calls,
        "judge_calls": spend.judge_calls,
    }


def main() -> None:
    """Run both modes in turn and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--batches", type=int, default=400, help="batches of an epoch")
    parser.add_argument("--write", type=Path, help="file for the figures")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    modes: dict[str, dict[str, Any]] = {"between_epochs": {}, "background": {"mode": "background", "background": LAG}}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in modes}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for name, settings in modes.items():
                found[name].append(measure(Path(folder) / f"{name}-{seed}", seed, args.batches, settings))
                print(f"seed {seed}, {name}: {json.dumps(found[name][-1])}", flush=True)
    share = {name: sum(r["idle_s"] for r in runs) / sum(r["seconds"] for r in runs) for name, runs in found.items()}
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(*found.values(), strict=True)]
    result = {
        "call_s": CALL_S,
        "in_flight": IN_FLIGHT,
        "every_n_epochs": EVERY_N_EPOCHS,
        "write_epochs": LAG.write_epochs,
        "stale_epochs": LAG.stale_epochs,
        "batches_per_epoch": args.batches,
        "seeds": args.seeds,
        "idle_share": share,
        "time_ratio": ratios,
        "bar": BAR,
        "held": share["background"] <= BAR,
        "runs": found,
    }
    for name, value in share.items():
        print(f"{name}: the student idles {value:.1%} of the time of a round")
    print(
        f"the same epochs and rounds in the background take {', '.join(f'{ratio:.2f}' for ratio in ratios)} of the time"
    )
    print(f"bar of {BAR:.0%}: {'held' if result['held'] else 'NOT HELD'}")
    if args.write:
        args.write.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
