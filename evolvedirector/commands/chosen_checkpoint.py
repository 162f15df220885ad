"""Which checkpoint a command reads: found, whole, of a kind that it can use, and named on the screen."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from evolvedirector.callbacks.checkpoint import COMMIT_NAME, STATE_NAME, is_whole, latest_committed
from evolvedirector.errors import UserError

UNTRAINED = "none"
"""What `--ckpt_path` says where a model is to be evaluated as it was built, without any checkpoint."""
_SHARDED = "meta.pt"
"""What Lightning calls everything but weights and optimizer in a sharded checkpoint."""


def choose_checkpoint(written: str | None, run_folder: Path, word: str) -> str | None:
    """Return the checkpoint that a command reads, as `ckpt_path` takes it; None where it reads none.

    Args:
        written: `--ckpt_path` as written: `last`, `none`, a file, a sharded folder, or the folder of a checkpoint of
            `RunCheckpoint`. None: `fit` starts from scratch, other words take the newest one of the run folder.
        run_folder: `trainer.default_root_dir`.
        word: The command.

    Raises:
        UserError: It is not there, or there is none where one is needed.
    """
    if word == "fit" and written is None:
        return None
    if word != "fit" and written == UNTRAINED:
        return None
    if written is None or written == "last":
        return _newest(run_folder, word, written)
    path = Path(written)
    if (path / COMMIT_NAME).is_file():
        path = path / STATE_NAME
    if "://" not in written and not path.exists():
        newest = latest_committed(run_folder)
        raise UserError(
            f"No checkpoint lies at {written}. It must be a file, or the folder of a sharded one. Write --ckpt_path "
            + (f"{newest}, or --ckpt_path last." if newest else "with the path of one that exists.")
        )
    return str(path) if "://" not in written else written


def _newest(run_folder: Path, word: str, written: str | None) -> str | None:
    newest = latest_committed(run_folder)
    if newest is not None:
        return str(newest)
    if word == "fit":
        return None
    asked = f"`{word} --ckpt_path last`" if written else f"`{word}`"
    raise UserError(
        f"No finished checkpoint lies in {run_folder}. {asked} needs one, else it would show untrained weights. Run "
        f"`fit` first, name the run folder with --trainer.default_root_dir or a file with --ckpt_path, or write "
        f"--ckpt_path {UNTRAINED} to have the model as it is built."
    )


def read_head(path: str, weights_only: bool) -> dict[str, Any]:
    """Read what a checkpoint says of itself, without its weights; check that it is one.

    Args:
        path: As `choose_checkpoint` returns it, on this machine.
        weights_only: Refuse everything but tensors and plain values, because objects could run code.

    Raises:
        UserError: It is empty, damaged, of another program, or holds objects.
    """
    committed = (Path(path).parent / COMMIT_NAME).is_file()
    if Path(path).is_dir() and committed and not is_whole(Path(path).parent):  # one file is whole if it can be read
        raise _unreadable(path, "is damaged: a file of it is missing or has another size than when it was saved")
    file = Path(path) / _SHARDED if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise _unreadable(path, f"is a folder without {_SHARDED}, so no checkpoint")
    if file.stat().st_size == 0:
        raise _unreadable(path, "is empty")
    zipped = zipfile.is_zipfile(file)
    try:
        head = torch.load(file, map_location="cpu", weights_only=weights_only, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        if not zipped:
            raise _unreadable(path, "is no checkpoint, or a damaged one") from error
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        named = f" ({found[1]})" if found else ""
        raise UserError(
            f"The checkpoint {path} holds Python objects{named}, and reading them could run "
            "code. Allowed are tensors and plain values. Name a checkpoint that holds nothing else, or add "
            "--weights_only false if you trust whoever made it."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise _unreadable(path, "is no checkpoint, or a damaged one") from error
    if not isinstance(head, Mapping) or "pytorch-lightning_version" not in head:
        raise _unreadable(path, "was not saved by a trainer of Lightning (weights alone are no checkpoint)")
    return dict(head)


def check_reader(path: str, strategy: object) -> None:
    """Refuse shards under a strategy that reads one file.

    Args:
        path: As `choose_checkpoint` returns it.
        strategy: Of the trainer that is to read it.

    Raises:
        UserError: It cannot read them.
    """
    if not (Path(path) / _SHARDED).is_file() or isinstance(strategy, ModelParallelStrategy | FSDPStrategy):
        return
    raise UserError(
        f"The checkpoint {path} is a folder of shards, which {type(strategy).__name__} cannot read. Allowed is the "
        "strategy that wrote it, on any number of devices. Write -c configs/strategy/fsdp.yaml --trainer.devices 1, "
        "say; `evolvedirector export` makes whole weights of it."
    )


def check_resumable(head: Mapping[str, Any], path: str) -> None:
    """Refuse to train on from a checkpoint that holds weights alone.

    Args:
        head: As `read_head` returned it.
        path: Its path.

    Raises:
        UserError: It lacks what training needs.
    """
    sharded = Path(path).is_dir()
    wanted = ["loops", "lr_schedulers", *(() if sharded else ("state_dict", "optimizer_states"))]
    missing = [name for name in wanted if name not in head]
    if missing:
        raise UserError(
            f"The checkpoint {path} lacks {', '.join(missing)}: it was saved with weights alone. Training goes on from "
            "a whole one only. Name a checkpoint that `RunCheckpoint` saved, or start a new run (without --ckpt_path)."
        )


def averages_in(head: Mapping[str, Any]) -> bool:
    """Say whether a checkpoint holds averaged weights of `EMA`."""
    kept = head.get("ema")
    return isinstance(kept, Mapping) and any(state.get("weights") for state in kept.values())


def mismatch_of(error: Exception, path: str | None, run_folder: Path) -> UserError | None:
    """Say in one paragraph where a checkpoint does not fit the configured model; None for any other error.

    Args:
        error: What torch said about weights of another shape or name, or about other groups of parameters.
        path: The checkpoint that was read; None: none was.
        run_folder: Holds the configuration of the run.
    """
    said = None if path is None else _mismatch(str(error))
    if said is None:
        return None
    return UserError(
        f"The checkpoint {path} does not fit what is configured: {said}. A run goes on with the model and the "
        f"optimizer that it began with. Write them as in {run_folder / 'config.yaml'}, or start a new run (without "
        "--ckpt_path)."
    )


def _mismatch(message: str) -> str | None:
    if "loaded state dict" in message and "parameter group" in message:
        return "its optimizer holds other parameters"
    if "PytorchStreamReader" in message:
        return "a part of the file cannot be read"
    if "Error(s) in loading state_dict for" not in message:
        return None
    shape = (
        r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) from checkpoint, the shape in "
    )
    sizes = re.findall(shape + r"current model is torch\.Size\(\[(.*?)\]\)", message)
    said = []
    if sizes:
        name, there, here = sizes[0]
        said.append(f"{name} has the shape ({there}) there and ({here}) here" + _more(len(sizes)))
    for kind, where in (("Missing", "is not in it"), ("Unexpected", "is in it and not in the model")):
        found = re.search(rf"{kind} key\(s\) in state_dict: (.*?)\. ?(?:\n|$)", message)
        names = re.findall(r'"(.*?)"', found.group(1)) if found else []
        if names:
            said.append(f"{names[0]} {where}" + _more(len(names)))
    return "; ".join(said) or "its weights have other names or shapes"


def _more(count: int) -> str:
    return f" (and {count - 1} more like it)" if count > 1 else ""


def _unreadable(path: str, what: str) -> UserError:
    folder = Path(path).parent.parent.parent if (Path(path).parent / COMMIT_NAME).exists() else None
    newest = latest_committed(folder) if folder is not None else None
    other = f"--ckpt_path {newest}" if newest else "--ckpt_path with a checkpoint that `fit` saved"
    return UserError(
        f"The checkpoint {path} {what}. It must be a whole checkpoint of Lightning. Write {other}, or leave it out to "
        "start a new run."
    )


def say(text: str) -> None:
    """Print a line, once per machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, flush=True)
