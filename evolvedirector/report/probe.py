"""The page and the figures of a probe: words and skills that the student fails, and the worst prompts with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from evolvedirector.evaluation.words import Contrast, WordFinding, corrected_contrast
from evolvedirector.evolution.probing.run import ProbeOutcome
from evolvedirector.evolution.probing.sightings import Looked, half_width
from evolvedirector.records import JudgeAccuracy, Tally
from evolvedirector.records.judge_accuracy import clipped
from evolvedirector.report.artwork import artwork_of
from evolvedirector.report.build import render_static
from evolvedirector.report.headline import interval, money, percent
from evolvedirector.report.pairs import clipped as clipped_text
from evolvedirector.report.thumbnails import Thumbnails
from evolvedirector.secrecy.page import clean_text
from evolvedirector.store.blobs import Blobs

MAX_WORDS = 40
"""Words in the page and in the figures; of more, those with the most evidence."""
LEAST_PROMPTS = 5
"""Prompts that a word must have stood in to be listed, unless it is named."""
MAX_PICTURES = 60
_ENDED = {
    "narrow": "the intervals were narrow enough",
    "budget": "the budget was spent",
    "nothing new": "the writer had nothing new",
    "stopped": "it was cut short",
}


def probe_figures(outcome: ProbeOutcome, student: str, judge: str) -> dict[str, Any]:
    """Return what a probe found out as plain values, for `probe.json` and the page.

    Args:
        outcome: Of the probe.
        student: What was probed: class and weights.
        judge: Fingerprint of the judge.
    """
    accuracy = outcome.judge
    listed = [one for one in outcome.findings if one.named or one.tally.looked >= LEAST_PROMPTS]
    sightings = outcome.sightings
    return {
        "student": student,
        "judge": {
            "fingerprint": judge,
            "sensitivity": accuracy.sensitivity,
            "specificity": accuracy.specificity,
            "correction": accuracy.correction,
        },
        "ended": outcome.problem or _ENDED[outcome.ended],
        "looks": outcome.looks,
        "health_looks": outcome.health_looks,
        "writer_calls": outcome.writer_calls,
        "cost_usd": round(outcome.cost_usd, 6),
        "prompts": len(sightings.prompts),
        "unreadable": sum(said is None for one in sightings.prompts.values() for said in one.failed),
        "named": [finding.word for finding in outcome.findings if finding.named],
        "skills": [
            {"skill": skill, **_share(tally, accuracy), "all_texts_seen": skill in sightings.used_up}
            for skill, tally in sightings.skills().items()
        ],
        "words": [_word(finding, accuracy) for finding in listed[:MAX_WORDS]],
        "words_seen": len(outcome.findings),
        "failing": [_prompt(one, outcome.chances[one.prompt.id]) for one in outcome.failing()],
    }


def failed_lines(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of `failed.jsonl`: prompts that most likely fail, which a run may buy without another look.

    Args:
        figures: As `probe_figures` made them.
    """
    kept = ("prompt", "skill", "chance", "looked", "failed")
    return [{name: entry[name] for name in kept} for entry in figures["failing"]]


def probe_page(figures: Mapping[str, Any], blobs: Blobs, config: Mapping[str, Any], name: str) -> str:
    """Return the page of a probe as HTML: one file without scripts that needs no network.

    Args:
        figures: As `probe_figures` made them.
        blobs: Hold the images.
        config: Of the run, to name the artwork in its pictures.
        name: Of the run.
    """
    thumbnails = Thumbnails()
    shown = []
    for entry in figures["failing"][:MAX_PICTURES]:
        sha256 = entry["image_sha256"]
        key = thumbnails.add(sha256, partial(blobs.get, sha256))
        shown.append({**entry, "prompt": clipped_text(entry["prompt"]), "picture": thumbnails.urls().get(key or "")})
    page = {
        **figures,
        "name": clean_text(name),
        "student": clean_text(figures["student"]),
        "ended": clean_text(figures["ended"]),
        "sentences": [clean_text(sentence) for sentence in sentences(figures)],
        "shown": shown,
        "built": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "artwork": artwork_of(config),
    }
    return render_static("probe.html", page)


