"""`evolvedirector bench`: how fast a run trains and draws here, and what memory it takes; nothing is bought or kept."""

from __future__ import annotations

import argparse
import io
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback
from PIL import Image

from evolvedirector.callbacks._run.stopwatch import Behind, Stopwatch
from evolvedirector.commands.bench_embeddings import fill_embeddings
from evolvedirector.commands.bench_figures import BenchFigures, OtherParts, figures_of, measure_others, no_effect
from evolvedirector.commands.bench_loop import LoopPlan, loop_plan, measure_loop
from evolvedirector.commands.bench_loop_figures import LoopFigures, bought_told
from evolvedirector.commands.bench_parts import measure_parts
from evolvedirector.commands.bench_run import AtEnd, BenchRun
from evolvedirector.commands.bench_shown import json_target, show_run, show_tables, write_figures
from evolvedirector.commands.console import readable_console
from evolvedirector.datamodules import EmbeddingDataModule, EvolvingDataModule
from evolvedirector.errors import UserError
from evolvedirector.execution.signals import EndBySignal, run_until_signal
from evolvedirector.records import IMAGE_ROLE, FileRef, Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore
from evolvedirector.store.files import is_mask
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
    if options.run is not None:
        return show_run(options, further)
    if not any(word.partition("=")[0] in ("-c", "--config", "--model") for word in further):
        raise UserError(
            "No config is given. Allowed is that of a run, whose student is measured. Write "
            "`evolvedirector bench -c configs/quickstart.yaml`, say, or `--run FOLDER` to read what a run has noted."
        )
    _check(options)
    target = json_target(options.json)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="evolvedirector-bench-"))
    found: dict[str, Any] = {}
    outcome: list[int] = []

    def work(ending: EndBySignal) -> None:
        outcome.append(_measure(further, options, folder, ending, found))

    try:
        with readable_console():
            code = run_until_signal(work, ["bench", *args]) or next(iter(outcome), 0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_figures(target, found)
    return code


def _measure(
    words: Sequence[str], options: argparse.Namespace, folder: Path, ending: EndBySignal, found: dict[str, Any]
) -> int:
    """Measure training and drawing, then the loop; show each as soon as it is known, and keep it in `found`."""
    figures, plan, loop = bench(words, options, folder, ending)
    show_tables(figures.rows())
    found |= figures.as_json()
    if plan is not None and loop is None:
        for line in plan.spending():
            print(f"Asking now: {line}.", flush=True)
        mode = options.mode or plan.evolution.mode
        print(f"The loop: a run of this config until its first round is read, mode {mode}.", flush=True)
        loop = measure_loop(words, options, plan, folder / "loop", ending, figures.steps.typical_step_s)
    if loop is not None:
        show_tables(loop.rows())
        found["loop"] = loop.as_json()
    said = "Nothing was bought" if loop is None else bought_told(loop.parts)
    print(f"{said}, and nothing of the run was written.", flush=True)
    return int(loop is not None and loop.failed)


def _check(options: argparse.Namespace) -> None:
    """Refuse numbers that measure nothing.

    Raises:
        UserError: With what to write.
    """
    if options.steps < 1 or (options.peak_tflops is not None and options.peak_tflops <= 0):
        raise UserError(
            f"--steps is {options.steps} and --peak-tflops {options.peak_tflops}. Steps are 1 or more, a peak is above "
            "0. Write `--steps 10`, say."
        )
    for name in ("calls", "images", "epoch_batches"):
        value = getattr(options, name)
        if value is not None and value < 1:
            word = f"--{name.replace('_', '-')}"
            raise UserError(f"{word} is {value}. Allowed is 1 or more. Write `{word} 16`, say, or leave it out.")


def bench(
    words: Sequence[str], options: argparse.Namespace, folder: Path, ending: EndBySignal
) -> tuple[BenchFigures, LoopPlan | None, LoopFigures | None]:
    """Train a few steps on placeholder data, draw, and measure both; and free parts of a loop that has paid ones.

    Args:
        words: Of `fit`.
        options: Of the command line.
        folder: Where everything goes that the run writes; the caller removes it.
        ending: Of the process.

    Returns:
        The figures; what of the loop may be measured, None for nothing; what is known of the loop already, None where
        it can be measured as a whole.
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
    plan, loop = _loop_of(run, options)
    others: list[OtherParts] = []
    alone: list[LoopFigures] = []

    def at_end() -> None:
        others.append(measure_others(trainer, module, options.steps))
        if plan is not None and plan.unasked:
            alone.append(measure_parts(trainer, module, data, plan, folder, options.images))

    callbacks.append(AtEnd(at_end))
    trainer.fit(module, data)
    steps = stopwatch.figures
    if not steps.peak_bytes or not others:
        raise UserError(
            f"The training ended before {options.steps} steps were timed. Allowed is a datamodule with at least "
            f"{Stopwatch.batches(options.steps)} batches. Write a smaller --steps."
        )
    without = no_effect(trainer, module, steps, run.config[run.subcommand].cpu_threads)
    figures = figures_of(trainer, steps, others[0], run.devices, options.peak_tflops, without)
    steps.batch = None  # it lies on the device
    return figures, plan, next(iter(alone), loop)


def _loop_of(run: BenchRun, options: argparse.Namespace) -> tuple[LoopPlan | None, LoopFigures | None]:
    """Say what of the loop may be measured, and why nothing."""
    plan = None if options.without_loop else loop_plan(run.configured, options.calls)
    if isinstance(plan, LoopPlan) and not isinstance(run.datamodule, EvolvingDataModule):
        plan = f"{type(run.datamodule).__name__} is no EvolvingDataModule, whose root could be put elsewhere for it"
    if isinstance(plan, str):
        return None, LoopFigures(problem=plan)
    return plan, None


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector bench",
        allow_abbrev=False,
        description="Measure how fast the student of a config trains and draws on this machine, and what memory it "
        "takes: a few steps on placeholder data in a folder that is removed again. Then its loop: the first round of a "
        "run, its teachers, judge and writer, how long the student idles, and what an accepted sample takes. Parts "
        "that may cost money are not asked without --calls.",
        epilog="All other options are those of fit: -c FILE, --trainer.accelerator ...",
    )
    parser.add_argument("--steps", type=int, default=10, help="training steps to time (10), each way")
    parser.add_argument("--peak-tflops", type=float, help="peak of the device for the MFU, in TFLOP/s; none: its sheet")
    parser.add_argument("--json", metavar="FILE", help="also write all figures there")
    parser.add_argument("--without-loop", action="store_true", help="measure training and drawing alone")
    parser.add_argument(
        "--calls", type=int, metavar="N", help="let each part that may cost money be asked, N times at most (never)"
    )
    parser.add_argument(
        "--images", type=int, default=64, metavar="N", help="most seeds, and most images of the round (64)"
    )
    parser.add_argument("--mode", choices=("between_epochs", "background"), help="of the round (the config's)")
    parser.add_argument(
        "--epoch-batches", type=int, metavar="N", help="batches of an epoch beside a round (the config's)"
    )
    parser.add_argument("--run", metavar="RUN", help="measure nothing: show what the books of this run folder say")
    return parser
