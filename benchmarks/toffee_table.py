"""Tables and bars of the Toffee benchmark: nothing but what was run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean

from benchmarks.toffee_plan import ARMS, ATTENTIONS, GUIDANCES, JOINT, SEEDS, SUBJECTS_OF_KNOBS, Row
from evolvedirector.pairs.evaluation.questions import TARGET
from evolvedirector.pairs.evaluation.subject_suite import ARMS as WAYS
from evolvedirector.pairs.evaluation.subject_suite import BOX, EDIT, FIGURES, TEXT_ONLY, WORDS

NOT_RUN = "not run"


def report(rows: Sequence[Row], seeds: Sequence[int] = SEEDS) -> str:
    """Return the tables and bars of what was run, and name what was not.

    Args:
        rows: What was run.
        seeds: That count; others are try-outs.
    """
    own = [row for row in rows if row["seed"] in seeds]
    lines = ["Held-out subjects, mean over seeds", ""]
    joint = of(own, JOINT)
    lines += [f"{JOINT}: {_seeds(joint)}", *_table([row["figures"]["held_out"]["arms"] for row in joint]), ""]
    lines += ["Changes made as asked by kind", *_kinds(joint), ""]
    for name, values in (("guidance", GUIDANCES), ("attention", ATTENTIONS)):
        lines += [f"{name}, {BOX}, {SUBJECTS_OF_KNOBS} subjects", *_sweep(joint, name, values), ""]
    lines += ["How it was trained", *_arms(own), ""]
    # try-outs stand in no bar, whichever seeds are shown
    barred = [row for row in own if row["seed"] in SEEDS]
    lines += [f"Bars; {JOINT}: {_seeds(of(barred, JOINT))}", *bars(barred)]
    missing = [
        f"{arm}, seed {seed}" for arm in ARMS for seed in seeds if not any(r["seed"] == seed for r in of(own, arm))
    ]
    lines += ["", f"Not run: {'; '.join(missing) or 'nothing'}."]
    return "\n".join(lines)


def of(rows: Iterable[Row], arm: str) -> list[Row]:
    """Return the runs of one arm.

    Args:
        rows: What was run.
        arm: Its name.
    """
    return [row for row in rows if row["arm"] == arm]


def mean(rows: Sequence[Row], way: str, figure: str, part: str = "held_out", kind: str | None = None) -> float | None:
    """Return the mean of a figure over seeds; None where no run has it.

    Args:
        rows: Of one arm.
        way: What was drawn, or an end.
        figure: Its name.
        part: `held_out` or `trained`.
        kind: Of change. None: over those that count.
    """
    found = []
    for row in rows:
        about = row["figures"].get(part, {"arms": {}, "by_kind": {}})
        arms = about["arms"] if kind is None else about["by_kind"].get(kind, {})
        value = arms.get(way, {}).get(figure, {}).get("value")
        if value is not None:
            found.append(float(value))
    return fmean(found) if found else None


def bars(rows: Sequence[Row]) -> list[str]:
    """Return one line for each bar: its figure, and whether it holds.

    Args:
        rows: What was run.
    """
    joint = of(rows, JOINT)
    words, text = mean(joint, WORDS, "all"), mean(joint, TEXT_ONLY, "all")
    found, known = mean(joint, BOX, "retrieval"), mean(joint, BOX, "retrieval", "trained")
    guided = [
        fmean(float(row["figures"]["guidance"][str(value)][BOX]["to target"]["value"]) for row in joint)
        for value in GUIDANCES
        if joint and all(str(value) in row["figures"]["guidance"] for row in joint)
    ]
    lines = [
        _bar("W, all asked right", words, lambda v: v >= 0.85, "at least .85"),
        _bar("W, all, less than text-only", _less(text, words), lambda v: v <= 0.05, "at most .05"),
        _bar("B, true subject found by pixels", found, lambda v: v >= 0.75, "at least .75"),
        _bar("B, found less than training subjects", _less(known, found), lambda v: v <= 0.05, "at most .05"),
        _bar("B, way from text-only to the exact target", _way(joint, BOX), lambda v: v >= 0.25, "at least .25"),
        _bar("W, way from text-only to the exact target", _way(joint, WORDS), None, "reported"),
        _bar("W, style as asked", mean(joint, WORDS, "all", kind="style"), None, "reported"),
        _bar("edit, all asked right", mean(joint, EDIT, "all"), lambda v: v >= 0.9, "at least .9"),
        _bar("edit, left outside of the mask", mean(joint, EDIT, "left outside"), lambda v: v == 0, "0"),
        _bar("edit, error outside before compositing", mean(joint, EDIT, "error outside"), None, "reported"),
    ]
    if guided:
        rises = all(b >= a for a, b in pairwise(guided))
        said = " ".join(f"{value:.3f}" for value in guided)
        lines.append(
            f"identity over guidance {_list(GUIDANCES)}: {said} ({'holds' if rises else 'does not hold'}: rises)"
        )
    for steps, alone in (("half the steps", True), ("equal steps", False)):
        for use, way in (("generation", BOX), ("editing", EDIT)):
            other = of(rows, f"{use} alone, {steps}")
            shared = {row["seed"] for row in joint} & {row["seed"] for row in other}
            first, second = ([row for row in arm if row["seed"] in shared] for arm in (joint, other))
            for figure in ("retrieval", "all"):
                lead = _less(mean(first, way, figure), mean(second, way, figure))
                rule = (lambda v: v >= 0) if alone else None
                limit = "at least 0" if alone else "reported"
                lines.append(_bar(f"joint less {use} alone, {steps}, {way}, {figure}", lead, rule, limit))
    return lines


def _less(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _way(rows: Sequence[Row], way: str) -> float | None:
    own, text, end = (mean(rows, name, "to target") for name in (way, TEXT_ONLY, TARGET))
    return None if own is None or text is None or end is None or end <= text else (own - text) / (end - text)


def _bar(name: str, value: float | None, holds: Callable[[float], bool] | None, limit: str) -> str:
    if value is None:
        return f"{name}: {NOT_RUN} ({limit})"
    said = "" if holds is None else "holds, " if holds(value) else "does not hold, "
    return f"{name}: {value:.3f} ({said}{limit})"


def _seeds(rows: Sequence[Row]) -> str:
    return f"seeds {', '.join(str(row['seed']) for row in rows)}" if rows else NOT_RUN


def _table(tables: Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]]) -> list[str]:
    names = [name for name in FIGURES if any(name in arm for table in tables for arm in table.values())]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)] if tables else []
    for way in WAYS:
        cells = []
        for name in names:
            values = [table[way][name]["value"] for table in tables if name in table.get(way, {})]
            cells.append(f"{fmean(values):.3f}" if values else "")
        if any(cells):
            lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return lines


def _kinds(rows: Sequence[Row]) -> list[str]:
    kinds = list(rows[0]["figures"]["held_out"]["by_kind"]) if rows else []
    lines = ["| | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)] if kinds else [NOT_RUN]
    for way in WAYS if kinds else ():
        values = [mean(rows, way, "all", kind=kind) for kind in kinds]
        lines.append(f"| {way} | " + " | ".join("" if v is None else f"{v:.3f}" for v in values) + " |")
    return lines


def _sweep(rows: Sequence[Row], name: str, values: Sequence[float]) -> list[str]:
    if not rows:
        return [NOT_RUN]
    figures = ("identity", "to target", "retrieval", "all", "text")
    lines = ["| | " + " | ".join(figures) + " |", "|---|" + "---|" * len(figures)]
    for value in values:
        arms = [row["figures"][name][str(value)].get(BOX, {}) for row in rows]
        means = [[arm[figure]["value"] for arm in arms if figure in arm] for figure in figures]
        lines.append(f"| {value:g} | " + " | ".join(f"{fmean(of):.3f}" if of else "" for of in means) + " |")
    return lines


def _arms(rows: Sequence[Row]) -> list[str]:
    shown = [(BOX, "retrieval"), (BOX, "to target"), (WORDS, "all"), (EDIT, "retrieval"), (EDIT, "all")]
    lines = [
        "| | seeds | " + " | ".join(f"{way}, {name}" for way, name in shown) + " |",
        "|---|---|" + "---|" * len(shown),
    ]
    for arm in ARMS:
        own = of(rows, arm)
        values = [mean(own, way, name) for way, name in shown]
        cells = " | ".join("" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"| {arm} | {len(own) or NOT_RUN} | {cells} |")
    return lines


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
