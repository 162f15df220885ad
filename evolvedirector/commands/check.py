"""`evolvedirector check`: say what a run would do and cost, without starting it."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.table import Table
from torch.optim import Optimizer

from evolvedirector.callbacks._run.device_fit import averages
from evolvedirector.callbacks._run.host_checks import data_of_options, options_of
from evolvedirector.callbacks.checkpoint import RunCheckpoint
from evolvedirector.commands.console import plain_console
from evolvedirector.commands.lightning_cli import EvolveDirectorCLI
from evolvedirector.commands.readable_errors import print_paragraph
from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import ImagePrior, TextToImage
from evolvedirector.lightning_modules.optimizers.factory import OptimizerFactory
from evolvedirector.lightning_modules.part_checks import check_device
from evolvedirector.lightning_modules.sharded_strategy import check_offload, check_replicas
from evolvedirector.planning.memory import BuildsWithoutWeights
from evolvedirector.planning.preflight import SMOKE_TEST, problems_of, problems_of_options
from evolvedirector.planning.roles import (
    CountsBatches,
    Evolves,
    HasRoot,
    HasSeeds,
    SizesImages,
    Summarised,
    WeighsLosses,
    loss_in_words,
)
from evolvedirector.planning.run_costs import (
    class_of,
    devices_of,
    looks_and_money,
    memory_of,
    of_strategy,
    precision_of,
)
from evolvedirector.planning.text_states import CachesLatents, CachesTexts, text_states_bytes
from evolvedirector.records import Prompt
from evolvedirector.store.revision import RevisionFiles

Rows = dict[str, str]

_ADAM_BYTES_PER_PARAMETER = 12  # a float32 weight and two moments
_PNG_SHARE = 0.5  # of raw RGB bytes, for drawn and photographic images alike a cautious guess
_COPIES_OF_AN_IMAGE = 2  # the blob and its place in a shard


class BuiltRun(EvolveDirectorCLI):
    """Build the parts of a run from its config, and run nothing."""

    unavailable = ""
    """Why this machine cannot hold the trainer; empty when it can."""

    @property
    def callbacks(self) -> list[Callback]:
        """List those of the trainer."""
        return list(self.trainer.callbacks)  # type: ignore[attr-defined]

    def _set_seed(self) -> None:
        """Leave the process's random state alone: nothing is drawn."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; where its devices are missing here, build it for this CPU and say so."""
        try:
            return super().instantiate_trainer(**kwargs)
        except MisconfigurationException as error:
            wanted = self.config[self.subcommand].trainer
            if wanted.accelerator == "cpu":
                raise
            self.unavailable = str(error).split("\n")[0]
            here = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": None}
            return super().instantiate_trainer(**{**kwargs, **here, "plugins": None})

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def main(args: list[str]) -> int | None:
    """Print the plan of a run; the words are those of `evolvedirector fit`.

    Raises:
        ValueError: Something in the config cannot work; the message says what and what to write.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the plan says which devices there are
    run = BuiltRun(["fit", *args])
    check_folders(run)
    sections = {"data": data_rows(run), "training": training_rows(run), "evolution": part_rows(run)}
    sections["evolution"] |= looks_and_money(run, seed_prompts(run), planned_epochs(run))
    parameters = parameters_of(run)  # without memory, and the optimizer is made for those
    sections["memory of one device"], misfit = memory_of(
        run, parameters, averages(run.callbacks), None if parameters is None else optimizer_of(run)
    )
    sections["on disk"] = disk_rows(run, sections["evolution"])
    problems = [*problems_of(run.callbacks, (run.model, run.datamodule)), *([misfit] if misfit else [])]
    problems += [*option_problems(run), *device_problems(run), *strategy_problems(run)]
    console = plain_console(None if os.isatty(1) else 120)
    for title, rows in ((title, rows) for title, rows in sections.items() if rows):
        table = Table("", "", title=title, title_justify="left", title_style="bold", show_header=False, box=None)
        for name, value in rows.items():
            table.add_row(f"  {name}", value)
        console.print(table)
    for number, problem in enumerate(problems, start=1):
        print_paragraph(f"Problem {number} of {len(problems)}: {problem}")
    if problems:
        print_paragraph("Nothing was started. `evolvedirector fit` would refuse this, too.")
        return 2
    console.print("Nothing was started. The same options after `evolvedirector fit` start it.")
    return 0


def option_problems(run: BuiltRun) -> list[str]:
    """List the options under which the run would buy images and then not train on them."""
    if not any(isinstance(callback, Evolves) for callback in run.callbacks):
        return []
    precision = run.config[run.subcommand].trainer.precision  # that of the devices, which may be missing here
    options = options_of(run.trainer)
    if precision is not None:
        options = replace(options, precision=str(precision))
    return problems_of_options(options, run.model, data_of_options(run.trainer, run.datamodule))


def device_problems(run: BuiltRun) -> list[str]:
    """List what the run asks of its devices that they cannot do; nothing where they are not on this machine."""
    if run.unavailable or not isinstance(run.model, TextToImage | ImagePrior):
        return []
    try:
        check_device(str(run.trainer.precision), run.trainer.strategy.root_device)
    except UserError as error:
        return [str(error)]
    return []


def strategy_problems(run: BuiltRun) -> list[str]:
    """List what a strategy that shards cannot do with so many devices and this precision, be they here or not."""
    replicas = int(of_strategy(run, "replicas", 1))
    try:
        if replicas > 1:
            check_replicas(replicas, devices_of(run))
        check_offload(bool(of_strategy(run, "cpu_offload", False)), precision_of(run))
    except UserError as error:
        return [str(error)]
    return []


def check_folders(run: BuiltRun) -> None:
    """Check that the run folder and the dataset root can be written.

    Raises:
        UserError: One cannot.
    """
    folders = {"trainer.default_root_dir": Path(run.trainer.default_root_dir)}
    if (root := data_root(run)) is not None:
        folders["data.init_args.root"] = root
    for option, folder in folders.items():
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise UserError(
                f"{option} is {folder}, which cannot be written ({existing} is {_what(existing)}). It names a folder "
                f"that exists or can be made. Write another folder, as {option}: runs/mine."
            )


def data_root(run: BuiltRun) -> Path | None:
    """Return the dataset root of the datamodule; None where it has none."""
    return Path(run.datamodule.data_root) if isinstance(run.datamodule, HasRoot) else None


def data_rows(run: BuiltRun) -> Rows:
    """Describe the prompts: those already in the root, else the seeds."""
    rows: Rows = {"datamodule": type(run.datamodule).__name__}
    root = data_root(run)
    if root is not None:
        files = RevisionFiles(root)
        current = files.current() if root.exists() else None
        rows["root"] = f"{root} (new)" if current is None else f"{root}, revision {current[:12]}"
        if current is not None:
            states = Counter(entry.state for entry in files.load(current).state.entries.values())
            rows["prompts now"] = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    if (seeds := seed_prompts(run)) or _seeds(run) is not None:
        rows["seed prompts"] = f"{len({prompt.id for prompt in seeds})} (read when the root is new)"
    return rows


def seed_prompts(run: BuiltRun) -> list[Prompt]:
    """Read the prompts that a new root begins with."""
    if (seeds := _seeds(run)) is None:
        return []
    from evolvedirector.store.prompt_files import read_prompts

    return list(read_prompts(seeds))


def training_rows(run: BuiltRun) -> Rows:
    """Describe the student and how long it is trained."""
    config, trainer, data = run.config[run.subcommand].trainer, run.trainer, run.datamodule
    rows: Rows = {"student": type(run.model).__name__, "trainable parameters": "known only when the run starts"}
    count = trainable_parameters(run)
    if count is not None:
        rows["trainable parameters"] = f"{count:,}"
    strategy = class_of(config.strategy)
    rows["devices"] = f"{config.devices} x {config.accelerator} on {config.num_nodes} node(s), strategy {strategy}"
    if isinstance(run.model, WeighsLosses):
        rows["loss"] = loss_in_words(run.model, run.datamodule)
    if run.unavailable:
        rows["devices"] += f" - not on this machine: {run.unavailable}"
    if (threads := run.config[run.subcommand].cpu_threads) is not None:
        rows["cpu threads"] = "auto: timed when the run starts" if threads == "auto" else str(threads)
    rows["precision"] = str(config.precision or "32-true")
    batch, per_epoch = (data.global_batch_size, data.batches_per_epoch) if isinstance(data, CountsBatches) else (0, 0)
    accumulate = trainer.accumulate_grad_batches
    batches = planned_batches(run)
    if batches is None:
        ends = (
            f"{trainer.max_epochs} epochs"
            if (trainer.max_epochs or -1) > 0
            else "no end is set: write trainer.max_steps"
        )
        rows["length"] = ends
    else:
        epochs = f" = {math.ceil(batches / per_epoch):,} epochs of {per_epoch:,}" if per_epoch else ""
        rows["length"] = f"{batches:,} batches{epochs}, {math.ceil(batches / accumulate):,} optimizer steps"
        if batch:
            rows["images seen"] = f"{batches * batch:,} ({batch} per batch, over all devices)"
    clip = trainer.gradient_clip_val
    rows["gradient clipping"] = f"norm {clip:g}" if clip else "off"
    rows["accumulation"] = f"{accumulate} batches per step" if accumulate > 1 else "off"
    names = [type(callback).__name__ for callback in run.callbacks]
    rows["averaged weights (EMA)"] = "on" if averages(run.callbacks) else "off"
    if options_of(trainer).fast_dev_run:
        rows["smoke test"] = SMOKE_TEST
    rows["callbacks"] = ", ".join(name for name in names if name not in ("SaveConfigInRunFolder", "EndBySignal"))
    return rows


def planned_batches(run: BuiltRun) -> int | None:
    """Return how many batches the run trains on; None when no end is set."""
    trainer, per_epoch = run.trainer, batches_per_epoch(run)
    accumulate = trainer.accumulate_grad_batches
    ends = []
    if (trainer.max_steps or -1) > 0:
        ends.append(trainer.max_steps * accumulate)
    epochs = trainer.max_epochs or -1
    if epochs > 0 and per_epoch:
        ends.append(epochs * per_epoch)
    return min(ends, default=None)


def batches_per_epoch(run: BuiltRun) -> int | None:
    """Return how many batches an epoch has; None where the datamodule does not fix it."""
    return run.datamodule.batches_per_epoch if isinstance(run.datamodule, CountsBatches) else None


def planned_epochs(run: BuiltRun) -> int | None:
    """Return how many epochs the run has, one that is begun included; None when no end is set."""
    batches, per_epoch = planned_batches(run), batches_per_epoch(run)
    if batches is None or not per_epoch:
        return run.trainer.max_epochs if (run.trainer.max_epochs or -1) > 0 else None
    return math.ceil(batches / per_epoch)


def trainable_parameters(run: BuiltRun) -> int | None:
    """Count the student's trainable parameters without their memory; None when that needs a running trainer."""
    counted = parameters_of(run)
    return None if counted is None else counted[1]


