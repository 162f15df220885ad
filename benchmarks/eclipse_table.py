"""Tables of the ECLIPSE benchmark: nothing but what was run, and nothing at all below the gate. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean

from benchmarks.eclipse_plan import (
    LAMBDAS,
    PRIOR_SEEDS,
    SIZES,
    SPACE_SEEDS,
    TRAINED,
    Row,
    mean_over_seeds,
)

GATE = 0.93
LEAD = 0.03
NOISE = 0.02
NOT_RUN = "not run"
_FIGURES = ("accuracy", "cosine_to_text", "cosine_to_image", "squared_distance", "norm", "hard_negatives")


def report(rows: Sequence[Row], spaces: Sequence[int] = SPACE_SEEDS) -> str:
    """Return the tables and bars of what was run.

    Args:
        rows: What was run.
        spaces: Seeds of the spaces that were planned.
    """
    lines: list[str] = []
    for space in spaces:
        own = [row for row in rows if row["space"] == space]
        lines += _space_lines(space, own)
    open_spaces = [space for space in spaces if _gate_of(rows, space) is not None and _passes(rows, space)]
    lines += ["", "Bars", *bars([row for row in rows if row["space"] in open_spaces], open_spaces)]
    return "\n".join(lines)


def of(rows: Iterable[Row], **fields: object) -> list[Row]:
    """Return the rows with these fields.

    Args:
        rows: What was run.
        fields: Of a job, with their values.
    """
    return [row for row in rows if all(row.get(name) == value for name, value in fields.items())]


def _gate_of(rows: Sequence[Row], space: int) -> float | None:
    return mean_over_seeds(of(rows, space=space, part="final", arm="true"), "accuracy")


def _passes(rows: Sequence[Row], space: int) -> bool:
    gate = _gate_of(rows, space)
    return gate is not None and gate >= GATE


def _space_lines(space: int, rows: Sequence[Row]) -> list[str]:
    gate = _gate_of(rows, space)
    title = f"\nJoint space {space}: true embeddings of withheld scenes read right"
    if gate is None:
        return [f"{title}: {NOT_RUN}; no figure is shown without it."]
    if gate < GATE:
        return [f"{title} {gate:.3f}, below the gate of {GATE}: no other figure is shown."]
    lines = [f"{title} {gate:.3f} (gate {GATE})", ""]
    lines.append(f"{'pairs':>5}  {'arm':<30} {'seeds':>5}  " + "  ".join(f"{name:>16}" for name in _FIGURES))
    for arm in ("true", "text"):
        lines.append(_line("", arm, of(rows, part="final", arm=arm)))
    for pairs in SIZES:
        for arm in ("ridge", *TRAINED):
            lines.append(_line(str(pairs), arm, of(rows, part="final", arm=arm, pairs=pairs)))
        sweep = _sweep(of(rows, part="final", arm="diffusion", pairs=pairs))
        if sweep:
            lines.append(f"{pairs:>5}  diffusion by guidance: {sweep}")
    lines += ["", f"lambda at {SIZES[0]} pairs (sum, tau .07)"]
    for weight in LAMBDAS:
        lines.append(_line("", f"lambda {weight:g}", of(rows, part="curve", weight=weight)))
    return lines


def _line(pairs: str, arm: str, rows: Sequence[Row]) -> str:
    if not rows:
        return f"{pairs:>5}  {arm:<30} {NOT_RUN}"
    first = rows[0]
    tuned = []
    if first["part"] == "final" and first["arm"] == "eclipse":
        tuned.append(f"lambda {first['weight']:g}")
    if first["arm"] == "ridge":
        tuned.append(f"penalty {first['choice']:g}")
    if first["arm"] == "diffusion":
        tuned.append(f"guidance {first['choice']:g}")
    if first["part"] == "final" and first["rate"]:
        tuned.append(f"lr {first['rate']:g}")
    name = f"{arm} ({', '.join(tuned)})" if tuned else arm
    cells = "  ".join(f"{mean_over_seeds(rows, figure):>16.3f}" for figure in _FIGURES)
    return f"{pairs:>5}  {name:<30} {len(rows):>5}  {cells}"


def _sweep(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return ", ".join(
        f"{guidance} {fmean(float(row['figures']['sweep'][guidance]) for row in rows):.3f}"
        for guidance in rows[0]["figures"]["sweep"]
    )


def bars(rows: Sequence[Row], spaces: Sequence[int]) -> list[str]:
    """Return each bar as held, not held, or not run, with its figures.

    Args:
        rows: Of spaces over the gate.
        spaces: Their seeds.
    """
    if not spaces:
        return [f"{NOT_RUN}: no joint space is over the gate."]
    said = []
    for space in spaces:
        own = of(rows, space=space)
        said += [
            _lead(own, space),
            *(_cosine(own, space, pairs) for pairs in SIZES),
            *_curve(own, space),
            *(_noise(own, space, pairs) for pairs in SIZES),
        ]
    return said


def _paired(rows: Sequence[Row], pairs: int, figure: str) -> list[float] | None:
    """Return ECLIPSE minus projection by seed; None while a seed is missing."""
    found = []
    for seed in PRIOR_SEEDS:
        both = [of(rows, part="final", arm=arm, pairs=pairs, seed=seed) for arm in ("eclipse", "projection")]
        if not all(both):
            return None
        found.append(float(both[0][0]["figures"][figure]) - float(both[1][0]["figures"][figure]))
    return found


def _said(space: int, bar: str, held: bool | None, figures: str = "") -> str:
    verdict = NOT_RUN if held is None else "held" if held else "NOT HELD"
    return f"  space {space}: {bar}: {verdict}{' ' if figures else ''}{figures}"


def _signed(values: Iterable[float]) -> str:
    return " ".join(f"{value:+.3f}" for value in values)


def _lead(rows: Sequence[Row], space: int) -> str:
    bar = f"ECLIPSE over projection at {SIZES[0]} pairs in every seed, mean at least +{LEAD:.2f}"
    found = _paired(rows, SIZES[0], "accuracy")
    if found is None:
        return _said(space, bar, None)
    return _said(space, bar, min(found) > 0 and fmean(found) >= LEAD, f"(mean {fmean(found):+.3f}; {_signed(found)})")


def _cosine(rows: Sequence[Row], space: int, pairs: int) -> str:
    bar = f"cosine to the text above projection's in every seed at {pairs} pairs"
    found = _paired(rows, pairs, "cosine_to_text")
    return _said(space, bar, None if found is None else min(found) > 0, "" if found is None else f"({_signed(found)})")


def _curve(rows: Sequence[Row], space: int) -> list[str]:
    by_weight = [of(rows, part="curve", weight=weight) for weight in LAMBDAS]
    bars_said = (
        "text cosine rises with lambda all along the curve",
        "squared distance at the largest lambda above that of lambda 0",
        "accuracy at the largest lambda below that of lambda 0",
    )
    if any(len(found) < len(PRIOR_SEEDS) for found in by_weight):
        return [_said(space, bar, None) for bar in bars_said]

    def values(figure: str) -> list[float]:
        return [fmean(float(row["figures"][figure]) for row in found) for found in by_weight]

    cosines, distances, accuracies = (values(n) for n in ("cosine_to_text", "squared_distance", "accuracy"))
    held = (
        all(before < after for before, after in pairwise(cosines)),
        distances[-1] > distances[0],
        accuracies[-1] < accuracies[0],
    )
    shown = (" ".join(f"{v:.3f}" for v in cosines), " ".join(f"{v:.1f}" for v in distances))
    figures = (*shown, " ".join(f"{v:.3f}" for v in accuracies))
    return [
        _said(space, bar, is_held, f"({text})") for bar, is_held, text in zip(bars_said, held, figures, strict=True)
    ]


def _noise(rows: Sequence[Row], space: int, pairs: int) -> str:
    bar = f"accuracy without the noise input within {NOISE} at {pairs} pairs"
    found = of(rows, part="final", arm="eclipse", pairs=pairs)
    if len(found) < len(PRIOR_SEEDS):
        return _said(space, bar, None)
    moved = [float(row["figures"]["without_noise"]) - float(row["figures"]["accuracy"]) for row in found]
    return _said(space, bar, abs(fmean(moved)) < NOISE, f"(mean {fmean(moved):+.3f}; {_signed(moved)})")
