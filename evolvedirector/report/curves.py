"""Training curves from what the loggers of a run wrote: CSV files and TensorBoard events."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from evolvedirector.report.run_folder import RunFolder

MAX_FILE_BYTES = 256 * 2**20
MAX_FILES = 40
_NAMES = ("metrics.csv", "events.out.tfevents.*")
MAX_POINTS = 300
"""Per curve; more cannot be seen. Points in between are averaged."""
MAX_CURVES = 60
Curve = list[tuple[int, float | None]]
"""(step, value); None: not finite, a gap in the line."""


def curves_of(run: RunFolder) -> tuple[dict[str, Curve], list[str]]:
    """Read every scalar that was logged, by name; a step that was logged again by a resumed run counts once.

    Args:
        run: The run; steps that it has left behind are left out.

    Returns:
        The curves as (step, value), and what could not be read. A value that is not finite is None.
    """
    points: dict[str, dict[int, float | None]] = {}
    problems = []
    files = sorted({path for place in _places(run) for name in _NAMES for path in place.glob(name)}, key=_age)
    for path in files[-MAX_FILES:]:
        if path.stat().st_size > MAX_FILE_BYTES:
            problems.append(f"{path.name} has {path.stat().st_size:,} bytes; the first {MAX_FILE_BYTES:,} were read.")
        try:
            last = run.last_step(path)
            for name, step, value in _csv(path) if path.suffix == ".csv" else _events(path):
                if step <= last and (name in points or len(points) < MAX_CURVES):
                    points.setdefault(name, {})[step] = value if math.isfinite(value) else None
        except (OSError, ValueError, KeyError, csv.Error) as error:
            problems.append(f"{path.name} cannot be read to its end ({type(error).__name__}).")
    return {name: thinned(sorted(curve.items())) for name, curve in sorted(points.items())}, problems


def thinned(curve: Curve, most: int = MAX_POINTS) -> Curve:
    """Average neighbours until at most so many points are left; the last step is kept, and so is every gap."""
    count = min(len(curve), most)
    edges = [position * len(curve) // count for position in range(count + 1)] if count else []
    groups = [curve[start:end] for start, end in pairwise(edges)]
    return [(group[-1][0], _mean([value for _, value in group])) for group in groups]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 6) if len(known) == len(values) else None


def _places(run: RunFolder) -> list[Path]:
    """Return the folders that loggers of this run wrote into; a project's folder may hold those of many runs."""
    noted = run.status().get("log_dirs")
    if isinstance(noted, list):
        root = run.path.resolve()
        places = [(root / name).resolve() for name in noted[:MAX_FILES] if isinstance(name, str) and "\0" not in name]
        return [place for place in places if place.is_relative_to(root)]
    logs = run.path / "logs"
    # Lightning's default folder takes every run of a project: only the newest is surely this one
    newest = sorted((run.path / "lightning_logs").glob("version_*"), key=_age)[-1:]
    return [logs, *logs.glob("*/"), *logs.glob("*/*/"), *newest]


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _csv(path: Path) -> Iterator[tuple[str, int, float]]:
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(_first(lines)):
            step = row.get("step")
            if not step:
                continue
            for name, value in row.items():
                if name not in ("step", "epoch", None) and value:
                    yield name, int(float(step)), float(value)


def _first(lines: Iterable[str]) -> Iterator[str]:
    left = MAX_FILE_BYTES
    for line in lines:
        left -= len(line)
        if left < 0:
            return
        yield line


def _events(path: Path) -> Iterator[tuple[str, int, float]]:
    # imported here: it takes a second, and a run with CSV files needs none of it
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    left = MAX_FILE_BYTES
    for event in EventFileLoader(str(path)).Load():  # ends quietly at a record that was cut off
        left -= event.ByteSize()
        if left < 0:
            return
        for value in event.summary.value:
            plugin = value.metadata.plugin_data.plugin_name
            if plugin in ("scalars", "") and value.HasField("tensor") and value.tag not in ("epoch", "hp_metric"):
                numbers = make_ndarray(value.tensor).ravel()
                if numbers.size == 1 and numbers.dtype.kind == "f":
                    yield value.tag, int(event.step), float(numbers[0])
