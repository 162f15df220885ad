"""`fit`, `validate`, `test` and `predict`: LightningCLI with what a long, resumable run needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader, set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from omegaconf.errors import OmegaConfBaseException

import evolvedirector.configs
from evolvedirector.callbacks._run.drawing import AveragesWeights
from evolvedirector.callbacks._run.forgiving_logger import ForgivingLogger
from evolvedirector.callbacks.checkpoint import RunCheckpoint, passed_over
from evolvedirector.callbacks.cpu_threads import CpuThreads
from evolvedirector.callbacks.ema import EMA
from evolvedirector.callbacks.evolution import EvolutionCallback
from evolvedirector.callbacks.run_progress import RunProgress
from evolvedirector.callbacks.written_settings import WrittenSettings
from evolvedirector.commands.chosen_checkpoint import (
    UNTRAINED,
    averages_in,
    check_reader,
    check_resumable,
    choose_checkpoint,
    mismatch_of,
    read_head,
    say,
)
from evolvedirector.commands.config_mistakes import condense, explain_mistake
from evolvedirector.commands.config_sources import check_config_files
from evolvedirector.commands.console import readable_console
from evolvedirector.commands.readable_errors import ConfigurationMistake, causes, is_for_users
from evolvedirector.commands.recipes import command_folder, with_packaged_files, with_recipes
from evolvedirector.commands.run_notes import RunNotes, refuse_second_run
from evolvedirector.commands.secret_arguments import SecretInConfig, known_secrets, parse_guarded
from evolvedirector.execution.ranks import leaving_process_group
from evolvedirector.execution.signals import run_until_signal
from evolvedirector.renamed import renew, renew_flags
from evolvedirector.secrecy.guard import redacted
from evolvedirector.store.paths import user_path

_PARSER_MODE = "omegaconf+"
_with_old_names: set[str] = set()  # parser modes that read old names already: the setting is one of the process


def read_old_names() -> None:
    """Let configs be written with old class paths and arguments, and name packaged prompts from anywhere.

    Both are rewritten while they are read.
    """
    if _PARSER_MODE in _with_old_names:
        return
    ArgumentParser(parser_mode=_PARSER_MODE, exit_on_error=False).parse_string("{}")  # makes the loader of this mode
    load = get_loader(_PARSER_MODE)
    set_loader(_PARSER_MODE, lambda text: with_packaged_files(renew(load(text))), (yaml.YAMLError,))
    _with_old_names.add(_PARSER_MODE)


class OneParagraphParser(LightningArgumentParser):
    """Raise one paragraph where jsonargparse prints a page of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Refuse abbreviated flags: `--trainer.max_epoch` would be taken for `--trainer.max_epochs` without a word."""
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `ConfigurationMistake`; `main` replaces its text by what the files and flags themselves show."""
        raise ConfigurationMistake(message) from ex


class SaveConfigInRunFolder(SaveConfigCallback):
    """Save the merged config as `config.yaml` in the run folder, whatever loggers there are."""

    _waits = False

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `<default_root_dir>/config.yaml` on rank 0; that of a run which goes on is replaced when it trains."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = "config.yaml" if stage == "fit" else f"config-{TrainerFn(stage).value}.yaml"
        if stage != "fit" and not os.access(folder, os.W_OK):
            print(f"{folder} may not be written, so {name} is left out.", file=sys.stderr)
            return
        self._waits = stage == "fit" and self.config.get("ckpt_path") is not None and (folder / name).exists()
        if not self._waits:
            self._write(folder / name)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the config of a run that goes on, and `cpu_threads: auto` by the number that was found.

        What was refused until here never held.
        """
        threads = next((c for c in trainer.callbacks if isinstance(c, CpuThreads)), None)  # type: ignore[attr-defined]
        if threads and threads.number not in (None, self.config.cpu_threads):
            self.config.cpu_threads = threads.number
            self._waits = True
        if trainer.is_global_zero and self._waits:
            self._write(Path(trainer.default_root_dir) / "config.yaml")
        self._waits = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise where nothing was left to train."""
        self.on_train_start(trainer, pl_module)

    def _write(self, path: Path) -> None:
        self.parser.save(self.config, str(path), skip_none=False, overwrite=True)


