"""Everything a page shows of one run, as plain values: each part alone, so that a damaged one costs no other."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

import yaml

from evolvedirector.records import RoundFigures
from evolvedirector.report import charts, headline
from evolvedirector.report.artwork import artwork_of
from evolvedirector.report.built_pairs import built_pairs_of
from evolvedirector.report.curves import curves_of
from evolvedirector.report.embedding_arms import arms_of
from evolvedirector.report.experts import candidates_shown, experts_of
from evolvedirector.report.film import film_of
from evolvedirector.report.history import History, read_history
from evolvedirector.report.judges import gap_sentence, judge_gaps, judge_sentence, judges_chart
from evolvedirector.report.lineage import lineage_of
from evolvedirector.report.origins import failed_by_origin, origins_chart, origins_sentence
from evolvedirector.report.pairs import pairs_of
from evolvedirector.report.rounds import MAX_ROUNDS, rounds_story
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.savings import saved_by_looking, savings_sentence
from evolvedirector.report.spending import spending_of
from evolvedirector.report.subjects import subjects_of
from evolvedirector.report.thumbnails import Thumbnails
from evolvedirector.report.versions import versions
from evolvedirector.secrecy.page import without_secrets
from evolvedirector.store.blobs import Blobs
from evolvedirector.store.errors import StoreError
from evolvedirector.store.ledger import Ledger
from evolvedirector.store.revision import RevisionFiles

Value = TypeVar("Value")
_MEASURES = {
    "error": "wrong looks (estimate)",
    "sensitivity": "sensitivity: says no to gold images that lack their prompt",
    "specificity": "specificity: says yes to gold images that show it",
    "agreement": "right on gold images",
    "gold shown": "… that show their prompt",
    "gold not shown": "… that do not",
    "canary blank": "no to a blank image",
    "canary overlay": "no to the prompt written on a blank image",
    "canary swapped": "no to another prompt's image",
    "canary own": "yes to a prompt's own image",
    "canary same": "no preference between equals",
    "pairs": "prefers the fitting image",
    "swap consistency": "same answer in both orders",
    "unreadable": "unreadable replies",
}
"""What the figures of the judge mean; others keep their names."""
NOTHING = (StoreError, ValueError, KeyError, TypeError, OSError, sqlite3.Error)
"""What a file that was damaged, changed by hand or written half may raise."""


def gather(run: RunFolder, thumbnails: Thumbnails, use_summary: bool = True) -> dict[str, Any]:
    """Collect what the page of one run shows.

    Args:
        run: The run.
        thumbnails: Takes the pictures.
        use_summary: Off: leave out `summary.json` and say so.

    Returns:
        Values for the template, among them `problems`: what could not be read, in words.
    """
    problems: list[str] = []
    thumbnails.start()
    summary = run.summary() if use_summary else {}
    if not summary and (run.path / "summary.json").exists():
        problems.append("summary.json cannot be read; figures that only it holds are missing.")
    told = [(run.name, run)] if summary else []
    # the first part, so that it finds room in the budget of pictures
    film = _part("The film strips", problems, lambda: film_of(run, thumbnails)) or []
    arms = _part(
        "What the arms of a prior look like",
        problems,
        lambda: arms_of(told, thumbnails),
    )
    subjects = _part("What was drawn of subjects", problems, lambda: subjects_of(told, thumbnails)) or []
    built_pairs = _part("The pairs of subjects", problems, lambda: built_pairs_of(run, thumbnails))
    experts = _part("The table of experts", problems, lambda: experts_of(run, thumbnails))
    curves, unread = curves_of(run)
    problems += unread
    evolved = _part("The dataset", problems, lambda: _evolved(run, thumbnails, problems)) or {}
    page = {
        "name": run.name,
        "built": time.strftime("%Y-%m-%d %H:%M"),
        **_first_screen(run, summary, evolved),
        **_of_summary(summary),
        **_of_dataset(evolved),
        "film": film,
        "arms": arms,
        "experts": experts,
        "subjects": subjects,
        "built_pairs": built_pairs,
        "curves": curves,
        **_of_settings(run),
        "problems": problems,
    }
    page["charts"] = _charts(page)
    _note_pictures(thumbnails, problems)
    return page


def _first_screen(run: RunFolder, summary: dict[str, Any], evolved: dict[str, Any]) -> dict[str, Any]:
    """Say what came out, in words and figures."""
    steps = evolved.get("history", History()).steps
    words = ("live", "mastered", "retired", "images")
    dataset = {word: steps[-1][word] for word in words} if steps else {}
    state = _state(run, run.status(), evolved.get("story", {}).get("rounds", []))
    spending = evolved.get("spending", {})
    return {
        "state": state,
        "duration": headline.duration(summary.get("wall_s")),
        "sentences": [
            *([state["says"]] if state["early"] else []),
            *headline.sentences(summary, spending, dataset),
            *filter(None, [savings_sentence(evolved.get("saved")), gap_sentence(judge_gaps(summary))]),
        ],
        "tiles": headline.tiles(summary, spending, steps),
    }


def _of_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """Take from `summary.json` what has a section of its own."""
    health = summary.get("judge_health") or {}
    return {
        "summary": summary,
        "teachers": summary.get("teacher_table") or {},
        "judge_health": _health_of(health),
        "judge_sentence": judge_sentence(RoundFigures(judge=health)),
        "judge_gaps": judge_gaps(summary),
        "forgetting": summary.get("forgetting"),
        "suites": headline.suite_tables(summary),
    }


def _of_dataset(evolved: dict[str, Any]) -> dict[str, Any]:
    """Take what was read in the dataset root; each section is empty where there was none."""
    story = evolved.get("story", {"rounds": [], "seeds": {"calls": 0, "cost_usd": 0.0}, "of_other_branches": 0})
    origins = evolved.get("origins") or []
    return {
        "spending": evolved.get("spending", {}),
        "steps": evolved.get("history", History()).steps,
        "rounds": story["rounds"][-MAX_ROUNDS:],
        "rounds_total": len(story["rounds"]),
        "story": story,
        "origins": origins,
        "origins_sentence": origins_sentence(origins),
        "candidates": evolved.get("candidates"),
        "pairs": evolved.get("pairs", _NO_PAIRS),
        "lineage": evolved.get("lineage", _NO_PROMPTS),
    }


def _of_settings(run: RunFolder) -> dict[str, Any]:
    """Take what the run was built of."""
    status = run.status()
    noted = status["versions"] if isinstance(status.get("versions"), dict) else {}
    return {
        "config": _config_text(run),
        "artwork": artwork_of(run.config()),
        "versions": noted or versions(),
        "versions_of_run": bool(noted),
    }


def _part(name: str, problems: list[str], read: Callable[[], Value]) -> Value | None:
    try:
        return read()
    except NOTHING as error:
        said = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        problems.append(f"{name} cannot be shown. {said[:500]}")
        return None


def _evolved(run: RunFolder, thumbnails: Thumbnails, problems: list[str]) -> dict[str, Any]:
    """Read the dataset root: ledger, revisions and images."""
    if run.data_root is None or not (run.data_root / "ledger.sqlite").is_file():
        return {}
    sha, blobs = run.current_sha(), Blobs(run.data_root)
    with Ledger.for_reading(run.data_root / "ledger.sqlite") as ledger:
        history = read_history(ledger, RevisionFiles(run.data_root), sha) if sha else History()
        if history.problem:
            problems.append(history.problem)

        def candidates() -> dict[str, Any] | None:
            return candidates_shown(ledger, sha, blobs, thumbnails) if sha else None

        def families() -> dict[str, Any]:
            return lineage_of(ledger, history, blobs, thumbnails)

        return {
            "history": history,
            "spending": spending_of(ledger),
            "saved": _part("What looking saved", problems, lambda: saved_by_looking(ledger, sha)) if sha else None,
            "origins": _part("What candidates yield", problems, lambda: failed_by_origin(ledger, sha)) if sha else None,
            "story": rounds_story(ledger, history, sha),
            "pairs": _part("The pairs", problems, lambda: pairs_of(ledger, blobs, thumbnails)) or _NO_PAIRS,
            "candidates": _part("What images were chosen from", problems, candidates),
            "lineage": _part("The families of prompts", problems, families) or _NO_PROMPTS,
        }


_NO_PAIRS: dict[str, Any] = {"pairs": [], "total": 0, "kind": "compare"}
_NO_PROMPTS: dict[str, Any] = {"nodes": [], "total": 0, "families": 0}


def _state(run: RunFolder, status: dict[str, Any], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Say how the run stands: `word` for the badge, a sentence, and whether it came to less than it was to."""
    word, says, early = _standing(run, status, rounds)
    return {"word": word, "says": says, "early": early}


