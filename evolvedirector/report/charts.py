"""The charts as plain plotly figures; colours are slots of a palette that follows light and dark in the page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from evolvedirector.report.curves import Curve
from evolvedirector.report.headline import accuracy_rows

Chart = dict[str, Any]
_SHARE: dict[str, Any] = {"range": [-0.02, 1.02], "tickformat": ".0%"}
_TRAINING = {
    "train/loss": ("Loss", "What training minimises; it is noisy, and not comparable between objectives."),
    "train/images_per_s": ("Throughput", "Training images per second; rounds are not counted."),
    "train/learning_rate": ("Learning rate", ""),
    "train/gradient_norm": ("Gradient norm", "Before clipping."),
}


_GAPS = "A cross stands where the value is not finite (NaN or infinite)."


def chart(name: str, title: str, note: str, traces: list[dict[str, Any]], **layout: Any) -> Chart:
    """Return one chart for the page.

    Args:
        name: Its id there.
        title: What it shows.
        note: How to read it.
        traces: Plotly traces; `slot` is a place in the palette.
        layout: Plotly layout.
    """
    return {"id": name, "title": title, "note": note, "traces": traces, "layout": layout}


def label(text: str, most: int = 40) -> str:
    """Return a text that plotly draws as it is: it reads some HTML, and names come from users."""
    text = text if len(text) <= most else text[: most - 1] + "…"
    return html.escape(text, quote=False)


def shares_with_intervals(
    name: str, title: str, note: str, rows: Sequence[tuple[str, float, Sequence[float] | None, str]], draw: bool = False
) -> Chart | None:
    """Draw shares as dots with their 95 % intervals, one row each; None without rows.

    Args:
        name: Id of the chart.
        title: What it shows.
        note: How to read it.
        rows: Name, share, interval and what it rests on.
        draw: Mark one half.
    """
    if not rows:
        return None
    rows = list(reversed(rows))  # plotly counts from below
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [share for _, share, _, _ in rows],
        "y": [label(text) for text, *_ in rows],
        "slot": 0,
        "marker": {"size": 11},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, bounds[1] - share) if bounds else 0 for _, share, bounds, _ in rows],
            "arrayminus": [max(0.0, share - bounds[0]) if bounds else 0 for _, share, bounds, _ in rows],
            "thickness": 2,
            "width": 6,
        },
        "customdata": [label(basis) for *_, basis in rows],
        "hovertemplate": "%{y}: %{x:.0%} %{customdata}<extra></extra>",
    }
    layout: dict[str, Any] = {"xaxis": dict(_SHARE), "height": 70 + 44 * len(rows), "showlegend": False}
    layout["yaxis"] = {"automargin": True, "type": "category"}
    if draw:
        layout["vline"] = 0.5
    return chart(name, title, note, [trace], **layout)


def shares_over_rounds(
    name: str, title: str, note: str, lines: Mapping[str, Sequence[tuple[int, float, Sequence[float], str]]]
) -> Chart | None:
    """Draw shares over rounds with their 95 % intervals, one line each; None without lines.

    Args:
        name: Id of the chart.
        title: What it shows.
        note: How to read it.
        lines: By name: round, share, interval and what it rests on.
    """
    traces = []
    for slot, (said, points) in enumerate(lines.items()):
        x = [round_ + 0.06 * (slot - (len(lines) - 1) / 2) for round_, *_ in points]  # bars side by side
        line = _line(slot, label(said), x, [share for _, share, *_ in points])
        line["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, bounds[1] - share) for _, share, bounds, _ in points],
            "arrayminus": [max(0.0, share - bounds[0]) for _, share, bounds, _ in points],
            "thickness": 1,
            "width": 3,
        }
        line["customdata"] = [basis for *_, basis in points]
        line["hovertemplate"] = f"{label(said)}: %{{y:.0%}} %{{customdata}}<extra></extra>"
        traces.append(line)
    return chart(name, title, note, traces, yaxis=dict(_SHARE), xaxis=_rounds()) if traces else None


def accuracy_chart(summary: Mapping[str, Any]) -> Chart | None:
    """Draw the accuracy of the last reading by skill; None where it was not measured."""
    rows = [(name, share, bounds, _on(prompts)) for name, share, bounds, prompts in accuracy_rows(summary)]
    note = "Share of images of new prompts that show what was asked. The line is the 95 % interval."
    if summary.get("accuracy_by_kind"):
        note = (
            "Share of images that show what was asked. Skills of few kinds are read on all of them: those held out, "
            "and those that training may have met. The line is the 95 % interval."
        )
    return shares_with_intervals("accuracy", "Accuracy by skill", note, rows)


def win_rate_chart(summary: Mapping[str, Any]) -> Chart | None:
    """Draw the win rate against each teacher on held-out prompts; None where it was not measured."""
    rates = summary.get("win_rate_held_out") or {}
    rows = [
        (name, rate["win_rate"], rate.get("interval"), _on(rate.get("prompts")))
        for name, rate in rates.items()
        if rate.get("win_rate") is not None
    ]
    note = "How often the student's image beats the teacher's for the same new prompt; the dashed line is a draw."
    return shares_with_intervals("win_rate", "Wins against each teacher", note, rows, draw=True)


def dataset_chart(steps: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Chart | None:
    """Draw how many prompts are in training after each revision; None with none."""
    if not steps:
        return None
    traces = [
        {"type": "bar", "name": word, "x": list(names), "y": [step[word] for step in steps], "slot": slot}
        for slot, word in ((0, "live"), (1, "mastered"))
        if word == "live" or any(step[word] for step in steps)
    ]
    traces.append(
        {
            "type": "scatter", "mode": "lines", "name": "retired (not trained on)", "slot": 7, "x": list(names),
            "y": [step["retired"] for step in steps], "line": {"dash": "dot"},
        }
    )  # fmt: skip
    note = "Live prompts are trained on, mastered ones are only repeated now and then, retired ones are left out."
    return chart("dataset", "Dataset over rounds", note, traces, barmode="stack", xaxis=_rounds("category"))


def rounds_charts(rounds: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Draw what the rounds measured and bought: failure by skill, purchases by teacher, health of the judge."""
    charts = []
    x = [row["number"] for row in rounds]
    skills = list(dict.fromkeys(skill for row in rounds for skill in row["looked_by_skill"]))
    if skills:
        lines = [_line(s, label(k), x, [_ratio(row, k) for row in rounds]) for s, k in enumerate(skills)]
        note = "Share of images that the judge rejected: of prompts never trained on, and of probes of trained ones."
        charts.append(chart("failures", "What the student fails", note, lines, yaxis=dict(_SHARE), xaxis=_rounds()))
    teachers = list(dict.fromkeys(name for row in rounds for name in row["calls"]))
    if teachers:
        bars = [
            {
                "type": "bar",
                "name": label(name),
                "slot": slot,
                "x": x,
                "y": [row["calls"].get(name, 0) for row in rounds],
            }
            for slot, name in enumerate(teachers)
        ]
        note = "Images asked of each teacher; only what the student failed is bought."
        charts.append(chart("bought", "Bought in each round", note, bars, barmode="stack", xaxis=_rounds()))
    measures = [
        ("error", "wrong looks (estimate)"),
        ("sensitivity", "sensitivity (gold images that lack their prompt)"),
        ("specificity", "specificity (gold images that show it)"),
        ("agreement", "right on gold images"),
        ("swap consistency", "same answer in both orders"),
        ("unreadable", "unreadable replies"),
        ("position bias", "position bias"),
    ]
    lines = [
        _line(slot, said, x, [row["health"].get(key) for row in rounds])
        for slot, (key, said) in enumerate(measures)
        if any(key in row["health"] for row in rounds)
    ]
    if lines:
        note = "Measured at the start of each round with questions whose answer is known."
        charts.append(chart("judge", "Health of the judge", note, lines, yaxis={"tickformat": ".0%"}, xaxis=_rounds()))
    return charts


