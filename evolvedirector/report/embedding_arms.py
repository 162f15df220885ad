"""The part of a report on priors: what each arm's embedding looks like when it is decoded, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolvedirector.evaluation.suites.embedding_arms import PICTURES, PRIOR, RIDGE, SHOWN, TEXT, TRUE
from evolvedirector.report.kept_pictures import add_kept
from evolvedirector.report.pairs import clipped
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.thumbnails import Thumbnails
from evolvedirector.secrecy.page import clean_text

DRAWN = "drawn"
_COMMON = {DRAWN: "true image", TRUE: TRUE, TEXT: TEXT, RIDGE: RIDGE}
"""Arms that are the same in every run on the same data; each run adds its own prior."""


def arms_of(runs: Sequence[tuple[str, RunFolder]], thumbnails: Thumbnails) -> dict[str, Any] | None:
    """Return the decoded images of every arm by prompt; None where no run has any.

    Args:
        runs: By name; of several, prompts that all have are shown, and the arms that learn nothing once.
        thumbnails: Takes the pictures.
    """
    told = [(name, run, run.summary().get(PICTURES)) for name, run in runs]
    found = [(name, run, {row["prompt"]: row for row in rows[:SHOWN]}) for name, run, rows in told if rows]
    if not found:
        return None
    first = found[0][2]
    prompts = [prompt for prompt in first if all(prompt in rows for _, _, rows in found)]
    columns = [(label, found[0][1], key, found[0][2]) for key, label in _COMMON.items()]
    columns += [(name if len(runs) > 1 else PRIOR, run, PRIOR, rows) for name, run, rows in found]
    columns = [column for column in columns if any(column[2] in column[3][prompt]["pictures"] for prompt in prompts)]
    return {
        "names": [clean_text(label) for label, *_ in columns],
        "rows": [
            {
                "prompt": clipped(prompt),
                "cells": [_cell(label, run, key, rows[prompt], thumbnails) for label, run, key, rows in columns],
            }
            for prompt in prompts
        ],
    }


def _cell(label: str, run: RunFolder, key: str, row: Mapping[str, Any], thumbnails: Thumbnails) -> dict[str, Any]:
    right = row["right"].get(key)
    return {
        "arm": clean_text(label),
        "picture": add_kept(thumbnails, run.path / "evaluation" / PICTURES, row["pictures"].get(key)),
        "says": "" if right is None else "right" if right else "wrong",
    }
