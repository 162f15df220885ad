"""The committed run folders of an earlier day, copied, and what the commands print and write about them as figures.

Figures are read from public output alone: the table of `data show`, the page of `report`, summary.json, a logger's
CSV, preview frames. Whoever rewords an output changes how it is read here, and none of the values beside it.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evolvedirector.cli import main

FOLDER = Path(__file__).parent
_NAME_OR_NUMBER = re.compile(r"<bdi>(.*?)</bdi>|(\d+(?:,\d{3})*(?:\.\d+)?)")


def copied(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy `old_run` or `old_ledger` into a folder and make that the current one: their paths are relative."""
    shutil.copytree(FOLDER / name, folder, dirs_exist_ok=True)
    monkeypatch.chdir(folder)
    return folder


def expected(name: str) -> Any:
    """Read what the code of that day gave for a committed folder."""
    return json.loads((FOLDER / "old_figures" / f"{name}.json").read_text(encoding="utf-8"))


def expected_frames(step: int) -> dict[str, np.ndarray]:
    """Read the preview frames that the code of that day drew at a step, by prompt, uint8 [height, width, 3]."""
    found = (FOLDER / "old_figures").glob(f"* at step {step}.png")
    return {path.stem.partition(" at ")[0]: np.asarray(Image.open(path)) for path in found}


def shown(root: str, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, str]:
    """Return what `data show` prints, by the name of the row; sizes on disk are left out."""
    capsys.readouterr()
    assert main(["data", "show", root, *options]) in (None, 0)
    rows = [line.strip("│ ").split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    return {name.strip(): value.strip() for name, value in rows if name.strip() != "disk"}


def page_of(run: str) -> str:
    """Write the report of a run and return its page."""
    assert main(["report", run]) in (None, 0)
    return Path(run, "report/index.html").read_text(encoding="utf-8")


def rounds_told(page: str) -> list[dict[str, str]]:
    """Return, for each round that a page tells, names and figures in order by label (`Screened`, `Compared`, ...)."""
    told = []
    for block in re.findall(r'<details class="round .*?</details>', page, flags=re.DOTALL):
        figures = {"gist": _figures(re.findall(r"<summary>(.*?)</summary>", block, flags=re.DOTALL)[0])}
        for label, text in re.findall(r"<li><b>(.*?):</b>(.*?)</li>", block, flags=re.DOTALL):
            figures[label] = _figures(text)
        skills = re.findall(r"<tr><td><bdi>(.*?)</bdi></td><td>(\d+)</td><td>(\d+)", block)
        told.append(figures | {f"skill {skill}": f"{looked} {failed}" for skill, looked, failed in skills})
    return told


def _figures(text: str) -> str:
    return " ".join(name or number for name, number in _NAME_OR_NUMBER.findall(text))


_VERDICT_OF_THEN = {"shows": "student", "lacks": "teacher", "unreadable": "invalid"}
"""On that day an image that shows its prompt was called `student`: the recorded counts are by those words."""


def verdicts_told(page: str) -> dict[str, int]:
    """Count the pairs that a page shows by what came of them, in the words of that day."""
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    pairs = json.loads(found[0])["pairs"]["pairs"]
    outcomes = [pair["verdict"] if "verdict" in pair else pair["reading"] for pair in pairs]
    verdicts = [_VERDICT_OF_THEN.get(outcome, outcome) for outcome in outcomes]
    return {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))}


def losses_of(run: str) -> dict[str, float]:
    """Return the losses in the newest CSV of a run, by step."""
    newest = max(Path(run, "logs").glob("version_*"), key=lambda path: int(path.name.partition("_")[2]))
    with (newest / "metrics.csv").open(newline="") as file:
        return {row["step"]: float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}


def frames_of(run: str, step: int) -> dict[str, np.ndarray]:
    """Return the preview frames of a step by prompt, uint8 [height, width, 3]."""
    return {
        (path.parent / "prompt.txt").read_text(): np.asarray(Image.open(path))
        for path in Path(run, "previews/frames").glob(f"*/step-{step:08d}.png")
    }


def files_below(folder: str) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
