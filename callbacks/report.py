"""The report of a run, kept up to date while it goes on."""

from __future__ import annotations

import json
import os
import socket
import time
import warnings
from pathlib import Path

import lightning.pytorch as pl

from evolvedirector.callbacks._run.host_checks import OwnsRoot, is_smoke_test
from evolvedirector.callbacks.run_progress import total_steps
from evolvedirector.errors import UserError
from evolvedirector.planning.roles import HasRoot
from evolvedirector.report.build import build_report, write_page
from evolvedirector.report.run_folder import STATUS_FILE, RunFolder
from evolvedirector.report.thumbnails import Thumbnails
from evolvedirector.report.versions import versions


class ReportCallback(pl.Callback):
    """Write `<default_root_dir>/report/index.html` after rounds and when training ends: what happened, in one page.

    The page needs no network and no other file; `evolvedirector report RUN` writes it again, and
    `evolvedirector report --watch RUN` serves it while the run goes on. Put it behind the other callbacks, so that it
    sees their last figures. A page that cannot be written is a warning: a report never ends a run. It also leaves
    `run.json`: the state of the run and the versions it runs with.

    Example:
        ```yaml
        - class_path: evolvedirector.callbacks.RunSummary
        - class_path: evolvedirector.callbacks.ReportCallback
        ```
    """

    def __init__(self, time_share: float = 0.05) -> None:
        """Set how much time pages may take.

        Args:
            time_share: Share of the time of a run, over 0 to 1, that pages may take before it ends: after a page that
                took 2 s the next one is written 40 s later at the earliest. The last page is always written.

        Raises:
            UserError: A share out of range.
        """
        super().__init__()
        if not 0.0 < time_share <= 1.0:
            raise UserError(f"time_share is {time_share}. Allowed: over 0 to 1. Write `time_share: 0.05`, say.")
        self.time_share = time_share
        self._thumbnails = Thumbnails()
        self._next_s = 0.0  # on the monotonic clock
        self._versions: dict[str, str] = {}
        self._began = False
        self._log_dirs: list[str] | None = None  # None: not known yet
        self._planned_steps: int | None = None  # None: not known yet, or no end is set

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note that the run goes on, and with which versions."""
        if stage == "fit":
            self._versions, self._began = versions(), False
            noted = RunFolder(Path(trainer.default_root_dir), None).status().get("log_dirs")
            self._log_dirs = noted if isinstance(noted, list) else None
            self._note(trainer, "running")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the step at which the run begins or goes on, and where its loggers write."""
        earlier = (self._log_dirs or []) if trainer.global_step else []
        self._log_dirs = list(dict.fromkeys([*earlier, *_log_dirs(trainer)]))
        self._began, self._planned_steps = True, total_steps(trainer)
        self._note(trainer, "running")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the page after a round, when the last one is long enough ago."""
        if time.monotonic() >= self._next_s:
            self._note(trainer, "running")
            self._write(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last page and say where it is."""
        self._note(trainer, "finished")
        path = self._write(trainer)
        if path is not None:
            print(f"Report:  {path}", flush=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Note why the run ended; after an error, write a page that says so."""
        self._note(trainer, "ended early", type(exception).__name__)
        if isinstance(exception, Exception):  # after Ctrl-C and SIGTERM nobody wants to wait for it
            self._write(trainer)

    def _note(self, trainer: pl.Trainer, state: str, reason: str = "") -> None:
        if not trainer.is_global_zero or is_smoke_test(trainer):
            return
        fields = {
            "state": state,
            "reason": reason,
            "global_step": trainer.global_step if self._began else None,  # 0 until the checkpoint has been read
            "planned_steps": self._planned_steps,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "log_dirs": self._log_dirs,
            "versions": self._versions,
        }
        path = Path(trainer.default_root_dir) / STATUS_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".tmp")
            partial.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            warnings.warn(f"'{path}' could not be written: {error}", stacklevel=3)

    def _write(self, trainer: pl.Trainer) -> Path | None:
        if not trainer.is_global_zero or is_smoke_test(trainer):
            return None
        began = time.monotonic()
        path = Path(trainer.default_root_dir) / "report" / "index.html"
        try:
            _flush(trainer)
            run = RunFolder.open(Path(trainer.default_root_dir), _data_root(trainer))
            write_page(path, build_report(run, self._thumbnails))
        except Exception as error:
            warnings.warn(f"The report at step {trainer.global_step} is not written: {error!r}", stacklevel=3)
            return None
        finally:
            taken_s = time.monotonic() - began
            self._next_s = time.monotonic() + taken_s * (1 - self.time_share) / self.time_share
        return path


def _data_root(trainer: pl.Trainer) -> Path | None:
    """Find the dataset root that this run writes to; None lets the run folder say."""
    callbacks, data = trainer.callbacks, trainer.datamodule  # type: ignore[attr-defined]
    places = [callback.owned_root() for callback in callbacks if isinstance(callback, OwnsRoot)]
    places += [Path(data.data_root)] if isinstance(data, HasRoot) else []
    return next((place for place in places if place is not None and (place / "format.json").is_file()), None)


def _flush(trainer: pl.Trainer) -> None:
    """Let loggers write what they hold back, so that the curves reach to the last step."""
    for logger in trainer.loggers:
        try:
            logger.save()  # TensorBoard's flushes its events too
        except Exception as error:  # figures that lag behind are no reason to go without a page
            warnings.warn(f"{type(logger).__name__} could not be flushed: {error!r}", stacklevel=3)


def _log_dirs(trainer: pl.Trainer) -> list[str]:
    """Return the folders of the loggers, relative to the run folder; those outside of it are left out."""
    root, found = Path(trainer.default_root_dir).resolve(), []
    for logger in trainer.loggers:
        try:
            place = Path(logger.log_dir).resolve() if isinstance(logger.log_dir, str | Path) else None
        except Exception:  # a logger of others may fail in its own way; its curves are then not shown
            continue
        if place is not None and place.is_relative_to(root):
            found.append(place.relative_to(root).as_posix())
    return found
