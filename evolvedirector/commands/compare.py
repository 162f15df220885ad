"""`evolvedirector compare`: the figures of several runs side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from evolvedirector.commands.console import plain_console
from evolvedirector.errors import UserError
from evolvedirector.report.headline import accuracy_rows
from evolvedirector.store.paths import user_path

MAX_BYTES = 16 * 2**20
"""A summary is a few KiB; anything larger is another file."""
_ROWS = (
    ("accuracy_mean", "mean accuracy"),
    ("teacher_calls", "teacher calls"),
    ("judge_calls", "looks"),
    ("rounds", "rounds"),
    ("live", "live prompts"),
    ("images_seen", "images seen"),
    ("wall_s", "seconds"),
)


def main(args: list[str]) -> int:
    """Print accuracy by skill, spending and time of runs, one column each.

    Raises:
        ValueError: A folder holds no summary that can be read.
    """
    parser = argparse.ArgumentParser(
        prog="evolvedirector compare",
        description="Print the figures of finished or running runs side by side, one column per run folder.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder that holds a summary.json")
    folders = [user_path(run) for run in parser.parse_args(args).runs]
    summaries = [read_summary(folder) for folder in folders]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for folder in folders:
        table.add_column(str(folder), justify="right")
    for row in comparison(summaries):
        table.add_row(*row)
    plain_console().print(table)
    return 0


def read_summary(folder: Path) -> dict[str, Any]:
    """Read a run's `summary.json`.

    Raises:
        UserError: It is missing, too large or no summary.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise UserError(
            f"'{folder}' has no summary.json. A run folder has one after its first epoch. Name the run's "
            "`trainer.default_root_dir`, say runs/quickstart."
        )
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"'{path}' has {path.stat().st_size} bytes. Allowed: {MAX_BYTES}. Name another run folder.")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"'{path}' is no JSON ({error}). Run the training again, or name another folder.") from error
    if not isinstance(summary, dict) or "teacher_calls" not in summary:
        raise UserError(f"'{path}' is no summary of a run: it has no teacher_calls. Name another run folder.")
    return summary


def comparison(summaries: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows of the table: a name, then one cell per run; `-` where a run has no such figure."""
    accuracies = [{name: share for name, share, *_ in accuracy_rows(summary)} for summary in summaries]
    skills = dict.fromkeys(skill for accuracy in accuracies for skill in accuracy)
    rows = [[skill, *(_cell(accuracy.get(skill)) for accuracy in accuracies)] for skill in skills]
    return rows + [[title, *(_cell(summary.get(key)) for summary in summaries)] for key, title in _ROWS]


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
