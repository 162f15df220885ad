"""Checkpoints that are whole or not there: a commit marker is written last and `last` is resolved by it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from evolvedirector.callbacks._run.epoch_resume import leave_finished_epoch
from evolvedirector.callbacks._run.finite import last_step_was_finite, refuse_nonfinite_weights
from evolvedirector.errors import RunError, UserError

CHECKPOINT_FOLDER = "checkpoints"
STATE_NAME = "state.ckpt"
COMMIT_NAME = "COMMIT.json"
PIN_NAME = "pinned"
"""A file of this name inside a checkpoint's folder keeps it from being pruned."""


@runtime_checkable
class ReadsRevision(Protocol):
    """A datamodule that reads one revision of a dataset."""

    @property
    def revision_sha(self) -> str:
        """Name it."""
        ...


@runtime_checkable
class SavesBeside(Protocol):
    """A strategy that can write a checkpoint while training goes on."""

    saves_shards: bool
    """Whether it does: one gathered file is written at once."""

    def saving_beside(self, then: Callable[[], None]) -> AbstractContextManager[None]:
        """Let the trainer's `save_checkpoint` inside return when the state is copied; call `then` when it is written,
        in a thread of rank 0."""
        ...

    def finish_saving(self) -> tuple[Path, str] | None:
        """Wait for it on every rank; say which one could not be written, and why."""
        ...


