"""The figures of suites as a table for people."""

from __future__ import annotations

from collections.abc import Mapping

from evolvedirector.evaluation.suite import Figure


def table_lines(suites: Mapping[str, Mapping[str, Figure]]) -> list[str]:
    """Draw a table: suite, row, value, 95 % interval, and how many prompts or images it rests on.

    Args:
        suites: Rows by name, by suite; suites without rows are left out.
    """
    body = [
        (suite if place == 0 else "", row, number(figure.value), interval(figure), f"{figure.of:,} {figure.unit}")
        for suite, rows in suites.items()
        for place, (row, figure) in enumerate(rows.items())
    ]
    if not body:
        return []
    cells = [("suite", "figure", "value", "95 % interval", "of"), *body]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def number(value: float | None) -> str:
    """Write a value with three digits behind the point, a larger one with one; unknown ones as that."""
    if value is None:
        return "unknown"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def interval(figure: Figure) -> str:
    """Write the ends of an interval; a dash where there is none."""
    if figure.interval is None:
        return "-"
    return f"[{number(figure.interval[0])}, {number(figure.interval[1])}]"
