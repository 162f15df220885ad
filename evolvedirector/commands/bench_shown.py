"""Show figures on the screen and in a file; and those that the books of a run hold already."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from evolvedirector.commands.bench_loop_figures import money_json, money_rows, rate_told
from evolvedirector.commands.console import plain_console
from evolvedirector.errors import UserError
from evolvedirector.planning.unasked import EMBEDDED
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
    loop, beside = summary.get("loop") or {}, summary.get("background") or {}
    try:
        parts = {name: of for name, of in (loop.get("parts") or {}).items() if name != "student" and of["seconds"]}
        rates = {name: rate_told(name, of["requests"], of["answers"], of["seconds"]) for name, of in parts.items()}
        idle = _idle(loop, beside, summary)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"The summary.json of {run.path} is damaged: its times cannot be read ({type(error).__name__}: {error}). "
            "Allowed is one that a run has written. Go on with the run, which writes it anew, or delete the file."
        ) from error
    if rates:
        show_tables({f"parts in the rounds of {run.name}": rates})
    if idle:
        show_tables({"the student's time": idle})
    show_tables({"an accepted sample": money_rows(money, play_money(run.config()))})
    if not parts:
        print("How fast its parts answered was not noted by this run, which an earlier version held.")
    print(f"Memory is not noted by a run: `evolvedirector bench -c {run.path / 'config.yaml'}` measures it.")
    told = {"images_seen": summary.get("images_seen"), "wall_s": summary.get("wall_s")}
    figures = {
        "run": run.name,
        **told,
        "background": beside or None,
        "loop": {
            "times_of_last_process": {name: loop.get(name) for name in ("rounds", "rounds_s", "drawing_s", "wall_s")},
            "parts": {name: {**of, "per_s": of["answers"] / of["seconds"]} for name, of in parts.items()},
            "money": money_json(money),
        },
    }
    write_figures(target, figures)
    return 0


def play_money(config: Mapping[str, Any]) -> str:
    """Say behind amounts how far nobody has paid them: teachers of the embedded worlds have prices, too.

    Args:
        config: Of the run, as it was written; empty where it is not known.
    """
    try:
        written = [callback["init_args"] for callback in config["trainer"]["callbacks"] if "init_args" in callback]
        evolution = next(arguments for arguments in written if arguments.get("teachers"))
        asked = [teacher["class_path"] for teacher in evolution["teachers"].values()]
        if (evolution.get("budget") or {}).get("price_per_look_usd"):
            asked.append(evolution["judge"]["class_path"])
    except (AttributeError, KeyError, StopIteration, TypeError):
        return ""
    played = [str(name).startswith(EMBEDDED) for name in asked]
    return "" if not any(played) else " of play money" if all(played) else ", play money included"


def _idle(loop: Mapping[str, Any], beside: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    """Say how long training waited for rounds, in the process that ran last."""
    rows: dict[str, str] = {}
    rounds, took_s, wall_s = loop.get("rounds") or 0, loop.get("rounds_s") or 0.0, loop.get("wall_s") or 0.0
    idle_s = took_s - (loop.get("drawing_s") or 0.0)
    if rounds and took_s:
        rows["idle in a round"] = f"{idle_s / took_s:.1%}: {idle_s:,.1f} s of {took_s:,.1f} s in {rounds:,} rounds"
    if beside.get("idle_share") is not None:
        waited_s = beside["waited_s"]
        rows["idle in a round beside training"] = (
            f"{beside['idle_share']:.1%}: training waited {waited_s:,.1f} s for {beside['rounds']:,} rounds"
        )
        idle_s += waited_s
    if wall_s and rows:
        rows["idle in all"] = f"{idle_s / wall_s:.1%} of {wall_s:,.1f} s, evaluation included"
    images, all_s = summary.get("images_seen"), summary.get("wall_s")
    if images and all_s:
        rows["images/s in all"] = f"{images / all_s:,.1f} ({images:,} trained in {all_s:,.1f} s)"
    return rows
