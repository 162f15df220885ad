"""Runs side by side: one table of figures, curves laid over each other, and what each drew for the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolvedirector.report import charts
from evolvedirector.report.gather import gather
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.thumbnails import Thumbnails

MAX_RUNS = 12
_SHARED_CURVES = (
    ("accuracy_mean", "Mean accuracy while training"),
    ("train/loss", "Loss"),
    ("train/images_per_s", "Throughput"),
)
_COUNTS = (
    ("teacher_calls", "Teacher calls", "less"), ("judge_calls", "Looks of the judge", "less"), ("cost_usd", "Cost (USD)", "less"),
    ("rounds", "Rounds", ""), ("live", "Live prompts", ""), ("mastered", "Mastered prompts", ""), ("retired", "Retired prompts", ""),
    ("images_seen", "Training images seen", ""), ("wall_s", "Seconds", "less"),
)  # fmt: skip


def compare_runs(runs: Sequence[RunFolder], thumbnails: Thumbnails) -> dict[str, Any]:
    """Collect what a page shows of several runs.

    Args:
        runs: Two to twelve runs.
        thumbnails: Takes the pictures.

    Raises:
        ValueError: Too few or too many.
    """
    if not 2 <= len(runs) <= MAX_RUNS:
        raise ValueError(f"{len(runs)} runs are to be compared. Allowed: 2 to {MAX_RUNS}. Name that many run folders.")
    pages = [gather(run, Thumbnails(0)) for run in runs]
    names = _names(runs)
    return {
        "names": names,
        "pages": pages,
        "built": pages[0]["built"],
        "runs": {"names": names, "table": _table([page["summary"] for page in pages])},
        "charts": {"compare": _charts(names, pages)},
        "film": _last_frames(runs, names, thumbnails),
        "problems": [
            f"{name}: {said}"
            for name, page in zip(names, pages, strict=True)
            for said in page["problems"]
            if "pictures" not in said
        ],
    }


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """Name runs by their folder, and by the folders above where two have one name."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [str(run.path) for run in runs]


def _table(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with `title`, `unit`, which way is `better`, and one value per run (None: not measured)."""
    rows = [
        _row(
            "Accuracy, mean",
            "share",
            "more",
            [_share(s.get("accuracy_mean"), s.get("accuracy_mean_interval")) for s in summaries],
        )
    ]
    for skill in dict.fromkeys(skill for summary in summaries for skill in summary.get("accuracy") or {}):
        cells = [
            _share((s.get("accuracy") or {}).get(skill), (s.get("accuracy_interval") or {}).get(skill))
            for s in summaries
        ]
        rows.append(_row(f"Accuracy, {skill}", "share", "more", cells))
    for teacher in dict.fromkeys(name for summary in summaries for name in summary.get("win_rate_held_out") or {}):
        rates = [(s.get("win_rate_held_out") or {}).get(teacher) or {} for s in summaries]
        rows.append(
            _row(
                f"Wins against {teacher}",
                "share",
                "more",
                [_share(r.get("win_rate"), r.get("interval")) for r in rates],
            )
        )
    rows += [_row(title, "number", better, [[s.get(key), None] for s in summaries]) for key, title, better in _COUNTS]
    return [row for row in rows if any(value is not None for value, _ in row["cells"])]


def _row(title: str, unit: str, better: str, cells: list[list[Any]]) -> dict[str, Any]:
    return {"title": title, "unit": unit, "better": better, "cells": cells}


def _share(value: float | None, bounds: Sequence[float] | None) -> list[Any]:
    return [value, bounds]


def _charts(names: Sequence[str], pages: Sequence[Mapping[str, Any]]) -> list[charts.Chart]:
    found = []
    grown = [
        {"type": "scatter", "mode": "lines+markers", "name": charts.label(name), "slot": slot, "run": slot,
         "x": list(range(len(page["steps"]))), "y": [step["live"] + step["mastered"] for step in page["steps"]]}
        for slot, (name, page) in enumerate(zip(names, pages, strict=True))
    ]  # fmt: skip
    for key, title in _SHARED_CURVES:
        lines = [
            {"type": "scatter", "mode": "lines", "name": charts.label(name), "slot": slot, "run": slot,
             "x": [step for step, _ in page["curves"].get(key, [])], "y": [value for _, value in page["curves"].get(key, [])]}
            for slot, (name, page) in enumerate(zip(names, pages, strict=True))
        ]  # fmt: skip
        if any(len(line["x"]) > 1 for line in lines):
            found.append(
                charts.chart(key.replace("/", "_"), title, "", lines, xaxis={"title": {"text": "training step"}})
            )
    if any(len(line["x"]) > 1 for line in grown):
        found.append(charts.chart("grown", "Prompts in training", "After each revision of the dataset.", grown))
    return found


def _last_frames(runs: Sequence[RunFolder], names: Sequence[str], thumbnails: Thumbnails) -> list[dict[str, Any]]:
    """Return, for prompts that several runs preview, the last picture of each run."""
    from evolvedirector.report.film import film_of

    by_prompt: dict[str, dict[int, Any]] = {}
    for place, run in enumerate(runs):
        for strip in film_of(run.path, thumbnails):
            by_prompt.setdefault(strip["prompt"], {})[place] = strip["frames"][-1][1]
    return [
        {"prompt": prompt, "frames": [[names[place], found.get(place)] for place in range(len(runs))]}
        for prompt, found in by_prompt.items()
        if len(found) > 1
    ]
