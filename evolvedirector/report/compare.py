"""Runs side by side: one table of figures, curves laid over each other, and what each drew for the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.report import charts
from evolvedirector.report.embedding_arms import arms_of
from evolvedirector.report.film import film_of
from evolvedirector.report.gather import gather
from evolvedirector.report.headline import accuracy_rows, suite_tables
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.subjects import subjects_of
from evolvedirector.report.thumbnails import Thumbnails

MAX_RUNS = 12
_COUNTS = (
    ("teacher_calls", "Teacher calls", "less"),
    ("lost_calls", "Calls lost on the way", "less"),
    ("judge_calls", "Looks of the judge", "less"),
    ("cost_usd", "Cost (USD)", "less"),
    ("rounds", "Rounds", ""),
    ("live", "Live prompts", ""),
    ("mastered", "Mastered prompts", ""),
    ("retired", "Retired prompts", ""),
    ("images_seen", "Training images seen", ""),
    ("nonfinite_steps", "Steps that were not finite", "less"),
    ("wall_s", "Seconds", "less"),
)
_FAULTS = ("lost_calls", "nonfinite_steps")
"""Shown only where a run has some."""
Page = Mapping[str, Any]


def compare_runs(runs: Sequence[RunFolder], thumbnails: Thumbnails, damaged: Collection[int] = ()) -> dict[str, Any]:
    """Collect what a page shows of several runs.

    Args:
        runs: Two to twelve runs.
        thumbnails: Takes the pictures.
        damaged: Places of runs whose `summary.json` is to be left out.

    Raises:
        UserError: Too few or too many.
    """
    if not 2 <= len(runs) <= MAX_RUNS:
        raise UserError(f"{len(runs)} runs are to be compared. Allowed: 2 to {MAX_RUNS}. Name that many run folders.")
    pages = [gather(run, Thumbnails(0), use_summary=place not in damaged) for place, run in enumerate(runs)]
    names = _names(runs)
    problems = [
        f"{name}: {said}"
        for name, page in zip(names, pages, strict=True)
        for said in page["problems"]
        if "pictures" not in said  # they are not shown here
    ]
    whole = [(name, run) for place, (name, run) in enumerate(zip(names, runs, strict=True)) if place not in damaged]
    return {
        "names": names,
        "pages": pages,
        "built": pages[0]["built"],
        "runs": {"names": names, "table": _table([_figures(page) for page in pages])},
        "charts": {"compare": _charts(names, pages)},
        "film": _last_frames(runs, names, thumbnails),
        "arms": arms_of(whole, thumbnails),
        "subjects": subjects_of(whole, thumbnails),
        "built_pairs": None,  # each run's own page shows them
        "early": [
            [name, page["state"]["says"]] for name, page in zip(names, pages, strict=True) if page["state"]["early"]
        ],
        "problems": problems,
        "artwork": next((page["artwork"] for page in pages if page["artwork"]), ""),
    }


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """Name runs by their folder, and by their path where two have one name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _figures(page: Page) -> dict[str, Any]:
    """Return the figures of `summary.json`; counts that it lacks come from the ledger and the last revision."""
    counted: dict[str, Any] = {}
    if page["spending"]:
        counted = {name: page["spending"][name] for name in ("teacher_calls", "lost_calls", "judge_calls", "cost_usd")}
        counted["rounds"] = sum(row["status"] == "finished" for row in page["story"]["rounds"])
    if page["steps"]:
        counted |= {name: page["steps"][-1][name] for name in ("live", "mastered", "retired")}
    return counted | {name: value for name, value in page["summary"].items() if value is not None}


