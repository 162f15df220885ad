"""The part of a report on subject-driven models: figures beside their ends, one picture of them, and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evolvedirector.pairs.evaluation.measures import ALL, IDENTITY, TEXT, TO_TARGET
from evolvedirector.pairs.evaluation.questions import NEAREST, PASTED, TARGET, UNTOUCHED
from evolvedirector.pairs.evaluation.subject_suite import ARMS, BOX, EDIT, FIGURES, PICTURES, SHOWN, TEXT_ONLY, WORDS
from evolvedirector.pairs.pair_records import REFERENCE
from evolvedirector.report.kept_pictures import add_kept
from evolvedirector.report.pairs import clipped
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.scatter import Scatter, scatter_of
from evolvedirector.report.thumbnails import Thumbnails
from evolvedirector.secrecy.page import clean_text

MODEL = (WORDS, BOX, EDIT, TEXT_ONLY)
_COLUMNS = (REFERENCE, TARGET, WORDS, BOX, TEXT_ONLY, UNTOUCHED, EDIT, PASTED, NEAREST)


def subjects_of(runs: Sequence[tuple[str, RunFolder]], thumbnails: Thumbnails) -> list[dict[str, Any]]:
    """Return, for each evaluation of subjects, its table, its picture and what was drawn; none where no run has any.

    Args:
        runs: By name. Of several, the ends stand once: they are the same on the same questions.
        thumbnails: Takes the pictures.
    """
    found: dict[str, list[tuple[str, RunFolder, Mapping[str, Any]]]] = {}
    for name, run in runs:
        for key, about in run.summary().items():
            if about and (key == PICTURES or key.endswith(f"/{PICTURES}")):
                found.setdefault(key, []).append((name, run, about))
    return [_shown(key, told, len(runs) > 1, thumbnails) for key, told in found.items()]


def _shown(
    key: str, told: Sequence[tuple[str, RunFolder, Mapping[str, Any]]], several: bool, thumbnails: Thumbnails
) -> dict[str, Any]:
    rows = list(_rows(told, several))
    names = [name for name in FIGURES if any(name in row["figures"] for row in rows)]
    across = ALL if ALL in names else TEXT
    upwards = TO_TARGET if TO_TARGET in names else IDENTITY
    about = told[0][2]
    return {
        "title": "" if key == PICTURES else clean_text(key.removesuffix(f"/{PICTURES}")),
        "subjects": int(about["subjects"]),
        "questions": int(about["questions"]),
        "apart": [clean_text(str(kind)) for kind in about["apart"]],
        "names": names,
        "rows": rows,
        "kinds": _kinds(told, several),
        "chart": _chart(rows, across, upwards),
        "columns": list(_COLUMNS),
        "pictures": [
            {"run": clean_text(name) if several else "", **row}
            for name, run, one in told
            for row in _pictures(run, key, one["shown"], thumbnails)
        ],
    }


def _rows(told: Sequence[tuple[str, RunFolder, Mapping[str, Any]]], several: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table: of each run what its model drew, then the ends once."""
    for place, (name, _, about) in enumerate(told):
        for arm in MODEL:
            if arm in about["arms"]:
                yield _row(arm, name if several else "", about["arms"][arm], of_model=True)
        if place == len(told) - 1:
            yield from (
                _row(arm, "", about["arms"][arm], of_model=False)
                for arm in ARMS
                if arm in about["arms"] and arm not in MODEL
            )


def _row(arm: str, run: str, figures: Mapping[str, Mapping[str, Any]], of_model: bool) -> dict[str, Any]:
    values = {
        name: {
            "value": float(figure["value"]),
            "interval": None if figure["interval"] is None else [float(end) for end in figure["interval"]],
        }
        for name, figure in figures.items()
        if name in FIGURES and figure["value"] is not None
    }
    return {"arm": arm, "run": clean_text(run), "figures": values, "of_model": of_model}


def _kinds(told: Sequence[tuple[str, RunFolder, Mapping[str, Any]]], several: bool) -> list[dict[str, Any]]:
    """Return `all` of each kind of change, by arm of each run; None for a kind that it was not asked for."""
    found = []
    every = dict.fromkeys(clean_text(kind) for _, _, about in told for kind in about["by_kind"])
    for name, _, about in told:
        kinds = {clean_text(kind): arms for kind, arms in about["by_kind"].items()}
        for arm in (*MODEL, *(arm for arm in ARMS if arm not in MODEL)):
            shares = {k: arms[arm][ALL]["value"] for k, arms in kinds.items() if ALL in arms.get(arm, {})}
            if len(shares) > 1:
                row = {kind: shares.get(kind) for kind in every}
                found.append({"arm": arm, "run": clean_text(name) if several else "", "shares": row})
    return found


def _chart(rows: Sequence[Mapping[str, Any]], across: str, upwards: str) -> Scatter | None:
    points = [
        (
            f"{row['run']}: {row['arm']}" if row["run"] else row["arm"],
            row["figures"][across]["value"],
            row["figures"][upwards]["value"],
            row["of_model"],
        )
        for row in rows
        if across in row["figures"] and upwards in row["figures"]
    ]
    return scatter_of(points, across, upwards) if points else None


def _pictures(
    run: RunFolder, key: str, shown: Sequence[Mapping[str, Any]], thumbnails: Thumbnails
) -> Iterator[dict[str, Any]]:
    name = key.removesuffix(PICTURES).rstrip("/")
    folder = run.path / "evaluation" / ("" if not name else f"suites/{name}") / PICTURES
    for row in shown[:SHOWN]:
        cells = [add_kept(thumbnails, folder, row["pictures"].get(column)) for column in _COLUMNS]
        yield {"prompt": clipped(str(row["prompt"])), "cells": cells}
