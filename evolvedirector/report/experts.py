"""The part of a report on experts: who harms what, what each arm draws, merges, gates, what they were trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from evolvedirector.evaluation.arm_table import ArmRecord, ArmTable, picture_path, read_table
from evolvedirector.evaluation.expert_arms import BASE, ArmFigures, conflicts
from evolvedirector.report.candidates import Candidate, PromptCandidates, candidates_of
from evolvedirector.report.pairs import clipped
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.thumbnails import Thumbnails
from evolvedirector.secrecy.page import clean_text
from evolvedirector.store.blobs import Blobs
from evolvedirector.store.images import MAX_IMAGE_BYTES
from evolvedirector.store.ledger import Ledger

MAX_LAYERS = 400
MAX_PROMPTS = 8
"""Whose candidates are shown, and whose pictures under each arm."""
STRONG_T = 4.0
"""From this t on, either way, a cell has its full colour."""


def experts_of(run: RunFolder, thumbnails: Thumbnails) -> dict[str, Any] | None:
    """Return what the page shows of the table of arms; None for a run without one.

    Args:
        run: The run.
        thumbnails: Takes the pictures.

    Raises:
        UnreadableTable: The file was damaged.
    """
    table = read_table(run.path)
    if table is None or not table.arms:
        return None
    figures = table.figures()
    columns = list(next(iter(table.columns().values())))
    experts = [name for name, arm in table.arms.items() if arm.kind == "expert"]
    return {
        "columns": [clean_text(name) for name in columns],
        "by_skill": table.by_skill,
        "prompts": len(table.prompts),
        "images": len(table.images),
        "evaluators": {clean_text(name): clean_text(found) for name, found in table.evaluators.items()},
        "rows": [_row(name, arm, figures[name], columns) for name, arm in table.arms.items()],
        "sentences": _sentences(figures, experts),
        "pictures": _pictures(run, table, thumbnails),
        "merges": [_merge(name, arm) for name, arm in table.arms.items() if arm.kind == "merge"],
        "gates": _gates(table.gates),
    }


def candidates_shown(ledger: Ledger, sha: str, blobs: Blobs, thumbnails: Thumbnails) -> dict[str, Any] | None:
    """Return what the last choosing round chose from and why; None where no round chose among images.

    Args:
        ledger: The books of the root.
        sha: The revision; only rounds of its own past count.
        blobs: Hold the images.
        thumbnails: Takes small copies.
    """
    for row in reversed(ledger.rounds.finished(sha)):
        found = candidates_of(ledger, row.round_id)
        kept = Counter(variant for of in found for one in of.candidates for variant in one.kept)
        if not kept:
            continue
        chosen = [of for of in found if any(one.kept for one in of.candidates)]
        return {
            "round": row.number,
            "prompts": len(found),
            "images": sum(len(of.candidates) for of in found),
            "kept": {clean_text(variant) or "all": count for variant, count in sorted(kept.items())},
            "shown": [_candidates(of, blobs, thumbnails) for of in islice(chosen, MAX_PROMPTS)],
            "chosen": len(chosen),
        }
    return None


def _row(name: str, arm: ArmRecord, figures: ArmFigures, columns: Sequence[str]) -> dict[str, Any]:
    return {
        "arm": clean_text(name),
        "kind": arm.kind,
        "trained_on": clean_text(str(arm.about.get("trained_on", "")))[:300],
        "cells": [_cell(figures, column, own=column == name) for column in columns],
        "worst": None if figures.worst is None else clean_text(figures.worst),
        "nowhere_below": figures.is_nowhere_below,
        "unscored": figures.unscored,
    }


def _cell(figures: ArmFigures, column: str, own: bool) -> dict[str, Any]:
    """Tell one arm on one aspect; its colour says the sign and, by t, how sure it is."""
    found, mean = figures.differences.get(column), figures.means.get(column)
    cell: dict[str, Any] = {
        "mean": None if mean is None else f"{mean:.4g}",
        "own": own,
        "worst": figures.worst == column,
    }
    if found is None:
        return cell | {"difference": None}
    ends = found.interval
    sure = "above" if ends is not None and ends[0] > 0 else "below" if found.is_surely_below else "unsure"
    strength = 1.0 if found.t is None else min(1.0, abs(found.t) / STRONG_T)
    return cell | {
        "difference": f"{found.mean:+.3g}",
        "interval": None if ends is None else f"{ends[0]:+.3g} to {ends[1]:+.3g}",
        "t": None if found.t is None else f"{found.t:+.1f}",
        "effect": None if found.effect is None else f"{found.effect:+.2f}",
        "sure": sure,
        "side": "better" if found.mean > 0 else "worse" if found.mean < 0 else "",
        "percent": round(45 * strength),
    }


def _sentences(figures: Mapping[str, ArmFigures], experts: Sequence[str]) -> list[str]:
    harmed = [(expert, aspect) for expert, aspect in conflicts(figures, experts) if expert != aspect]
    said = []
    if harmed:
        told = ", ".join(f"{clean_text(expert)} lowers {clean_text(aspect)}" for expert, aspect in harmed[:6])
        said.append(f"Experts are in conflict: {told}{' and so on' if len(harmed) > 6 else ''}.")
    elif experts:
        said.append("No expert lowers another aspect beyond chance.")
    safe = [clean_text(name) for name, of in figures.items() if of.is_nowhere_below]
    said.append(f"At or above the base on every aspect: {', '.join(safe) or 'no arm'}.")
    worst = {name: of.differences[of.worst] for name, of in figures.items() if of.worst is not None}
    known = {name: of.t for name, of in worst.items() if of.t is not None}
    if known:
        best = max(known, key=lambda name: known[name])
        aspect = clean_text(str(figures[best].worst))
        said.append(f"The best worst aspect has {clean_text(best)}: {aspect}, t {known[best]:+.1f}.")
    return said


def _pictures(run: RunFolder, table: ArmTable, thumbnails: Thumbnails) -> list[dict[str, Any]]:
    """Set the arms side by side, prompt by prompt."""
    shown = []
    for image in islice(table.arms[BASE].pictures, MAX_PROMPTS):
        prompt = table.prompts[table.images[image]]
        beside = []
        for name, arm in table.arms.items():
            sha256 = arm.pictures.get(image)
            picture = None if sha256 is None else thumbnails.add(sha256, partial(_read_picture, run, sha256))
            beside.append({"arm": clean_text(name), "picture": picture})
        shown.append({"prompt": clipped(prompt.text), "skill": clean_text(prompt.skill), "arms": beside})
    return shown


def _read_picture(run: RunFolder, sha256: str) -> bytes:
    path = picture_path(run.path, sha256)
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise OSError(f"{path} is too large")
    return path.read_bytes()


def _merge(name: str, arm: ArmRecord) -> dict[str, Any]:
    made: Mapping[str, Any] = arm.about["merge"]
    weights = [
        f"{clean_text(str(of))} {weight:.3g}" for of, weight in zip(arm.about["of"], made["weights"], strict=True)
    ]
    numbers = {key: made.get(key) for key in ("scale", "density", "relative_error")}
    return {
        "arm": clean_text(name),
        "method": clean_text(str(made["method"])).replace("_", " "),
        "formula": clean_text(str(made["formula"])),
        "weights": ", ".join(weights),
        "rank": int(arm.about["rank"]),
        **{key: None if value is None else f"{float(value):.3g}" for key, value in numbers.items()},
    }


def _gates(gates: Mapping[str, Mapping[str, float]]) -> dict[str, Any] | None:
    if not gates:
        return None
    experts = list(next(iter(gates.values())))
    layers = [
        {"layer": clean_text(layer), "weights": [round(100 * of[name]) for name in experts]}
        for layer, of in islice(gates.items(), MAX_LAYERS)
    ]
    return {"experts": [clean_text(name) for name in experts], "layers": layers, "total": len(gates)}


def _candidates(of: PromptCandidates, blobs: Blobs, thumbnails: Thumbnails) -> dict[str, Any]:
    def told(one: Candidate) -> dict[str, Any]:
        sha256 = one.image_sha256
        return {
            "picture": thumbnails.add(sha256, partial(blobs.get, sha256)),
            "scores": {clean_text(name): f"{value:.3g}" for name, value in one.scores.items()},
            "kept": {clean_text(variant) or "all": clean_text(why)[:300] for variant, why in one.kept.items()},
        }

    return {"prompt": clipped(of.prompt.text), "candidates": [told(one) for one in of.candidates]}