def _table(summaries: Sequence[Page]) -> list[dict[str, Any]]:
    """Return rows with `title`, `unit`, which way is `better`, and (value, interval) per run; None: not measured."""

    def shares(title: str, of: Callable[[Page], Mapping[str, Any]]) -> dict[str, Any]:
        cells = [[found.get("value"), found.get("interval")] for found in map(of, summaries)]
        return {"title": title, "unit": "share", "better": "more", "cells": cells}

    rows = [
        shares(
            "Accuracy, mean", lambda s: {"value": s.get("accuracy_mean"), "interval": s.get("accuracy_mean_interval")}
        )
    ]
    for name in dict.fromkeys(name for summary in summaries for name, *_ in accuracy_rows(summary)):
        rows.append(shares(f"Accuracy, {name}", lambda s, name=name: _of_skill(s, name)))  # type: ignore[misc]
    for name in _keys(summaries, "win_rate_held_out"):
        rows.append(shares(f"Wins against {name}", lambda s, name=name: _of_teacher(s, name)))  # type: ignore[misc]
    tables = [suite_tables(summary) for summary in summaries]
    names = [(suite, name) for of_run in tables for suite, rows in of_run.items() for name in rows]
    for suite, name in dict.fromkeys(names):
        found = [of_run.get(suite, {}).get(name, {}) for of_run in tables]
        cells = [[row.get("value"), row.get("interval")] for row in found]
        rows.append({"title": f"{suite}, {name}", "unit": "number", "better": "", "cells": cells})
    for key, title, better in _COUNTS:
        if key in _FAULTS and not any(summary.get(key) for summary in summaries):
            continue
        cells = [[summary.get(key), None] for summary in summaries]
        rows.append({"title": title, "unit": "number", "better": better, "cells": cells})
    return [row for row in rows if any(value is not None for value, _ in row["cells"])]


def _keys(summaries: Sequence[Page], figure: str) -> list[str]:
    return list(dict.fromkeys(key for summary in summaries for key in summary.get(figure) or {}))


def _of_skill(summary: Page, wanted: str) -> dict[str, Any]:
    rows = {name: (value, interval) for name, value, interval, _ in accuracy_rows(summary)}
    value, interval = rows.get(wanted, (None, None))
    return {"value": value, "interval": interval}


def _of_teacher(summary: Page, name: str) -> dict[str, Any]:
    rate = (summary.get("win_rate_held_out") or {}).get(name) or {}
    return {"value": rate.get("win_rate"), "interval": rate.get("interval")}


def _charts(names: Sequence[str], pages: Sequence[Page]) -> list[charts.Chart]:
    kinds: list[tuple[str, str, str, str, Callable[[Page], Sequence[tuple[float, float | None]]]]] = [
        ("mean", "Mean accuracy while training", "Read at validations.", "training step",
         lambda page: page["curves"].get("accuracy/mean") or page["curves"].get("accuracy_mean", [])),
        ("calls", "Teacher calls", "Spent up to the end of each round.", "training step",
         _calls),
        ("grown", "Prompts in training", "After each revision of the dataset.", "revision",
         lambda page: [(step["number"], step["live"] + step["mastered"]) for step in page["steps"]]),
        ("loss", "Loss", "", "training step", lambda page: page["curves"].get("train/loss", [])),
        ("throughput", "Throughput", "Training images per second.", "training step",
         lambda page: page["curves"].get("train/images_per_s", [])),
    ]  # fmt: skip
    found = []
    for name, title, note, axis, read in kinds:
        lines = [_line(slot, *item) for slot, item in enumerate(zip(names, map(read, pages), strict=True))]
        if any(len(line["x"]) > 1 for line in lines):
            found.append(charts.chart(name, title, note, lines, xaxis={"title": {"text": axis}}))
    return found


def _calls(page: Page) -> list[tuple[int, int]]:
    return [(row["global_step"], row["teacher_calls"]) for row in page["summary"].get("rounds_detail") or []]


def _line(slot: int, name: str, points: Sequence[tuple[float, float | None]]) -> dict[str, Any]:
    """Return a curve of one run; `run` lets the page hide it."""
    mode = "lines+markers" if len(points) < 40 else "lines"
    x, y = [point[0] for point in points], [point[1] for point in points]
    return {"type": "scatter", "mode": mode, "name": charts.label(name), "slot": slot, "run": slot, "x": x, "y": y}


def _last_frames(runs: Sequence[RunFolder], names: Sequence[str], thumbnails: Thumbnails) -> list[dict[str, Any]]:
    """Return, for prompts that several runs preview, the last picture of each run."""
    by_prompt: dict[str, dict[int, Any]] = {}
    for place, run in enumerate(runs):
        for strip in film_of(run, thumbnails):
            by_prompt.setdefault(strip["prompt"], {})[place] = strip["frames"][-1][1]
    return [
        {"prompt": prompt, "frames": [[names[place], found.get(place)] for place in range(len(runs))], "teacher": None}
        for prompt, found in by_prompt.items()
        if len(found) > 1
    ]
