"""What a run came to, in one file that tools can read and a few lines that people can."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl

from evolvedirector.callbacks.preview import PreviewCallback
from evolvedirector.evaluation.judge_gap import is_marked
from evolvedirector.report.summary import SUMMARY_KEYS

_MAX_SUMMARY_BYTES = 64 * 2**20


@runtime_checkable
class Contributes(Protocol):
    """A callback with figures for `summary.json`."""

    def summary_entries(self) -> dict[str, Any]:
        """Return its figures, by name."""
        ...


class RunSummary(pl.Callback):
    """Write `<default_root_dir>/summary.json` after every epoch and at the end, and print the headline figures.

    Other callbacks contribute through a method `summary_entries() -> dict`; a key that nobody contributes is null.
    `images_seen` counts training images over all ranks, `wall_s` the seconds of all runs of this run folder. At the end
    it prints accuracy by skill with the number of held-out prompts behind it, win rate by teacher, forgetting and
    spending, as far as they were measured, and where the file and the pictures are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._images_seen = 0
        self._wall_s = 0.0
        self._since = 0.0
        self._trained = False

    def state_dict(self) -> dict[str, Any]:
        """Keep counting across resumes."""
        return {"images_seen": self._images_seen, "wall_s": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._images_seen = state_dict["images_seen"]
        self._wall_s = state_dict["wall_s"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the clock."""
        self._since = time.monotonic()
        self._trained = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all ranks."""
        self._images_seen += len(batch["image"]) * trainer.world_size

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what is known so far."""
        self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last figures."""
        self._write(trainer)
        self._trained = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what came out and where to look; also when the run was over before it began."""
        if self._trained:  # again: callbacks after this one in the list have their last figures only now
            self._write(trainer)
        path = Path(trainer.default_root_dir) / "summary.json"
        if not trainer.is_global_zero or not path.exists():
            return
        for line in headlines(_read(path)):
            print(line, flush=True)
        previews = [c for c in trainer.callbacks if isinstance(c, PreviewCallback)]  # type: ignore[attr-defined]
        grids = [preview.last_grid for preview in previews if preview.last_grid]
        for grid in grids:
            print(f"Images:  {grid}", flush=True)
        print(f"Summary: {path}", flush=True)

    def _write(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        figures: dict[str, Any] = dict.fromkeys(SUMMARY_KEYS)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Contributes):
                figures |= callback.summary_entries()
        figures |= {"images_seen": self._images_seen, "wall_s": round(self._seconds(), 1)}
        path = Path(trainer.default_root_dir) / "summary.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)

    def _seconds(self) -> float:
        return self._wall_s + (time.monotonic() - self._since if self._since else 0.0)


def headlines(figures: Mapping[str, Any]) -> list[str]:
    """Return the few lines that a run ends with: what was measured, each share with its 95 % interval.

    Args:
        figures: The content of `summary.json`; what was not measured is left out.
    """
    lines = []
    if accuracy := figures.get("accuracy"):
        intervals = figures.get("accuracy_interval") or {}
        prompts = figures.get("accuracy_prompts") or {}
        shares = [
            f"{skill} {_share(value, intervals.get(skill))}{_resting_on(prompts.get(skill))}"
            for skill, value in accuracy.items()
        ]
        shares.append(f"mean {_share(figures.get('accuracy_mean'), figures.get('accuracy_mean_interval'))}")
        lines.append(f"Held-out accuracy: {', '.join(shares)}")
    if rates := figures.get("win_rate_held_out"):
        won = [f"{name} {_share(r['win_rate'], r['interval'])} of {r['prompts']}" for name, r in rates.items()]
        lines.append(f"Win rate against: {', '.join(won)}")
    for name, seen in (figures.get("win_rate_by_training_judge") or {}).items():
        if is_marked(seen["difference"]):
            points = f"{100 * seen['difference']:+.0f} points"
            lines.append(f"Judges diverge: win rate against {name} {points} by the judge of the training data")
    if forgetting := figures.get("forgetting"):
        share = _share(forgetting["share"], forgetting["interval"])
        lines.append(f"Forgotten: {share} of {forgetting['prompts']} mastered prompts")
    if figures.get("teacher_calls") is not None:
        spent = [f"{figures['teacher_calls']:,} teacher calls", f"{figures.get('judge_calls') or 0:,} looks"]
        spent += [f"{figures['cost_usd']:,.2f} USD"] if figures.get("cost_usd") else []
        apart = figures.get("evaluation_teacher_calls")
        spent += [f"{apart:,} teacher calls for evaluation"] if apart else []
        lines.append(f"Spent: {', '.join(spent)}")
    return lines


def _share(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.2f}" if interval is None else f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _resting_on(prompts: int | None) -> str:
    """Say on how few prompts a figure rests; its images may be many."""
    return "" if prompts is None else f" ({prompts} prompt{'' if prompts == 1 else 's'})"


def _read(path: Path) -> dict[str, Any]:
    """Read a summary that may be an earlier run's; what is unreadable says nothing."""
    try:
        figures = json.loads(path.read_bytes()) if path.stat().st_size <= _MAX_SUMMARY_BYTES else {}
    except ValueError:
        return {}
    return figures if isinstance(figures, dict) else {}