def parameters_of(run: BuiltRun) -> tuple[int, int, int] | None:
    """Count the student's values, the trained ones, and the bytes of all; None when that needs a running trainer."""
    try:
        if isinstance(run.model, BuildsWithoutWeights):
            run.model.configure_without_weights(precision_of(run))
        else:
            with torch.device("meta"):
                run.model.configure_model()
        parameters = list(run.model.parameters())
        trained = sum(part.numel() for part in parameters if part.requires_grad)
        kept = [*parameters, *run.model.buffers()]
        size = sum(part.numel() * part.itemsize for part in kept)  # a frozen base may be kept in less
        return sum(part.numel() for part in parameters), trained, size
    except (RuntimeError, AttributeError, NotImplementedError):
        return None  # a foreign module that needs its trainer, or reads values while it is built


def optimizer_of(run: BuiltRun) -> Optimizer | None:
    """Make an optimizer that treats parameters by their names; None for others, which need not be made to be known.

    Args:
        run: Its model is configured.

    Raises:
        UserError: The optimizer finds nothing to train.
    """
    if not (isinstance(run.model, TextToImage | ImagePrior) and isinstance(run.model.make_optimizer, OptimizerFactory)):
        return None
    return run.model.make_optimizer.from_named([
        (name, part) for name, part in run.model.named_parameters() if part.requires_grad
    ])  # fmt: skip