class EvolveDirectorCLI(LightningCLI):
    """Build a run from YAML and flags: any LightningModule, any LightningDataModule, by class path."""

    _chosen: str | None = None  # the checkpoint that is read

    def __init__(self, args: list[str], callbacks: Sequence[Callback] = ()) -> None:
        """Parse, build and run.

        Args:
            args: The command line from its first word (`fit`, ...) on.
            callbacks: Callbacks added to those of the config, for this process only.
        """
        # Interpolations are resolved once, after all files and flags, and `${trainer...}` works below a sub-command.
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        read_old_names()
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # an optimizer is built after the model is sharded, by the module
            parser_class=OneParagraphParser,
            parser_kwargs={"parser_mode": _PARSER_MODE},
            save_config_callback=SaveConfigInRunFolder,
            save_config_kwargs={"overwrite": True, "save_to_log_dir": False},
            trainer_defaults={"callbacks": list(callbacks)},
            args=with_recipes(args),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what concerns the process: it stands at the root of a config, beside `seed_everything`."""
        parser.add_argument(
            "--cpu_threads",
            type=int | Literal["auto"] | None,
            default=None,
            help="Threads of each process on the CPU: a number, or auto for the one with which a training step is "
            "shortest here; the run keeps it. null leaves the choice to torch.",
        )

    def _add_instantiators(self) -> None:
        """Put every logger into a forgiving one: what only shows figures must not end a run."""
        super()._add_instantiators()
        self.parser.add_instantiator(forgiven, Logger, subclasses=True)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse `args` alone (Lightning would warn that `sys.argv` exists as well).

        Raises:
            ConfigurationMistake: What is wrong, in one paragraph.
        """
        words = list(args) if isinstance(args, list) else []
        check_config_files(words)
        given_in = command_folder.set(os.getcwd())
        try:
            self.config = parse_guarded(parser, renew_flags(words))
        except SecretInConfig:
            raise
        except (ConfigurationMistake, OmegaConfBaseException) as refusal:
            names = {action.dest.split(".")[0] for action in self._subcommand_parsers[words[0]]._actions}
            text = explain_mistake(words, {"trainer": Trainer}, names, refusal)
            safe = redacted(text, known_secrets(words))
            raise ConfigurationMistake(safe) from (refusal if safe == text else None)
        finally:
            command_folder.reset(given_in)

    def _parse_ckpt_path(self) -> None:
        """Leave the config as it was written.

        Lightning lets the hyper-parameters inside a checkpoint override YAML and flags without a word, so a run that is
        continued with new settings would silently keep the old ones.
        """

    def instantiate_classes(self) -> None:
        """Build every part; say in one paragraph what a constructor refused.

        Raises:
            ConfigurationMistake: A constructor refused its arguments.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            if "Union subtypes" not in str(error) or any(is_for_users(cause) for cause in causes(error)):
                raise
            raise ConfigurationMistake(condense(str(error))) from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Give the trainer our bar, unless the config names one or wants none; what checks a checkpoint comes first."""
        folder = config.get("default_root_dir")
        if folder is not None and "://" not in str(folder):  # refused here where Lightning would make a folder `~name`
            config = {**config, "default_root_dir": str(user_path(folder))}
        named = config.get("callbacks") or []
        has_bar = any(isinstance(part, ProgressBar) for part in (named if isinstance(named, list) else [named]))
        wanted = config.get("enable_progress_bar") is not False and not config.get("barebones")
        threads = self.config[self.subcommand].cpu_threads
        if threads is not None:  # first: the number is known before another callback buys anything
            config["callbacks"] = [CpuThreads(threads), *(named if isinstance(named, list) else [named])]
        more = [RunProgress()] if wanted and not has_bar else []
        trainer = super()._instantiate_trainer(config, [*callbacks, *more])
        if not any(isinstance(part, WrittenSettings) for part in trainer.callbacks):  # type: ignore[attr-defined]
            trainer.callbacks.insert(0, WrittenSettings())  # type: ignore[attr-defined]
        # before anybody buys something in these hooks
        trainer.callbacks.sort(key=lambda part: not isinstance(part, WrittenSettings | SaveConfigCallback))  # type: ignore[attr-defined]
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; say in one paragraph where a checkpoint does not fit the model.

        Raises:
            UserError: It does not.
        """
        try:
            super()._run_subcommand(subcommand)
        except (RuntimeError, ValueError) as error:
            mismatch = mismatch_of(error, self._chosen, Path(self.trainer.default_root_dir))  # type: ignore[attr-defined]
            if mismatch is None:
                raise
            raise mismatch from error

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Find the checkpoint and look into it before anything is built or bought.

        `last` goes by commit marker: Lightning's rule (newest file) can pick a half-written one. Words that do not
        train take the newest checkpoint by themselves.
        """
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if "weights_only" in self._subcommand_method_arguments[subcommand] and kwargs.get("weights_only") is None:
            kwargs["weights_only"] = True  # a checkpoint holds tensors and plain values; never run code from a file
        trainer = self.trainer
        run_folder = Path(trainer.default_root_dir)  # type: ignore[attr-defined]
        committing = any(isinstance(part, RunCheckpoint | EvolutionCallback) for part in trainer.callbacks)  # type: ignore[attr-defined]
        if str(kwargs.get("ckpt_path") or "").startswith("~"):
            kwargs["ckpt_path"] = str(user_path(kwargs["ckpt_path"]))
        written = kwargs.get("ckpt_path")
        if subcommand == "fit" and written is None and committing and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            refuse_second_run(run_folder)
        if written in ("best", "hpc", "registry") or (written == "last" and subcommand == "fit" and not committing):
            return kwargs  # words of Lightning's own checkpoints
        chosen = choose_checkpoint(written, run_folder, subcommand)
        kwargs["ckpt_path"] = self._chosen = chosen
        if chosen is None:
            if written == "last":
                say(f"No finished checkpoint in {run_folder} yet: starting from scratch.")
            elif written == UNTRAINED:
                say(f"{subcommand}: untrained weights, as --ckpt_path {UNTRAINED} asks.")
            return kwargs
        if written in (None, "last") and (later := passed_over(run_folder)):
            say(f"Passed over, because loss or gradient was not finite when they were saved: {', '.join(later)}.")
        check_reader(chosen, trainer.strategy)  # type: ignore[attr-defined]
        head = read_head(chosen, bool(kwargs.get("weights_only"))) if "://" not in chosen else {}
        if subcommand != "fit":
            self._name_weights(subcommand, chosen, head)
            return kwargs
        if head:
            check_resumable(head, chosen)
        say(f"Going on from {chosen}.")
        return kwargs

    def _name_weights(self, word: str, chosen: str, head: dict[str, Any]) -> None:
        """Say which weights are evaluated; averaged ones are used wherever the checkpoint holds them."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        averaged = averages_in(head)
        if averaged and not any(isinstance(part, AveragesWeights) for part in callbacks):
            callbacks.insert(0, EMA())
        kind = "averaged (EMA)" if averaged else "trained"
        say(f"{word}: {kind} weights of {chosen}, step {head.get('global_step', '?')}.")


def forgiven(logger_class: type[Logger], *args: Any, **kwargs: Any) -> Logger:
    """Make a logger that costs no more than a warning when it cannot be made, or fails later.

    Args:
        logger_class: Its class.
        args: Arguments of its constructor, as the parser hands them over.
        kwargs: Likewise.
    """
    if issubclass(logger_class, ForgivingLogger):
        return logger_class(*args, **kwargs)
    return ForgivingLogger(lambda: logger_class(*args, **kwargs), logger_class.__name__)


def main(args: list[str]) -> int | None:
    """Run `fit`, `validate`, `test` or `predict`.

    Args:
        args: The command line from that word on.
    """
    words = starter(args)
    with readable_console(), leaving_process_group():
        return run_until_signal(lambda ending: EvolveDirectorCLI(words, callbacks=[ending, RunNotes()]), args)


def starter(args: list[str]) -> list[str]:
    """Let `fit --print_config` without any config or part print the quickstart's, so that what it prints runs as is.

    Args:
        args: The command line from its first word on.
    """
    names = {word.partition("=")[0] for word in args}
    given = names & {"-c", "--config", "--model", "--data"}
    if args[0] != "fit" or "--print_config" not in names or given:
        return args
    quickstart = evolvedirector.configs.path() / "quickstart.yaml"
    print(f"No -c is given: this is {quickstart} with every default written out.", file=sys.stderr)
    return [args[0], "-c", str(quickstart), *args[1:]]
