"""The student of a run, exported once into a folder of its own before it draws as a teacher."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from evolvedirector.errors import UserError
from evolvedirector.store.durable import make_folder, write_durably

NOTE = "exported_from.json"
"""Beside an export that was made for a self-teacher: whose it is."""
_CONFIG = "config.yaml"
_MAX_CONFIG_BYTES = 16 * 2**20
_OF_RANKS = ("RANK", "WORLD_SIZE", "MASTER_", "GROUP_", "ROLE_", "LOCAL_", "NODE_", "TORCHELASTIC_", "SLURM_", "PL_")
"""Beginnings of the variables by which a process takes its place among ranks: the export is alone."""


def run_folder(source: Path) -> Path | None:
    """Return the folder of the run that a path lies in: itself, or one above; None where there is no run.

    Args:
        source: A run folder, or a checkpoint in one.
    """
    if not source.exists():
        return None
    return next((folder for folder in (source, *source.absolute().parents) if (folder / _CONFIG).is_file()), None)


def export_once(source: Path, folder: Path, words: Sequence[str]) -> None:
    """Export the student of a run into a folder, unless it is there; safe where several processes do it at once.

    It is written into a folder beside the wanted one, which is then renamed. What is there stays as it is, however far
    the run has trained since: the teacher is frozen.

    Args:
        source: A run folder, whose newest checkpoint is taken, or a checkpoint in one.
        folder: Of the export.
        words: Overrides of the run's options, as `fit` takes them.

    Raises:
        UserError: The folder holds the export of something else, or the export fails.
    """
    make_folder(folder.absolute().parent)
    with _alone(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            _check_note(source, folder)
            return
        partial = folder.with_name(f".{folder.name}.tmp.{uuid.uuid4().hex[:8]}")
        try:
            _export(source, partial, words)
            write_durably(partial / NOTE, json.dumps({"source": str(source)}).encode())
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _export(source: Path, out: Path, words: Sequence[str]) -> None:
    """Run `evolvedirector export` in a process of its own: it builds the run's own parts, and needs its memory back."""
    options = ["--samples", "0", *(["--merged"] if _trains_lora(source) else [])]
    alone = ["--trainer.devices=1", "--trainer.num_nodes=1"]
    command = [sys.executable, "-m", "evolvedirector", "export", str(source), str(out), *options, *alone, *words]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_RANKS)}
    done = subprocess.run(command, env=kept, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())[-1000:] or f"it ended with {done.returncode}"
        raise UserError(
            f"The student of {source} cannot be exported for the self-teacher: {said} Allowed is a run or checkpoint "
            f"that `evolvedirector export {source} FOLDER` exports. Mend it, or name a folder that is exported already."
        )


def _trains_lora(source: Path) -> bool:
    """Say whether a run trains a LoRA: its export is fused, since a LoRA alone does not draw."""
    config = (run_folder(source) or source) / _CONFIG
    try:
        if config.stat().st_size > _MAX_CONFIG_BYTES:
            raise OSError(f"it has over {_MAX_CONFIG_BYTES} bytes")
        tree = yaml.safe_load(config.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(
            f"{config} cannot be read: {' '.join(str(error).split())}. Allowed is what a run wrote. Name another run."
        ) from error
    return bool(_at(tree, "model", "init_args", "trained", "lora"))


def _at(tree: Any, *names: str) -> Any:
    for name in names:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def _check_note(source: Path, folder: Path) -> None:
    try:
        note = json.loads((folder / NOTE).read_text("utf-8"))
    except (OSError, ValueError):
        note = None
    if not isinstance(note, dict) or note.get("source") != str(source):
        whose = f"the export of {note.get('source')}" if isinstance(note, dict) else "something else"
        raise UserError(
            f"The folder {folder} is there and holds {whose}, not the export of {source}. Allowed is a new folder, or "
            f"the one of this source. Write another `folder`, or `source: {folder}` to draw with what lies there."
        )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time in; the lock ends with the process that holds it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
