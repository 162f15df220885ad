"""Rounds as the ledger keeps them, and how their figures are written and read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from evolvedirector.records import RoundFigures


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round: which it is, what it started from, and what came of it."""

    round_id: str
    number: int
    revision_sha: str
    """The revision that it started from."""
    global_step: int
    child_sha: str | None
    """The revision that it ended with, the same one when it was skipped; None while it is open."""
    figures: RoundFigures


def figures_to_json(figures: RoundFigures) -> dict[str, Any]:
    """Spell out what a round counted; what is empty is left out."""
    values = {field.name: getattr(figures, field.name) for field in fields(RoundFigures)}
    return {name: dict(value) if isinstance(value, dict) else value for name, value in values.items() if value}


def figures_from_json(body: Mapping[str, Any]) -> RoundFigures:
    """Read what a round counted, in this spelling or in that of before schema 7, one key for each thing counted."""
    figures = RoundFigures()
    names = {field.name for field in fields(RoundFigures)}
    for name, value in body.items():
        if name not in names:
            _read_old(figures, name, value)
        elif isinstance(own := getattr(figures, name), Counter | dict):
            own.update(value)
        else:
            setattr(figures, name, type(own)(value))
    return figures


_OLD_NUMBERS = {
    "not written: budget spent": "unwritten",
    "buy decisions beyond the allowance": "buys_beyond_allowance",
    "looks beyond the budget": "looks_beyond_budget",
    "kept: nothing else would be live": "kept_to_train",
}
_OLD_READINGS = {"student": "shows", "teacher": "lacks", "invalid": "unreadable"}
_OLD_PREFERENCES = {"invalid": "unreadable"}


def _read_old(figures: RoundFigures, name: str, value: Any) -> None:
    """Take one key of before schema 7, in which a checked image that shows its prompt was called `student`."""
    if name in _OLD_NUMBERS:
        setattr(figures, _OLD_NUMBERS[name], int(value))
        return
    if name == "skipped because":
        figures.skipped_because = str(value)
        return
    if name.startswith("judge "):
        figures.judge[name.removeprefix("judge ")] = float(value)
        return
    group, colon, word = name.partition(": ")
    counts: dict[str, tuple[Counter[Any], Mapping[str, str]]] = {
        "refused": (figures.refused, {}),
        "screen": (figures.screened, _OLD_READINGS),
        "probe": (figures.probed, _OLD_READINGS),
        "faithfulness": (figures.checked, _OLD_READINGS),
        "compare": (figures.compared, {}),
        "duel": (figures.duels, _OLD_PREFERENCES),
        "teacher": (figures.no_image, {}),
    }
    if not colon:
        figures.decisions[name] += int(value)  # type: ignore[index]
    elif group in counts:
        count, words = counts[group]
        count[words.get(word, word)] += int(value)
