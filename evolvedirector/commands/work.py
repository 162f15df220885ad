"""`evolvedirector work`: serve judge, writer, teachers or rewards of a run that lays its requests into a folder."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from evolvedirector.commands.console import readable_console
from evolvedirector.commands.part_files import build_part
from evolvedirector.errors import UserError
from evolvedirector.execution.queue_worker import QueueWorker
from evolvedirector.judges.judge import Judge
from evolvedirector.records.part import Part, verify_parts
from evolvedirector.rewards.reward import Reward
from evolvedirector.secrecy.guard import refuse_secrets
from evolvedirector.store.paths import user_path
from evolvedirector.store.short_yaml import read_short_yaml
from evolvedirector.teachers.teacher import Teacher
from evolvedirector.writers.prompt_writer import PromptWriter

_KINDS: Mapping[str, type] = {"judge": Judge, "writer": PromptWriter, "teachers": Teacher, "rewards": Reward}


def main(args: list[str]) -> int:
    """Serve a queue folder until a signal comes, or nothing has come for long.

    Args:
        args: The words after `work`.

    Returns:
        Exit code: 0.

    Raises:
        UserError: There is no config, or it has no such part; or a part would not work here.
    """
    options = _parser().parse_args(args)
    folder = user_path(options.folder)
    config = user_path(options.config) if options.config else folder.parent / "config.yaml"
    if not options.config and not config.is_file():
        raise UserError(
            f"There is no '{config}', and no -c is given. A worker builds its parts from the config that a run writes "
            "into its run folder. Put the queue into the run folder (`folder: runs/NAME/queue`) and start the run "
            f"first, or write `evolvedirector work {folder} -c runs/NAME/config.yaml`."
        )
    parts = parts_of(config, options.serve)
    verify_parts(*parts.values())
    worker = QueueWorker(folder, parts)
    with readable_console(), _until_signal() as ending:
        print(f"{worker.name} serves {', '.join(sorted(parts))} from {folder}.", flush=True)
        worker.serve(ending.is_set, options.idle_s)
        print(f"{worker.name} ends after {worker.batches} batches.", flush=True)
    return 0


def parts_of(config: Path, wanted: list[str] | None) -> dict[str, Part]:
    """Build the parts of a run that work through its queue, as its config says.

    Args:
        config: `config.yaml` of a run folder.
        wanted: Places, of those that the config places in a queue. None: all of these.

    Raises:
        UserError: The config cannot be read, places nothing in a queue, or not what is wanted.
    """
    given = _evolution_in(config)
    placed = sorted(_mapping(_mapping(_mapping(given.get("cluster")).get("init_args")).get("placements")))
    wrong = [name for name in wanted or () if name not in placed]
    if wrong or not placed:
        what = f"--serve names {wrong[0]!r}, which '{config}' does not place" if wrong else f"'{config}' places nothing"
        raise UserError(
            f"{what} in a queue. Allowed: {', '.join(placed) or 'what stands under cluster: placements'}. Write "
            "`cluster: {class_path: evolvedirector.execution.queue_cluster.QueueCluster, ...}` in the run's config, "
            "and name places of it."
        )
    return {place: _built(given, place, config) for place in wanted or placed}


def _built(given: Mapping[str, Any], place: str, config: Path) -> Part:
    kind, _, name = place.partition(".")
    content = _mapping(given.get(kind)).get(name) if name else given.get(kind)
    if kind not in _KINDS or not isinstance(content, dict) or not isinstance(content.get("class_path"), str):
        raise UserError(
            f"'{config}' has no {place} with a class_path. Allowed are judge, writer, teachers.NAME and rewards.NAME "
            "that it holds. Give the config.yaml of the run's own folder."
        )
    part: Part = build_part(content, _KINDS[kind], kind, str(config))
    return part


def _evolution_in(config: Path) -> Mapping[str, Any]:
    """Return the arguments of the run's EvolutionCallback."""
    form = "Allowed: the config.yaml that a run writes into its run folder."
    content = read_short_yaml(config, "config", form)
    refuse_secrets(content, str(config))
    trainer = content.get("trainer") if isinstance(content, dict) else None
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    for entry in callbacks if isinstance(callbacks, list) else ():
        if isinstance(entry, dict) and _is_evolution(str(entry.get("class_path"))):
            return _mapping(entry.get("init_args"))
    raise UserError(f"'{config}' has no EvolutionCallback under trainer.callbacks. {form} Write its path after -c.")


def _mapping(value: object) -> dict[str, Any]:
    """Return a part of a config that should be a mapping; empty where it is anything else."""
    return value if isinstance(value, dict) else {}


def _is_evolution(class_path: str) -> bool:
    from evolvedirector.callbacks.evolution import EvolutionCallback

    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return False
    return isinstance(found, type) and issubclass(found, EvolutionCallback)


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """Let SIGTERM and Ctrl+C end the worker after the reply that it works on; a second one ends it at once."""
    ending = threading.Event()

    def told(number: int, _: FrameType | None) -> None:
        if ending.is_set():
            sys.exit(128 + number)
        ending.set()

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector work",
        description="Serve judge, writer, teachers or rewards of a run whose config has a QueueCluster. Start as many "
        "as there are machines, before or after the run.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="QUEUE_FOLDER", help="`folder` of the run's QueueCluster, on a shared disk")
    parser.add_argument("-c", "--config", help="config.yaml of the run; left out: the one beside the queue folder")
    parser.add_argument("--serve", nargs="+", metavar="PLACE", help="judge, teachers.flux, ...; left out: all placed")
    parser.add_argument("--idle-s", type=float, metavar="SECONDS", help="end after so long without work")
    return parser
