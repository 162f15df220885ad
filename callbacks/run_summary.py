"""What a run came to, in one file that tools can read and a few lines that people can."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from torch import Tensor

from evolvedirector.callbacks._run.host_checks import is_smoke_test
from evolvedirector.callbacks.preview import PreviewCallback
from evolvedirector.evaluation.comparisons import is_marked
from evolvedirector.models.embedder import IMAGE_EMBEDDING
from evolvedirector.report.headline import calls_for_evaluation, suite_tables
from evolvedirector.report.summary import SUMMARY_KEYS, without_nan

_MAX_SUMMARY_BYTES = 64 * 2**20
_MAX_WAITING = 1024
_MAX_NOTED_STEPS = 20


@runtime_checkable
class Contributes(Protocol):
    """A callback or module with figures for `summary.json`."""

    def summary_entries(self) -> dict[str, Any]:
        """Return its figures, by name."""
        ...


class RunSummary(pl.Callback):
    """Write `<default_root_dir>/summary.json` after every epoch and at the end, and print the headline figures.

    Other callbacks contribute through a method `summary_entries() -> dict`; a key that nobody contributes is null.
    `images_seen` counts training images over all ranks, `wall_s` the seconds of all runs of this run folder,
    `nonfinite_steps` the steps whose loss or gradient was not finite (of a module that does not count them itself: the
    batches of rank 0 whose loss was not), `nonfinite_at` the first of them. After an error it adds these. At the end
    it prints accuracy by skill with the number of held-out prompts behind it, win rate by teacher, forgetting and
    spending, as far as they were measured, and where the file and the pictures are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._images_seen = 0
        self._wall_s = 0.0
        self._since = 0.0
        self._trained = False
        self._nonfinite_at: list[int] = []
        self._nonfinite_steps = 0
        self._losses: list[tuple[int, Tensor]] = []  # not yet looked at: reading one waits for the device

    def state_dict(self) -> dict[str, Any]:
        """Keep counting across resumes."""
        self._look_at_losses()
        nonfinite = {"nonfinite_steps": self._nonfinite_steps, "nonfinite_at": list(self._nonfinite_at)}
        return {"images_seen": self._images_seen, "wall_s": self._seconds(), **nonfinite}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._images_seen = state_dict["images_seen"]
        self._wall_s = state_dict["wall_s"]
        self._nonfinite_steps = state_dict.get("nonfinite_steps", 0)
        self._nonfinite_at = list(state_dict.get("nonfinite_at", []))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the clock."""
        self._since = time.monotonic()
        self._trained = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all ranks; keep the loss for a look at it."""
        images = next(batch[name] for name in ("image", "latent_mean", IMAGE_EMBEDDING) if name in batch)
        self._images_seen += len(images) * trainer.world_size
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self._losses.append((trainer.global_step, loss.detach().mean()))
        if len(self._losses) >= _MAX_WAITING:
            self._look_at_losses()

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
        if not trainer.is_global_zero or is_smoke_test(trainer) or not path.exists():
            return
        for line in headlines(_read(path)):
            print(line, flush=True)
        previews = [c for c in trainer.callbacks if isinstance(c, PreviewCallback)]  # type: ignore[attr-defined]
        grids = [preview.last_grid for preview in previews if preview.last_grid]
        for grid in grids:
            print(f"Images:  {grid}", flush=True)
        print(f"Summary: {path}", flush=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Add what is counted here to the figures of the last epoch: other callbacks may have let go of theirs."""
        path = Path(trainer.default_root_dir) / "summary.json"
        if isinstance(exception, Exception) and trainer.is_global_zero and self._images_seen:
            earlier = _read(path) if path.exists() else {}
            self._put(path, dict.fromkeys(SUMMARY_KEYS) | earlier | self._counted(trainer))

    def _write(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or is_smoke_test(trainer):
            return
        figures: dict[str, Any] = dict.fromkeys(SUMMARY_KEYS)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Contributes):
                entries = callback.summary_entries()
                tables = {**(figures.get("suites") or {}), **(entries.get("suites") or {})}
                figures |= entries | ({"suites": tables} if tables else {})
        self._put(Path(trainer.default_root_dir) / "summary.json", figures | self._counted(trainer))

    def _counted(self, trainer: pl.Trainer) -> dict[str, Any]:
        self._look_at_losses()
        counted = {"nonfinite_steps": self._nonfinite_steps, "nonfinite_at": list(self._nonfinite_at)}
        module = trainer.lightning_module
        counted |= module.summary_entries() if isinstance(module, Contributes) else {}
        return counted | {"images_seen": self._images_seen, "wall_s": round(self._seconds(), 1)}

    def _look_at_losses(self) -> None:
        if not self._losses:
            return
        flags = torch.stack([loss for _, loss in self._losses]).isfinite().tolist()
        steps = [step for (step, _), is_finite in zip(self._losses, flags, strict=True) if not is_finite]
        self._nonfinite_steps += len(steps)
        self._nonfinite_at = [*self._nonfinite_at, *steps][:_MAX_NOTED_STEPS]
        self._losses.clear()

    @staticmethod
    def _put(path: Path, figures: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(without_nan(figures), indent=2, allow_nan=False) + "\n", encoding="utf-8")
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
        parted = figures.get("accuracy_by_kind") or {}
        shares = [
            f"{skill} {_share(value, intervals.get(skill))}{_resting_on(prompts.get(skill), parted.get(skill))}"
            for skill, value in accuracy.items()
        ]
        shares.append(f"mean {_share(figures.get('accuracy_mean'), figures.get('accuracy_mean_interval'))}")
        lines.append(f"{'Accuracy' if parted else 'Held-out accuracy'}: {', '.join(shares)}")
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
    for name, rows in suite_tables(figures).items():
        row, first = next(iter(rows.items()))
        lines.append(f"{name}: {row} {_share(first['value'], first['interval'])} of {first['of']:,} {first['unit']}")
    if figures.get("teacher_calls") is not None:
        spent = [f"{figures['teacher_calls']:,} teacher calls", f"{figures.get('judge_calls') or 0:,} looks"]
        spent += [f"{figures['cost_usd']:,.2f} USD"] if figures.get("cost_usd") else []
        apart = calls_for_evaluation(figures)
        spent += [f"{apart:,} teacher calls for evaluation"] if apart else []
        lines.append(f"Spent: {', '.join(spent)}")
    if steps := figures.get("nonfinite_steps"):
        lines.append(f"Not finite: loss or gradient of {steps:,} step{'s' * (steps > 1)}, {_at(figures)}")
    return lines


def _at(figures: Mapping[str, Any]) -> str:
    at = figures.get("nonfinite_at") or []
    return f"the first at {', '.join(map(str, at[:3]))}"


def _share(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.2f}" if interval is None else f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _resting_on(prompts: int | None, kinds: Mapping[str, Any] | None) -> str:
    """Say on how few prompts a figure rests (its images may be many), and what it is for each kind of them."""
    if prompts is None:
        return ""
    names = {"held_out": "held-out", "trained": "trained"}
    parts = [f"{kind['share']:.2f} of {kind['prompts']} {names[name]}" for name, kind in (kinds or {}).items()]
    return f" ({prompts} prompt{'' if prompts == 1 else 's'}{': ' if parts else ''}{', '.join(parts)})"


def _read(path: Path) -> dict[str, Any]:
    """Read a summary that may be an earlier run's; what is unreadable says nothing."""
    try:
        figures = json.loads(path.read_bytes()) if path.stat().st_size <= _MAX_SUMMARY_BYTES else {}
    except ValueError:
        return {}
    return figures if isinstance(figures, dict) else {}
