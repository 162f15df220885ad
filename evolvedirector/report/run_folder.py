"""A run folder as the report finds it: finished, running, broken off, or not evolved at all."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evolvedirector.errors import UserError
from evolvedirector.store.paths import user_path
from evolvedirector.store.revision import RevisionFiles

MAX_JSON_BYTES = 64 * 2**20
MAX_CONFIG_BYTES = 2**20
_OWNER = re.compile(r"process (\d+) on (\S+)")
STATUS_FILE = "run.json"
"""What `ReportCallback` leaves in a run folder: the state of the run and the versions it ran with."""
FRESH_S = 3600.0
"""How long a note of another machine is believed: its processes cannot be asked."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Name the parts of one run.

    Args:
        path: The run folder, `trainer.default_root_dir`.
        data_root: The root of its dataset. None: there is none.
    """

    path: Path
    data_root: Path | None

    @classmethod
    def open(cls, path: Path, data_root: Path | None = None) -> RunFolder:
        """Find the parts of a run.

        Args:
            path: The run folder.
            data_root: The root of its dataset. None: `data` in the run folder, or what its config.yaml names.

        Raises:
            UserError: The folder is none of a run.
        """
        path = user_path(path)
        if not path.is_dir():
            raise UserError(f"'{path}' is no folder. A report is made of a run folder. Write `runs/quickstart`, say.")
        run = cls(path, data_root)
        if data_root is None:
            places = [path / "data", *run._configured_roots()]
            run = cls(path, next((place for place in places if (place / "format.json").is_file()), None))
        elif not (data_root / "format.json").is_file():
            raise UserError(
                f"'{data_root}' is no dataset root: it has no format.json. Name the `root` of the run's data, say "
                "`--data runs/quickstart/data`."
            )
        known = ("summary.json", "config.yaml", STATUS_FILE)
        if run.data_root is None and not any((path / name).exists() for name in known):
            raise UserError(
                f"'{path}' is no run folder: it has neither data/, {', '.join(known[:-1])} nor {STATUS_FILE}. A report "
                "needs one of them. Name the run's `trainer.default_root_dir`, say `runs/quickstart`; if its dataset "
                "lies elsewhere, add `--data` and the dataset root."
            )
        return run

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    def summary(self) -> dict[str, Any]:
        """Return the figures of `summary.json`; none where it is missing or damaged."""
        return read_json(self.path / "summary.json")

    def status(self) -> dict[str, Any]:
        """Return what `ReportCallback` noted about the run; nothing where it did not take part."""
        return read_json(self.path / STATUS_FILE)

    def config(self) -> dict[str, Any]:
        """Return the merged config of the run; empty where it is missing or cannot be read."""
        path = self.path / "config.yaml"
        try:
            if path.stat().st_size > MAX_CONFIG_BYTES:
                return {}
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return {}
        return config if isinstance(config, dict) else {}

    def current_sha(self) -> str | None:
        """Name the revision the report tells about: the newest one. None without a dataset or a revision."""
        if self.data_root is None:
            return None
        try:
            return RevisionFiles(self.data_root).current()
        except (OSError, UnicodeDecodeError):
            return None

    def is_running(self) -> bool | None:
        """Whether the run goes on now: by the process that `ReportCallback` noted, or by the owner of the dataset.

        None: not known, because it was noted on another machine and not lately. The lock itself is left alone: holding
        it, however briefly, could make a starting run fail.
        """
        status = self.status()
        pid, host = status.get("pid"), status.get("host")
        if status.get("state") == "running" and isinstance(pid, int) and isinstance(host, str):
            if host != socket.gethostname():
                return True if time.time() - self.noted_at() < FRESH_S else None
            if _is_alive(pid):
                return True
        try:
            text = (self.data_root or self.path).joinpath(".lock").read_text(encoding="utf-8", errors="replace")[:200]
        except OSError:
            return False
        owner = _OWNER.match(text)
        if owner is None or owner[2] != socket.gethostname():
            return False
        return _is_alive(int(owner[1]))

    def noted_at(self) -> float:
        """When `ReportCallback` last noted something, as seconds since 1970; 0 where it never did."""
        try:
            return (self.path / STATUS_FILE).stat().st_mtime
        except OSError:
            return 0.0

    def last_step(self, path: Path) -> float:
        """Return the last step in a file that the run still stands by; infinite where that is not known.

        A run that went on from an earlier checkpoint has left the steps behind it that it has not reached again.

        Args:
            path: A picture, or figures of a logger. While the run goes on, a file written after its last note is newer.
        """
        status = self.status()
        step = status.get("global_step")
        if not isinstance(step, int):
            return math.inf
        ended = status.get("state") in ("finished", "ended early")
        return step if ended or path.stat().st_mtime < self.noted_at() else math.inf

    def _configured_roots(self) -> list[Path]:
        data = self.config().get("data")
        root = data.get("init_args", {}).get("root") if isinstance(data, dict) else None
        return [user_path(root)] if isinstance(root, str) and root.strip() else []


def _is_alive(pid: int) -> bool:
    if pid <= 0:  # would ask a group of processes
        return False
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where the file is missing, too large, torn or something else."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            return {}
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
