"""Show figures on the screen and in a file; and those that the books of a run hold already."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from evolvedirector.commands.bench_loop_figures import money_json, money_rows
from evolvedirector.commands.console import plain_console
from evolvedirector.errors import UserError
from evolvedirector.report.headline import duration
from evolvedirector.report.loop_money import loop_money
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.summary import without_nan
from evolvedirector.store.durable import write_durably
from evolvedirector.store.paths import user_path


def json_target(written: str | None) -> Path | None:
    """Return the file for the figures; None where nobody wants one.

    Args:
        written: On the command line.

    Raises:
        UserError: Its folder does not exist.
    """
    target = None if written is None else user_path(written)
    if target is not None and not target.parent.is_dir():
        raise UserError(f"--json is {target}, whose folder does not exist. Allowed is a file in a folder that does.")
    return target


def write_figures(target: Path | None, figures: Mapping[str, Any]) -> None:
    """Write figures, and say where.

    Args:
        target: The file. None: nobody wants one.
        figures: Plain values.
    """
    if target is not None and figures:
        write_durably(target, json.dumps(without_nan(figures), indent=2).encode() + b"\n")
        print(f"Figures: {target}")


def show_tables(tables: Mapping[str, Mapping[str, str]]) -> None:
    """Print figures.

    Args:
        tables: Rows by table.
    """
    console = plain_console(None if os.isatty(1) else 120)
    for title, rows in tables.items():
        table = Table("", "", title=title, title_justify="left", title_style="bold", show_header=False, box=None)
        for name, value in rows.items():
            table.add_row(f"  {name}", value)
        console.print(table)


def show_run(options: argparse.Namespace, further: Sequence[str]) -> int:
    """Show what the books of a run say of its loop; nothing is measured, asked or changed.

    Args:
        options: Of the command line.
        further: Words that are none of the bench's own.

    Returns:
        Exit code: 0.

    Raises:
        UserError: The folder is none of a run, its dataset has no books, or words stand beside it.
    """
    if further:
        raise UserError(
            f"--run reads what a run has noted, so {' '.join(further)} beside it means nothing. Allowed beside it is "
            "--json. Leave one of both out."
        )
    target = json_target(options.json)
    run = RunFolder.open(user_path(options.run))
    money = None if run.data_root is None else loop_money(run.data_root)
    if money is None:
        raise UserError(
            f"The run in {run.path} has no dataset with books: nothing was judged or bought in it. Allowed is a run "
            "that evolved its data. Write `--run runs/quickstart`, say."
        )
    summary = run.summary()
    rows: dict[str, str] = {}
    images, wall_s, beside = summary.get("images_seen"), summary.get("wall_s"), summary.get("background") or {}
    if images and wall_s:
        rows["images/s over all"] = (
            f"{images / wall_s:,.1f} ({images:,} trained in {duration(wall_s)}, rounds included)"
        )
    share = beside.get("idle_share")
    if share is not None:
        rows["idle in a round"] = (
            f"{share:.1%}: training waited {beside['waited_s']:,.1f} s for {beside['rounds']} rounds"
        )
    show_tables({f"the run {run.name}": rows} if rows else {})
    show_tables({"an accepted sample": money_rows(money)})
    missing = "" if share is not None else "how long the student waited for rounds, "
    print(f"Not noted by a run: {missing}how fast its parts answered, memory.")
    print(f"`evolvedirector bench -c {run.path / 'config.yaml'}` measures them.")
    figures = {
        "run": run.name,
        "images_per_s": images / wall_s if images and wall_s else None,
        "background": beside or None,
        "loop": {"money": money_json(money)},
    }
    write_figures(target, figures)
    return 0
