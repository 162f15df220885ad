"""What a pair builder made, step by step: reference, draft, refined, mask, result, and the source of an edit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from evolvedirector.pairs.pair_book import FILE, PairBook, PairRow
from evolvedirector.pairs.pair_figures import PairFigures
from evolvedirector.pairs.pair_grid import COLUMNS, TITLES
from evolvedirector.pairs.pair_records import DRAFT, REFINED
from evolvedirector.report.pairs import clipped
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.thumbnails import Thumbnails
from evolvedirector.secrecy.page import clean_text
from evolvedirector.store.blobs import Blobs

SHOWN = 6
"""Kept pairs of each sort: those that a refiner changed, and others."""


def built_pairs_of(run: RunFolder, thumbnails: Thumbnails) -> dict[str, Any] | None:
    """Return figures and some kept pairs of the root that a run trained on; None where no builder made it.

    Args:
        run: The run.
        thumbnails: Takes the pictures.
    """
    if run.data_root is None or not (run.data_root / FILE).is_file():
        return None
    with PairBook.for_reading(run.data_root) as book:
        kept = book.pairs("kept")
        lines = PairFigures.of(book.counts(), book.spend()).lines()
    if not kept:
        return None
    blobs = Blobs(run.data_root)
    refined = [row for row in kept if _is_refined(row)]
    chosen = [*_some(refined), *_some([row for row in kept if not _is_refined(row)])]
    return {
        "columns": [TITLES.get(role, role) for role in COLUMNS],
        "lines": [clean_text(line) for line in lines],
        "refined": len(refined),
        "kept": len(kept),
        "rows": [
            {"prompt": clipped(row.body["prompt"]), "kind": row.kind, "cells": _cells(row, blobs, thumbnails)}
            for row in chosen
        ],
    }


def _cells(row: PairRow, blobs: Blobs, thumbnails: Thumbnails) -> list[str | None]:
    files = row.body["files"]
    names = [files[role]["sha256"] if role in files else None for role in COLUMNS]
    return [None if name is None else thumbnails.add(name, partial(blobs.get, name)) for name in names]


def _is_refined(row: PairRow) -> bool:
    files = row.body["files"]
    return REFINED in files and DRAFT in files and files[REFINED]["sha256"] != files[DRAFT]["sha256"]


def _some(rows: Sequence[PairRow]) -> list[PairRow]:
    """Take some, spread evenly."""
    count = min(SHOWN, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]