class RunCheckpoint(Checkpoint):
    """Save the whole training state into the run folder, so that `--ckpt_path last` goes on after any kind of end.

    Each checkpoint is a new folder `<default_root_dir>/checkpoints/step-00001200/`, never overwritten in place; its
    `COMMIT.json` is written last, and a folder without it does not count. It works for single files and for the
    sharded folders of FSDP2. Weights that are not finite are not saved: the run ends, and earlier checkpoints stay. One
    that is saved just after a step that was not finite is marked, and neither displaces others nor is `last`, as long
    as there is another. It subclasses Lightning's `Checkpoint`, so it runs after every other callback and
    Lightning adds no `ModelCheckpoint` of its own.

    Example:
        ```yaml
        trainer:
          default_root_dir: runs/mine
          callbacks:
            - class_path: evolvedirector.callbacks.RunCheckpoint
              init_args: {every_n_epochs: 1, keep_last: 2}
        ```
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        every_n_train_steps: int | None = None,
        keep_last: int = 2,
        asynchronous: bool = False,
    ) -> None:
        """Set how often to save.

        Args:
            every_n_epochs: Save at the end of every n-th epoch, and at the end of training. 0 only at the end.
            every_n_train_steps: Also save each n optimizer steps. None: at epochs only.
            keep_last: How many committed checkpoints to keep; older ones go, except pinned ones.
            asynchronous: Copy the state and write it in a thread while training goes on, for the shards of
                `ShardedStrategy`. It takes main memory for the copy. The next checkpoint, a round and the end of
                training wait for it; one that is not yet committed does not count.

        Raises:
            UserError: A number is out of range.
        """
        super().__init__()
        if every_n_epochs < 0:
            raise UserError(f"every_n_epochs is {every_n_epochs}. It counts epochs from 0 (never) up. Write 1.")
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise UserError(
                f"every_n_train_steps is {every_n_train_steps}. It counts optimizer steps from 1 up, or is null. "
                "Write null to save at epochs only."
            )
        if keep_last < 1:
            raise UserError(f"keep_last is {keep_last}. At least 1 checkpoint must stay. Write 2.")
        self.every_n_epochs = every_n_epochs
        self.every_n_train_steps = every_n_train_steps
        self.keep_last = keep_last
        self.asynchronous = asynchronous
        self._last_saved_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clear what an interrupted save left behind.

        Raises:
            UserError: The strategy writes no checkpoint beside training.
        """
        strategy = trainer.strategy
        if stage == "fit" and self.asynchronous and not (isinstance(strategy, SavesBeside) and strategy.saves_shards):
            raise UserError(
                f"asynchronous is true, but {type(strategy).__name__} writes one file, while training waits. Allowed "
                "are shards, which are written beside it. Write asynchronous: false, or take "
                "configs/strategy/fsdp.yaml with save_distributed_checkpoint: true."
            )
        if stage == "fit" and trainer.is_global_zero:
            remove_uncommitted(Path(trainer.default_root_dir))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a resumed step as saved, and a finished epoch as finished."""
        leave_finished_epoch(trainer)
        self._last_saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save each `every_n_train_steps` optimizer steps (not once per accumulated micro-batch)."""
        # After its last batch an epoch is saved at its end: what happens there (a round) would be skipped by a resume.
        if self._step_is_due(trainer) and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the other callbacks of this epoch's end (a round, an EMA) have finished."""
        due = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due or self._step_is_due(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the finished state unless it is saved already."""
        if trainer.global_step != self._last_saved_step:
            self._save(trainer)
        finish_saving(trainer)
        if trainer.is_global_zero:
            prune(Path(trainer.default_root_dir), self.keep_last)

    def _step_is_due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        every = self.every_n_train_steps
        return every is not None and step % every == 0 and step != self._last_saved_step

    def _save(self, trainer: Trainer) -> None:
        if getattr(trainer, "fast_dev_run", False) or trainer.sanity_checking:
            return
        run_folder = Path(trainer.default_root_dir)
        save_committed(trainer, run_folder, f"step-{trainer.global_step:08d}", self.asynchronous)
        self._last_saved_step = trainer.global_step
        if trainer.is_global_zero:
            prune(run_folder, self.keep_last)  # one that is still being written does not count yet


def save_committed(trainer: Trainer, run_folder: Path, name: str, beside: bool = False) -> Path:
    """Save the training state under a new name and commit it; call it on every rank.

    Args:
        trainer: The running trainer.
        run_folder: Folder of the run; the checkpoint goes to `checkpoints/<name>/` in it.
        name: Wanted name (`step-00001200`, `step-00001200-round`); a taken one gets `-2`, `-3`, ...
        beside: Return when the state is copied; it is written and committed while training goes on, until
            `finish_saving`.

    Returns:
        The path that `ckpt_path` takes: a file, or a folder for sharded strategies.

    Raises:
        RunError: The weights are not finite. Older checkpoints are untouched.
        UserError: The name does not begin with `step-` (leftovers are recognised by it).
        OSError: It, or one begun beside training, could not be written (full disk, ...). Older checkpoints are
            untouched.
    """
    if not re.fullmatch(r"step-[A-Za-z0-9_-]+", name):
        raise UserError(
            f"{name!r} is no checkpoint name. It is step- and letters, digits, - or _. Write step-00001200."
        )
    finish_saving(trainer)  # commits are counted one after the other
    refuse_nonfinite_weights(trainer, "They are not saved.")
    folder: Path | None = None
    if trainer.is_global_zero:
        folder = _new_folder(run_folder / CHECKPOINT_FOLDER, name)
    folder = Path(trainer.strategy.broadcast(str(folder)))
    commit = partial(_commit, folder, _marker_of(trainer))
    strategy = trainer.strategy
    later = strategy.saving_beside(commit) if beside and isinstance(strategy, SavesBeside) else None
    try:
        with later or nullcontext():
            trainer.save_checkpoint(folder / STATE_NAME, weights_only=False)  # with optimizer, loops and loader
        if later is None and trainer.is_global_zero:
            commit()
    except (OSError, RuntimeError) as error:
        if trainer.is_global_zero:
            if later is None:  # else a thread may still write and commit it; leftovers go when the run starts again
                shutil.rmtree(folder, ignore_errors=True)
            raise _unwritable(folder, error) from error
        raise
    trainer.strategy.barrier("save_committed")
    return folder / STATE_NAME


def finish_saving(trainer: Trainer) -> None:
    """Wait until a checkpoint that is written beside training is committed; call it on every rank.

    Args:
        trainer: The running trainer.

    Raises:
        OSError: It could not be written. Older checkpoints are untouched.
    """
    strategy = trainer.strategy
    failed = strategy.finish_saving() if isinstance(strategy, SavesBeside) else None
    if failed is None:
        return
    state, reason = failed
    if trainer.is_global_zero:
        shutil.rmtree(state.parent, ignore_errors=True)
    raise _unwritable(state.parent, OSError(reason))


def latest_committed(run_folder: Path) -> Path | None:
    """Return the newest committed checkpoint of a run folder, as `ckpt_path` takes it; None when there is none.

    One that was saved after a step that was not finite is returned only where there is no other.
    """
    commits = _commits(run_folder)
    chosen = [commit for commit in commits if _is_finite(commit[0])] or commits
    return chosen[-1][1] / STATE_NAME if chosen else None


def passed_over(run_folder: Path) -> list[str]:
    """Name the checkpoints newer than `latest_committed` that were saved after a step that was not finite."""
    commits = _commits(run_folder)
    finite = [place for place, (marker, _) in enumerate(commits) if _is_finite(marker)]
    return [folder.name for _, folder in commits[finite[-1] + 1 :]] if finite else []


def is_whole(folder: Path) -> bool:
    """Say whether the folder of a checkpoint is committed and holds every file with the size that its marker names."""
    return _read_marker(folder / COMMIT_NAME) is not None


def is_restored_later(trainer: Trainer) -> bool:
    """Say, before `on_fit_start` is over, whether a checkpoint is still to be read: all ranks agree.

    Strategies that shard read it after that hook, and Lightning (2.6.6) knows its path only then. Until then a run
    folder with a committed checkpoint counts as one that goes on.

    Args:
        trainer: In `on_fit_start`.
    """
    if not trainer.strategy.restore_checkpoint_after_setup:
        return False
    found = trainer.ckpt_path is not None or latest_committed(Path(trainer.default_root_dir)) is not None
    return bool(trainer.strategy.broadcast(found))


def prune(run_folder: Path, keep_last: int) -> None:
    """Delete all but the newest `keep_last` committed checkpoints; pinned ones stay and do not count.

    Those saved after a step that was not finite do not count either: no finite one leaves for their sake, and as many
    of them stay as are newer than the newest finite one, up to `keep_last`.
    """
    loose = [commit for commit in _commits(run_folder) if not (commit[1] / PIN_NAME).exists()]
    finite = [place for place, (marker, _) in enumerate(loose) if _is_finite(marker)]
    later = range(finite[-1] + 1 if finite else 0, len(loose))
    kept = {*finite[-keep_last:], *later[-keep_last:]}
    for folder in [folder for place, (_, folder) in enumerate(loose) if place not in kept]:
        (folder / COMMIT_NAME).unlink()  # first: a half-deleted checkpoint must not count as committed
        shutil.rmtree(folder)


def prune_where_nobody_does(trainer: Trainer, keep_last: int) -> None:
    """Delete all but the newest checkpoints of a run without a `RunCheckpoint`, which would; rank 0 alone does.

    Args:
        trainer: The running trainer.
        keep_last: As for `prune`.
    """
    others = any(isinstance(callback, RunCheckpoint) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if trainer.is_global_zero and not others:
        prune(Path(trainer.default_root_dir), keep_last)


def remove_uncommitted(run_folder: Path) -> None:
    """Delete what interrupted saves left in a run folder; call it only while nothing is being saved there."""
    root = run_folder / CHECKPOINT_FOLDER
    for folder in root.iterdir() if root.is_dir() else ():
        if folder.is_dir() and not (folder / COMMIT_NAME).exists() and folder.name.startswith("step-"):
            shutil.rmtree(folder)


def _new_folder(root: Path, name: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 10_000):
        folder = root / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
    raise RunError(f"{root} holds 9999 checkpoints named {name}. One run folder serves one run. Name another one.")


def _marker_of(trainer: Trainer) -> dict[str, Any]:
    """Return what a marker says of the training at this moment."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    return {
        "finite": last_step_was_finite(trainer),
        "global_step": trainer.global_step,
        "revision_sha": data.revision_sha if isinstance(data, ReadsRevision) else None,
    }


