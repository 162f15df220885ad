"""What an evaluation without training leaves behind: a table for people, a file for tools."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from evolvedirector.callbacks._run.drawing import averages_weights
from evolvedirector.evaluation.suite import Figure
from evolvedirector.evaluation.table import table_lines
from evolvedirector.report.summary import without_nan


def report_evaluation(
    trainer: pl.Trainer,
    loop: str,
    global_step: int,
    rows: Mapping[str, Mapping[str, Figure]],
    entries: Sequence[Mapping[str, Any]],
) -> None:
    """Print the table, and write `<default_root_dir>/evaluation.json`, whole or not at all; nothing without figures.

    Args:
        trainer: Its run folder and checkpoint. Call it on rank 0.
        loop: `validate` or `test`.
        global_step: Of the weights that were measured.
        rows: Of each suite, by name.
        entries: What each callback would give to `summary.json`.
    """
    lines = table_lines(rows)
    if not lines:
        return
    print("\n".join(lines), flush=True)
    tables = {name: table for of in entries for name, table in of.get("suites", {}).items()}
    figures = {
        "loop": loop,
        "global_step": global_step,
        "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
        "weights": "averaged" if averages_weights(trainer) else "trained",
        **{key: value for of in entries for key, value in of.items()},
        "suites": tables,
    }
    path = Path(trainer.default_root_dir) / "evaluation.json"
    partial = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(without_nan(figures), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        print(f"{path} may not be written, so it is left out: {error.strerror}.", file=sys.stderr)
        return
    print(f"Figures: {path}", flush=True)