def _standing(run: RunFolder, status: dict[str, Any], rounds: list[dict[str, Any]]) -> tuple[str, str, bool]:
    reached, planned = status.get("global_step"), status.get("planned_steps")
    step = f" at step {reached:,}" if isinstance(reached, int) else ""
    of = f" of {planned:,}" if step and isinstance(planned, int) else ""
    if status.get("state") == "finished":
        if isinstance(reached, int) and isinstance(planned, int) and reached < planned:
            return "stopped early", f"The run was stopped{step}{of}, by a time limit or a callback.", True
        return "finished", f"The run came to its end{step}.", False
    running = status.get("state") != "ended early" and run.is_running()
    if running:
        return "running", f"The run was going on when this page was written{step}{of}.", False
    if running is None:
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.noted_at()))
        says = f"Whether the run still goes on is not known: it was last heard of on {at}{step}, on another machine."
        return "not known", says, True
    if status.get("state") in ("running", "ended early") or (rounds and rounds[-1]["status"] == "unfinished"):
        why = f" ({status['reason']})" if isinstance(status.get("reason"), str) and status["reason"] else ""
        says = f"The run ended before its end{step}{of}{why}. All that was recorded is here; its command goes on with "
        return "ended early", f"{says}`--ckpt_path last`.", True
    return "", "", False