def spending_chart(by_skill: Mapping[str, Mapping[str, Sequence[float]]]) -> Chart | None:
    """Draw calls by skill and teacher; None where nothing was bought."""
    teachers = list(dict.fromkeys(name for cells in by_skill.values() for name in cells))
    if not teachers:
        return None
    bars = [
        {
            "type": "bar", "orientation": "h", "name": label(name), "slot": slot,
            "y": [label(skill) for skill in by_skill],
            "x": [by_skill[skill].get(name, (0, 0))[0] for skill in by_skill],
            "customdata": [by_skill[skill].get(name, (0, 0))[1] for skill in by_skill],
            "hovertemplate": "%{y}: %{x} calls, $%{customdata:.2f}",
        }
        for slot, name in enumerate(teachers)
    ]  # fmt: skip
    height = 120 + 36 * len(by_skill)
    note = "Teacher calls by skill and teacher, seeds included; money in the hover text."
    axis = {"automargin": True, "type": "category"}
    return chart("spending", "Spent on each skill", note, bars, barmode="stack", height=height, yaxis=axis)


def training_charts(curves: Mapping[str, Curve]) -> list[Chart]:
    """Draw what the loggers kept: accuracy while training, loss, throughput, and every other curve."""
    charts = []
    told = ("rounds/", "dataset/", "judge/", "cost/", "final_accuracy")  # the ledger tells it better
    curves = {name: curve for name, curve in curves.items() if not name.startswith(told)}
    reading = {name: curve for name, curve in curves.items() if name.startswith("accuracy")}
    if any(len(curve) > 1 for curve in reading.values()):
        lines = [
            _line(slot, label(_skill(name)), *zip(*curve, strict=True))
            for slot, (name, curve) in enumerate(sorted(reading.items(), key=lambda item: _skill(item[0]) == "mean"))
        ]
        note = "Read at validations, one image per prompt; the figures at the top are read more thoroughly."
        charts.append(chart("learning", "Accuracy while training", note, lines, yaxis=dict(_SHARE), xaxis=_steps()))
    taken = set(reading)
    rest = [name for name in curves if name not in taken and name not in _TRAINING and len(curves[name]) > 1]
    for place, name in enumerate([*(n for n in _TRAINING if len(curves.get(n, [])) > 1), *rest]):
        title, note = _TRAINING.get(name, (label(name), ""))
        line = _line(0, title, *zip(*curves[name], strict=True))
        line["mode"] = "lines"
        marks = gap_marks(curves[name])
        note = " ".join(filter(None, (note, _GAPS if marks else "")))
        charts.append(chart(f"curve{place}", title, note, [line, *marks], xaxis=_steps(), showlegend=False))
    return charts