def sentences(figures: Mapping[str, Any]) -> list[str]:
    """Say in a few plain sentences what came out; what is not known is said to be unknown.

    Args:
        figures: As `probe_figures` made them.
    """
    words = {entry["word"]: entry for entry in figures["words"]}
    said = []
    for name in figures["named"]:
        entry = words[name]
        contrast = entry["contrast"]
        without = f", against {percent(contrast['without'])} without it in the same skills" if contrast else ""
        said.append(f"It fails {_of(entry)} of the prompts with '{name}'{without}.")
    if not said:
        said.append("No word could be named: where prompts fail, no word in them explains it beyond chance.")
    # by the lower end: a skill that was hardly looked at is not the worst one
    worst = max(figures["skills"], key=lambda entry: (entry["interval"] or [0.0])[0], default=None)
    if worst is not None and worst["share"] is not None:
        said.append(f"Of the {len(figures['skills'])} skills it fails '{worst['skill']}' most: {_of(worst)}.")
    judge = figures["judge"]
    if judge["correction"] == "made":
        said.append(
            f"All shares are corrected for a judge that sees {percent(judge['sensitivity'])} of the failures and "
            f"passes {percent(judge['specificity'])} of what is right."
        )
    else:
        said.append(
            "How often the judge errs is not known, since no gold set was given: shares are as it said, and may be too "
            "high by its false alarms; the comparison of words is not touched by errors that all words share."
        )
    said.append(
        f"It looked {figures['looks']:,} times at {figures['prompts']:,} prompts ({figures['health_looks']:,} looks "
        f"checked the judge), for {money(figures['cost_usd'])}; it ended since {figures['ended']}."
    )
    return said


def _of(entry: Mapping[str, Any]) -> str:
    if entry["share"] is None:
        return f"{entry['failed']} of {entry['looked']}"
    return f"{percent(entry['share'])}{interval(entry['interval'])}"


def _share(tally: Tally, judge: JudgeAccuracy) -> dict[str, Any]:
    """Return counts, and the true share they speak for with its interval; None where the looks say nothing."""
    share, bounds = judge.corrected(tally), judge.interval(tally)
    return {
        "looked": tally.looked,
        "failed": tally.failed,
        "share": None if share is None else round(clipped(share), 4),
        "interval": None if bounds is None else [round(bound, 4) for bound in bounds],
        "within": round(half_width(tally, judge), 4),
    }


def _word(finding: WordFinding, judge: JudgeAccuracy) -> dict[str, Any]:
    return {
        "word": finding.word,
        "same": list(finding.same),
        "named": finding.named,
        **_share(finding.tally, judge),
        "contrast": _contrast(finding.contrast, judge),
        "p_value": float(f"{finding.p_value:.3g}"),
        "p_adjusted": float(f"{finding.p_adjusted:.3g}"),
    }


def _contrast(contrast: Contrast | None, judge: JudgeAccuracy) -> dict[str, Any] | None:
    made = None if contrast is None else corrected_contrast(contrast, judge)
    if made is None:
        return None
    bounds = [round(made.low, 4), round(made.high, 4)]
    return {"without": round(made.without, 4), "excess": round(made.excess, 4), "interval": bounds}


def _prompt(one: Looked, chance: float) -> dict[str, Any]:
    """Show the image of the first look that failed."""
    place = next(index for index, said in enumerate(one.failed) if said)
    return {
        "prompt": one.prompt.text,
        "skill": one.prompt.skill,
        "chance": round(chance, 4),
        "looked": one.tally.looked,
        "failed": one.tally.failed,
        "image_sha256": one.images[place],
    }


def table_rows(figures: Mapping[str, Any], most: int = 5) -> list[Sequence[str]]:
    """Return the rows of the table on the screen: word or skill, prompts, failed share, excess, p.

    Args:
        figures: As `probe_figures` made them.
        most: Words with the most evidence; named ones are always there.
    """
    rows: list[Sequence[str]] = []
    for place, entry in enumerate(figures["words"]):
        if entry["named"] or place < most:
            contrast = entry["contrast"]
            excess = f"{100 * contrast['excess']:+.0f} points" if contrast else "-"
            mark = "named" if entry["named"] else ""
            rows.append((entry["word"], str(entry["looked"]), _of(entry), excess, f"{entry['p_adjusted']:.2g}", mark))
    for entry in figures["skills"]:
        note = "all its texts were seen" if entry["all_texts_seen"] else ""
        rows.append((f"skill {entry['skill']}", str(entry["looked"]), _of(entry), "", "", note))
    return rows