def _commit(folder: Path, marker: dict[str, Any]) -> None:
    state = folder / STATE_NAME
    files = sorted(path for path in (state.rglob("*") if state.is_dir() else [state]) if path.is_file())
    for path in (*files, *([state] if state.is_dir() else [])):
        _fsync(path)
    earlier = _commits(folder.parent.parent)
    marker = marker | {
        "files": {path.relative_to(folder).as_posix(): path.stat().st_size for path in files},
        "order": 1 + max((commit["order"] for commit, _ in earlier), default=0),
    }
    partial = folder / f"{COMMIT_NAME}.tmp"
    partial.write_text(json.dumps(marker, indent=1, sort_keys=True), encoding="utf-8")
    _fsync(partial)
    os.replace(partial, folder / COMMIT_NAME)
    _fsync(folder)
    _fsync(folder.parent)


def _commits(run_folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """List (marker, folder) of every whole checkpoint, oldest commit first.

    The order is counted, not taken from clocks, and not by step alone: a run that went back to an earlier checkpoint
    goes on from where it then came to.
    """
    found = []
    for path in (run_folder / CHECKPOINT_FOLDER).glob(f"*/{COMMIT_NAME}"):
        marker = _read_marker(path)
        if marker is not None:
            found.append((marker, path.parent))
    return sorted(found, key=lambda commit: (commit[0]["order"], commit[0]["global_step"]))


def _is_finite(marker: dict[str, Any]) -> bool:
    return marker.get("finite") is not False  # markers of earlier versions do not say


def _read_marker(path: Path) -> dict[str, Any] | None:
    """Read a marker; None when it is unreadable or a file it names is missing or has another size."""
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        marker = {**marker, "global_step": int(marker["global_step"]), "order": int(marker["order"])}
        whole = all((path.parent / name).stat().st_size == size for name, size in marker["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return marker if whole and marker["files"] else None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class CheckpointNotWritten(OSError, RunError):
    """Say that a checkpoint could not be written, as on a full disk; older ones are untouched."""


def _unwritable(folder: Path, error: Exception) -> CheckpointNotWritten:
    free_mib = shutil.disk_usage(folder.parent).free / 2**20
    return CheckpointNotWritten(
        getattr(error, "errno", None) or errno.EIO,
        f"The checkpoint {folder.name} could not be written ({error}); {free_mib:.0f} MiB are free there. Older "
        "checkpoints are untouched. Free some space or lower keep_last, then run again with --ckpt_path last",
        str(folder.parent),
    )