def part_rows(run: BuiltRun) -> Rows:
    """Collect what callbacks and other parts say about themselves in `plan_summary()`."""
    parts: Iterable[Any] = (run.datamodule, run.model, *run.callbacks)
    rows: Rows = {}
    for part in parts:
        for name, value in (part.plan_summary() if isinstance(part, Summarised) else {}).items():
            rows[name if name not in rows else f"{name} ({type(part).__name__})"] = str(value)
    return rows if "rounds" in rows else {"rounds": "none: no callback of this config evolves the dataset", **rows}


def disk_rows(run: BuiltRun, evolution: Rows) -> Rows:
    """Estimate what the run writes, beside what is free."""
    folder = Path(run.trainer.default_root_dir).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    rows: Rows = {"run folder": f"{folder} ({shutil.disk_usage(existing).free / 2**30:.1f} GiB free)"}
    keep = max((part.keep_last for part in run.callbacks if isinstance(part, RunCheckpoint)), default=0)
    count = trainable_parameters(run)
    if keep and count:
        size = count * _ADAM_BYTES_PER_PARAMETER * (keep + 1)
        rows["checkpoints"] = f"about {_size(size)} (the last {keep} and the one being written)"
    size_px = run.datamodule.image_size_px if isinstance(run.datamodule, SizesImages) else 0
    calls = evolution.get("teacher calls (most)", "").replace(",", "").split(" ")[0]
    if size_px and calls.replace(".", "", 1).isdigit():
        images = float(calls) * size_px**2 * 3 * _PNG_SHARE * _COPIES_OF_AN_IMAGE
        rows["teacher images"] = f"about {_size(images)} at most"
    texts = len(seed_prompts(run)) + int(float(calls) if calls.replace(".", "", 1).isdigit() else 0)
    if isinstance(run.model, CachesLatents) and (size := run.model.latent_bytes()) and run.model.latent_cache_gib:
        rows["latents"] = (
            f"about {_size(min(texts * size, run.model.latent_cache_gib * 2**30))} at most ({texts:,} images of "
            f"{_size(size)}; latent_cache_gib: {run.model.latent_cache_gib:g})"
        )
    if isinstance(run.model, CachesTexts):
        size, most = run.model.text_bytes(), run.model.text_cache_gib * 2**30
        rows["text states"] = (
            f"about {_size(text_states_bytes(size, texts, int(most)))} at most ({texts:,} prompts of {_size(size)}; "
            f"text_cache_gib: {run.model.text_cache_gib:g})"
        )
    return rows


def _seeds(run: BuiltRun) -> Any:
    return run.datamodule.seeds if isinstance(run.datamodule, HasSeeds) else None


def _what(path: Path) -> str:
    return "not writable" if path.is_dir() else "a file"


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{max(size_bytes / 2**20, 0.1):.1f} MiB"
