"""Draw what one round of a finished run did with some of its candidates: `python docs/round_picture.py RUN 5 OUT.png`.

It reads the ledger and the images that the run kept; nothing is drawn or judged again.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from evolvedirector.records import Evidence, Prompt
from evolvedirector.store import Blobs, Ledger

COLUMNS = (
    ("1  write", 0.0),
    ("2  render", 0.37),
    ("3  screen", 0.47),
    ("4  buy", 0.64),
    ("5  check", 0.74),
    ("6  compare", 0.89),
)
OUTCOMES = {
    "shows": ("shows it", "#1b7f4b"),
    "lacks": ("does not show it", "#b3261e"),
    "unreadable": ("unreadable", "#8a6d00"),
    "student": ("student's better", "#1b7f4b"),
    "teacher": ("teacher's better", "#b3261e"),
    "tie": ("tie", "#555555"),
    "invalid": ("unreadable", "#8a6d00"),
}
"""Words and colour of each reading and verdict."""


def main() -> None:
    """Read the words, draw the picture."""
    parser = argparse.ArgumentParser(description="Draw what one round did with some of its candidates.")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("round", type=int, help="index of the round, from 0")
    parser.add_argument("out", type=Path, help="picture to write")
    parser.add_argument("--bought", type=int, default=4, help="bought candidates shown at most")
    parser.add_argument("--others", type=int, default=3, help="other candidates shown at most")
    options = parser.parse_args()
    ledger = Ledger(options.run / "data" / "ledger.sqlite")
    try:
        rows = candidates(ledger, options.round, options.bought, options.others)
        draw(rows, Blobs(options.run / "data"), options.out)
    finally:
        ledger.close()


def candidates(ledger: Ledger, index: int, bought: int, others: int) -> list[dict[str, Any]]:
    """List the screened candidates to show: first those that were not bought, each with what is known of it."""
    round_id = sorted(ledger.rounds.all(), key=lambda row: row.number)[index].round_id
    prompts = ledger.prompts.all()
    known: dict[str, dict[str, Any]] = {}
    for item in ledger.looks.evidence(round_id):
        row = known.setdefault(item.prompt_id, {"prompt": prompts.get(item.prompt_id)})
        row[item.kind] = item
    rows = [row for row in known.values() if "screen" in row and row["prompt"]]
    for row in rows:
        prompt: Prompt = row["prompt"]
        row["parent"] = prompts[prompt.parent_id].text if prompt.parent_id else None
    # unreadable ones first, so that one is in the picture where there is any
    spared = sorted(
        (row for row in rows if "faithfulness" not in row), key=lambda row: row["screen"].reading, reverse=True
    )
    return spared[:others] + [row for row in rows if "faithfulness" in row][:bought]


def draw(rows: list[dict[str, Any]], blobs: Blobs, out: Path) -> None:
    """Draw one line per candidate."""
    figure = plt.figure(figsize=(11, 0.9 * len(rows) + 0.5), dpi=140)
    axes = figure.add_axes((0.01, 0.0, 0.98, 1.0))
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) + 0.5, 0)
    axes.axis("off")
    for title, x in COLUMNS:
        axes.text(x, 0.25, title, weight="bold", va="center")
    for line, row in enumerate(rows):
        _line(axes, line + 1.0, row, blobs)
    figure.savefig(out)


def _line(axes: Any, y: float, row: dict[str, Any], blobs: Blobs) -> None:
    prompt: Prompt = row["prompt"]
    origin = f"expansion of “{row['parent']}”" if row["parent"] else prompt.origin
    axes.axhline(y - 0.5, color="#dddddd", linewidth=0.8)
    axes.text(0, y - 0.14, prompt.text, va="center", size=11)
    axes.text(0, y + 0.2, origin, va="center", size=8.5, color="#555555")
    screen: Evidence = row["screen"]
    _image(axes, 0.40, y, blobs.get(str(screen.student_sha256)))
    _outcome(axes, 0.47, y, screen)
    if (check := row.get("faithfulness")) is None:
        axes.text(0.64, y, "not bought", va="center", size=10, color="#555555")
        return
    _image(axes, 0.67, y, blobs.get(check.teacher_sha256))
    _outcome(axes, 0.74, y, check)
    if compare := row.get("compare"):
        _outcome(axes, 0.89, y, compare)


def _outcome(axes: Any, x: float, y: float, item: Evidence) -> None:
    words, colour = OUTCOMES[item.reading or item.verdict or "invalid"]
    axes.text(x, y, words, va="center", size=10, color=colour)


def _image(axes: Any, x: float, y: float, image: bytes) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    box = axes.inset_axes((x - 0.03, y - 0.42, 0.06, 0.84), transform=axes.transData)
    box.imshow(pixels, interpolation="nearest")
    box.set_xticks([])
    box.set_yticks([])


if __name__ == "__main__":
    main()
