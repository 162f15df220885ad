"""`fit`, `validate`, `test` and `predict`: LightningCLI with what a long, resumable run needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader, set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from omegaconf.errors import OmegaConfBaseException

import evolvedirector.configs
from evolvedirector.callbacks._run.forgiving_logger import ForgivingLogger
from evolvedirector.callbacks.checkpoint import RunCheckpoint, latest_committed
from evolvedirector.callbacks.evolution import EvolutionCallback
from evolvedirector.callbacks.run_progress import RunProgress
from evolvedirector.commands.config_mistakes import condense, explain_mistake
from evolvedirector.commands.console import readable_console
from evolvedirector.commands.readable_errors import ConfigurationMistake, causes, is_for_users
from evolvedirector.commands.run_notes import RunNotes, refuse_second_run
from evolvedirector.commands.secret_arguments import SecretInConfig, known_secrets, parse_guarded
from evolvedirector.errors import UserError
from evolvedirector.execution.signals import run_until_signal
from evolvedirector.renamed import renew, renew_flags
from evolvedirector.secrecy.guard import redacted

_PARSER_MODE = "omegaconf+"
_with_old_names: set[str] = set()  # parser modes that read old names already: the setting is one of the process


def read_old_names() -> None:
    """Let configs be written with old class paths and arguments: they are rewritten while they are read."""
    if _PARSER_MODE in _with_old_names:
        return
    ArgumentParser(parser_mode=_PARSER_MODE, exit_on_error=False).parse_string("{}")  # makes the loader of this mode
    load = get_loader(_PARSER_MODE)
    set_loader(_PARSER_MODE, lambda text: renew(load(text)), (yaml.YAMLError,))
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

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `<default_root_dir>/config.yaml` on rank 0; a continued run replaces it."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = "config.yaml" if stage == "fit" else f"config-{stage}.yaml"
        self.parser.save(self.config, str(folder / name), skip_none=False, overwrite=True)


class EvolveDirectorCLI(LightningCLI):
    """Build a run from YAML and flags: any LightningModule, any LightningDataModule, by class path."""

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
            args=args,
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
        try:
            self.config = parse_guarded(parser, renew_flags(words))
        except SecretInConfig:
            raise
        except (ConfigurationMistake, OmegaConfBaseException) as refusal:
            names = {action.dest.split(".")[0] for action in self._subcommand_parsers[words[0]]._actions}
            text = explain_mistake(words, {"trainer": Trainer}, names, refusal)
            safe = redacted(text, known_secrets(words))
            raise ConfigurationMistake(safe) from (refusal if safe == text else None)

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
        """Give the trainer our bar, unless the config names one or wants none."""
        named = config.get("callbacks") or []
        has_bar = any(isinstance(part, ProgressBar) for part in (named if isinstance(named, list) else [named]))
        wanted = config.get("enable_progress_bar") is not False and not config.get("barebones")
        return super()._instantiate_trainer(config, [*callbacks, *([RunProgress()] if wanted and not has_bar else [])])

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Resolve `--ckpt_path last` by commit marker; Lightning's rule (newest file) can pick a half-written one."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if "weights_only" in self._subcommand_method_arguments[subcommand] and kwargs.get("weights_only") is None:
            kwargs["weights_only"] = True  # a checkpoint holds tensors and plain values; never run code from a file
        committing = any(
            isinstance(callback, RunCheckpoint | EvolutionCallback)
            for callback in self.trainer.callbacks  # type: ignore[attr-defined]
        )
        if subcommand == "fit" and kwargs.get("ckpt_path") is None and committing and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            refuse_second_run(Path(self.trainer.default_root_dir))
        if kwargs.get("ckpt_path") == "last" and committing:
            kwargs["ckpt_path"] = resolve_last(Path(self.trainer.default_root_dir), subcommand)
        return kwargs


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


def resolve_last(run_folder: Path, word: str) -> str | None:
    """Return the newest committed checkpoint of a run folder; None (start from scratch) when `fit` finds none.

    Raises:
        UserError: There is none and `word` is not `fit`.
    """
    newest = latest_committed(run_folder)
    if newest is None and word != "fit":
        raise UserError(
            f"No finished checkpoint lies in {run_folder}. `{word} --ckpt_path last` needs one. Run `fit` first, or "
            "name the run folder with --trainer.default_root_dir."
        )
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(
            f"Going on from {newest}."
            if newest
            else f"No finished checkpoint in {run_folder} yet: starting from scratch."
        )
    return str(newest) if newest else None


def main(args: list[str]) -> int | None:
    """Run `fit`, `validate`, `test` or `predict`.

    Args:
        args: The command line from that word on.
    """
    words = starter(args)
    with readable_console():
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