def gap_marks(curve: Curve) -> list[dict[str, Any]]:
    """Return crosses at the foot of a chart for values that are not finite; nothing where all are."""
    known = [value for _, value in curve if value is not None]
    steps = [step for step, value in curve if value is None]
    if not steps:
        return []
    foot = min(known, default=0.0)
    mark = _line(5, "not finite", steps, [foot] * len(steps))
    return [mark | {"mode": "markers", "marker": {"symbol": "x", "size": 9}, "hovertemplate": "step %{x}: not finite"}]


def _skill(name: str) -> str:
    return "mean" if name in ("accuracy_mean", "accuracy/mean") else name.removeprefix("accuracy/")


def _line(slot: int, name: str, x: Sequence[float], y: Sequence[float | None]) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines+markers", "name": name, "slot": slot, "x": list(x), "y": list(y)}


def _ratio(row: Mapping[str, Any], skill: str) -> float | None:
    looked = row["looked_by_skill"].get(skill)
    return row["failed_by_skill"][skill] / looked if looked else None


def _on(prompts: int | None) -> str:
    return "" if prompts is None else f"({prompts:,} prompts)"


def _rounds(kind: str = "linear") -> dict[str, Any]:
    return {"title": {"text": "round"}, "type": kind, "tickangle": 0}


def _steps() -> dict[str, Any]:
    return {"title": {"text": "training step"}}
