"""`evolvedirector bench`: how fast a run trains and draws here, and what memory it takes; nothing is bought or kept."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import pkgutil
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from rich.table import Table

from evolvedirector.callbacks._run.stopwatch import Behind, Stopwatch
from evolvedirector.commands.bench_embeddings import fill_embeddings
from evolvedirector.commands.bench_figures import BenchFigures, OtherParts, figures_of, measure_others, no_effect
from evolvedirector.commands.console import plain_console, readable_console
from evolvedirector.commands.trained_student import StudentOfRun
from evolvedirector.datamodules import EmbeddingDataModule, EvolvingDataModule
from evolvedirector.errors import UserError
from evolvedirector.execution.signals import EndBySignal, run_until_signal
from evolvedirector.records import IMAGE_ROLE, FileRef, Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore
from evolvedirector.store.durable import write_durably
from evolvedirector.store.files import is_mask
from evolvedirector.store.paths import user_path
from evolvedirector.store.prompt_files import read_prompts

_PLACEHOLDER = "placeholder {} of a caption of common length: a small red house beside a lake, seen from a hill"


def main(args: list[str]) -> int | None:
    """Measure; the words beside the bench's own are those of `evolvedirector fit`.

    Args:
        args: The words after `bench`.

    Returns:
        Exit code.

    Raises:
        ValueError: Something in the config cannot work; the message says what and what to write.
    """
    options, further = _parser().parse_known_args(args)
    if not any(word.partition("=")[0] in ("-c", "--config", "--model") for word in further):
        raise UserError(
            "No config is given. Allowed is that of a run, whose student is measured. Write "
            "`evolvedirector bench -c configs/quickstart.yaml`, say."
        )
    if options.steps < 1 or (options.peak_tflops is not None and options.peak_tflops <= 0):
        raise UserError(
            f"--steps is {options.steps} and --peak-tflops {options.peak_tflops}. Steps are 1 or more, a peak is above "
            "0. Write `--steps 10`, say."
        )
    target = None if options.json is None else user_path(options.json)
    if target is not None and not target.parent.is_dir():
        raise UserError(f"--json is {target}, whose folder does not exist. Allowed is a file in a folder that does.")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="evolvedirector-bench-"))
    found: list[BenchFigures] = []
    try:
        with readable_console():
            code = run_until_signal(
                lambda ending: found.append(bench(further, options, folder, ending)), ["bench", *args]
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for figures in found:
        _show(figures)
        if target is not None:
            write_durably(target, json.dumps(figures.as_json(), indent=2).encode() + b"\n")
            print(f"Figures: {target}")
    return code


class BenchRun(StudentOfRun):
    """Build a run for one process, with a dataset root and run folder that vanish, and steps that can be counted."""

    def __init__(self, args: list[str], callbacks: Sequence[Callback], folder: Path, batches: int) -> None:
        """Parse and build.

        Args:
            args: The command line as `fit` takes it.
            callbacks: That measure.
            folder: Where everything that the run writes goes.
            batches: To train on.
        """
        self._folder, self._batches_to_train = folder, batches
        self.devices = 1
        """Devices of the run, of which one is measured with its share of the batch."""
        super().__init__(args, callbacks)

    def before_instantiate_classes(self) -> None:
        """Point the dataset into the folder, and let one process stand for all."""
        config = self.config[self.subcommand]
        trainer = config.trainer
        self.devices = _devices_of(trainer)
        _for_one_process(trainer)
        trainer.default_root_dir = str(self._folder / "run")
        data = config.get("data")
        path = "" if data is None else str(data.get("class_path") or "")
        if not path or not issubclass(pkgutil.resolve_name(path), EvolvingDataModule):
            return
        arguments = data.init_args
        arguments.root = str(self._folder / "data")
        for name in ("revision", "held_out", "predict_prompts"):
            if name in arguments:
                arguments[name] = None
        if "validation_share" in arguments:
            arguments.validation_share = 0.0  # placeholders are few, and none is kept from training
        arguments.global_batch_size = max(1, arguments.global_batch_size // self.devices)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        steps = -(-self._batches_to_train // (config.get("accumulate_grad_batches") or 1))
        # an epoch without a batch ends nothing: then their number ends what no step would
        short = {"max_steps": steps, "max_epochs": self._batches_to_train}
        no_longer = {"min_steps": None, "min_epochs": None, "max_time": None}
        alone = {"limit_val_batches": 0, "num_sanity_val_steps": 0, "enable_model_summary": False, "profiler": None}
        whole = {"limit_train_batches": None, "overfit_batches": 0.0, "reload_dataloaders_every_n_epochs": 1}
        return super()._instantiate_trainer({**config, **short, **no_longer, **alone, **whole}, callbacks)


class AtEnd(Callback):
    """Call a function when training has ended and everything is still in place.

    Args:
        work: Is called once.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Work."""
        self._work()


def bench(words: Sequence[str], options: argparse.Namespace, folder: Path, ending: EndBySignal) -> BenchFigures:
    """Train a few steps on placeholder data, draw, and measure both.

    Args:
        words: Of `fit`.
        options: Of the command line.
        folder: Where everything goes that the run writes; the caller removes it.
        ending: Of the process.
    """
    stopwatch = Stopwatch(options.steps)
    run = BenchRun(["fit", *words], [ending, stopwatch], folder, Stopwatch.batches(options.steps))
    trainer, module, data = run.trainer, run.model, run.datamodule
    if options.steps < trainer.accumulate_grad_batches:
        raise UserError(
            f"--steps is {options.steps}, and trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}. "
            f"Allowed is at least one whole update. Write `--steps {trainer.accumulate_grad_batches}`, say."
        )
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks.append(Behind(stopwatch))
    if isinstance(data, EmbeddingDataModule):
        fill_embeddings(data, module, placeholder_texts(data), _png(np.random.default_rng(0), (8, 8), 3))
    elif isinstance(data, EvolvingDataModule):
        fill(data)
    others: list[OtherParts] = []
    callbacks.append(AtEnd(lambda: others.append(measure_others(trainer, module, options.steps))))
    trainer.fit(module, data)
    steps = stopwatch.figures
    if not steps.peak_bytes or not others:
        raise UserError(
            f"The training ended before {options.steps} steps were timed. Allowed is a datamodule with at least "
            f"{Stopwatch.batches(options.steps)} batches. Write a smaller --steps."
        )
    without = no_effect(trainer, module, steps, run.config[run.subcommand].cpu_threads)
    return figures_of(trainer, steps, others[0], run.devices, options.peak_tflops, without)


def fill(data: EvolvingDataModule) -> None:
    """Publish a revision of noise pictures under the run's first prompts, so that the real loader has what to read.

    Args:
        data: Its root is new. One batch of pictures, in the largest bucket where there are buckets.

    Raises:
        UserError: It reads roles whose form nobody knows.
    """
    unknown = [role for role in data.roles if role != IMAGE_ROLE and not is_mask(role)]
    if unknown:
        raise UserError(
            f"data.init_args.roles names {', '.join(unknown)}, whose form is not known before there are samples. A "
            "bench makes pictures and masks itself. Write roles: [image]."
        )
    texts = placeholder_texts(data)
    size = max(data.buckets, key=lambda size: size[0] * size[1], default=(data.image_size_px,) * 2)
    masks = [role for role in data.roles if role != IMAGE_ROLE]
    draw = np.random.default_rng(0)
    with DatasetStore(data.data_root, create=True) as store:
        names = store.blobs.put_many([_png(draw, size, 3) for _ in texts])
        samples = []
        for text, name in zip(texts, names, strict=True):
            files = [FileRef.of(_png(draw, size, 1), "image/png", *size) for _ in masks]
            kept = dict(zip(masks, store.blobs.put_files(files), strict=True)) if masks else {}
            samples.append(Sample.create(Prompt.create(text), name, "placeholder", kept))
        store.publish(None, "import", RevisionChange(samples=tuple(samples)))


def placeholder_texts(data: EvolvingDataModule) -> list[str]:
    """Return as many different texts as a batch has samples, those of the run first.

    Args:
        data: Of the run.
    """
    prompts = [] if data.seeds is None else list(read_prompts(data.seeds))
    count = data.global_batch_size
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))[:count]
    return texts + [_PLACEHOLDER.format(number) for number in range(count - len(texts))]


def _png(draw: np.random.Generator, size: tuple[int, int], channels: int) -> bytes:
    """Return a smooth picture with a little noise, which takes about as long to decode as a photograph."""
    width, height = size
    slope = np.linspace(0, 200, width)[None, :, None] + np.zeros((height, 1, channels))
    values = (slope + draw.integers(0, 32, (height, width, channels))).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values[..., 0] if channels == 1 else values).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _for_one_process(trainer: Any) -> None:
    """Let a config train on one device, as one replica."""
    trainer.devices, trainer.num_nodes = 1, 1
    strategy = trainer.strategy
    arguments = None if strategy is None or isinstance(strategy, str) else strategy.get("init_args")
    if arguments is not None and "replicas" in arguments:
        arguments["replicas"] = 1


def _devices_of(trainer: Any) -> int:
    """Return how many devices a config names; `auto` is all GPUs here, or one CPU."""
    devices, nodes = trainer.devices, int(trainer.num_nodes or 1)
    if isinstance(devices, list):
        return max(1, len(devices)) * nodes
    if str(devices).isdigit() and int(devices) > 0:
        return int(devices) * nodes
    on_gpu = str(trainer.accelerator) in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return (torch.cuda.device_count() if on_gpu else 1) * nodes


def _show(figures: BenchFigures) -> None:
    console = plain_console(None if os.isatty(1) else 120)
    for title, rows in figures.rows().items():
        table = Table("", "", title=title, title_justify="left", title_style="bold", show_header=False, box=None)
        for name, value in rows.items():
            table.add_row(f"  {name}", value)
        console.print(table)
    console.print("Nothing was bought, and nothing of the run was written.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector bench",
        allow_abbrev=False,
        description="Measure how fast the student of a config trains and draws on this machine, and what memory it "
        "takes: a few steps on placeholder data in a folder that is removed again. Nothing is bought.",
        epilog="All other options are those of fit: -c FILE, --trainer.accelerator ...",
    )
    parser.add_argument("--steps", type=int, default=10, help="training steps to time (10), each way")
    parser.add_argument("--peak-tflops", type=float, help="peak of the device for the MFU, in TFLOP/s; none: its sheet")
    parser.add_argument("--json", metavar="FILE", help="also write all figures there")
    return parser