def _health_of(judge: dict[str, float]) -> dict[str, float]:
    """Name the measures of the judge in words; how many answers a share was counted over stands behind its name."""
    counts = {name.removesuffix(" looks"): int(value) for name, value in judge.items() if name.endswith(" looks")}
    return {
        _MEASURES.get(name, name) + (f" (of {counts[name]})" if name in counts else ""): value
        for name, value in judge.items()
        if not name.endswith(" looks") and not name.startswith("canaries")
    }


def _config_text(run: RunFolder) -> str:
    config = without_secrets(run.config())
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=110) if config else ""


def _charts(page: dict[str, Any]) -> dict[str, list[charts.Chart]]:
    """Return the charts by section of the page."""
    numbers = {row["round_id"]: str(row["number"]) for row in page["story"]["rounds"]}
    steps = [
        step for step in page["steps"] if step["live"] + step["mastered"] + step["retired"]
    ]  # not the bare prompts
    names = [numbers.get(step["round_id"], "seeds" if place == 0 else "imported") for place, step in enumerate(steps)]
    of_rounds = charts.rounds_charts(page["story"]["rounds"])
    sections: dict[str, list[charts.Chart | None]] = {
        "top": [charts.accuracy_chart(page["summary"]), charts.win_rate_chart(page["summary"])],
        "dataset": [
            charts.dataset_chart(steps, names),
            charts.spending_chart(page["spending"].get("by_skill", {})),
            *(item for item in of_rounds if item["id"] != "judge"),
            origins_chart(page["origins"]),
        ],
        "judge": [judges_chart(page["summary"]), *(item for item in of_rounds if item["id"] == "judge")],
        "training": [*charts.training_charts(page["curves"])],
    }
    return {name: [item for item in found if item is not None] for name, found in sections.items()}


def _note_pictures(thumbnails: Thumbnails, problems: list[str]) -> None:
    if thumbnails.left_out:
        problems.append(f"{thumbnails.left_out:,} pictures were left out to keep this page small.")
    if thumbnails.damaged:
        problems.append(f"{thumbnails.damaged:,} pictures are missing or damaged in the dataset.")
