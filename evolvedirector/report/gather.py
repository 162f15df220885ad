"""Everything a page shows of one run, as plain values: each part alone, so that a damaged one costs no other."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

import yaml

from evolvedirector.report import charts, headline
from evolvedirector.report.artwork import artwork_of
from evolvedirector.report.curves import curves_of
from evolvedirector.report.film import film_of
from evolvedirector.report.history import History, read_history
from evolvedirector.report.judges import gap_sentence, judge_gaps, judges_chart
from evolvedirector.report.lineage import lineage_of
from evolvedirector.report.pairs import pairs_of
from evolvedirector.report.rounds import MAX_ROUNDS, rounds_story
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.spending import spending_of
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
    # the first part, so that it finds room in the budget of pictures
    film = _part("The film strips", problems, lambda: film_of(run, thumbnails)) or []
    curves, unread = curves_of(run)
    problems += unread
    evolved = _part("The dataset", problems, lambda: _evolved(run, thumbnails, problems)) or {}
    history = evolved.pop("history", History())
    rounds = evolved.get("story", {}).get("rounds", [])
    spending = evolved.get("spending", {})
    dataset = {word: history.steps[-1][word] for word in ("live", "mastered", "retired")} if history.steps else {}
    status = run.status()
    gaps = judge_gaps(summary)
    noted = status["versions"] if isinstance(status.get("versions"), dict) else {}
    page = {
        "name": run.name,
        "built": time.strftime("%Y-%m-%d %H:%M"),
        "state": _state(run, status, rounds),
        "duration": headline.duration(summary.get("wall_s")),
        "sentences": [*headline.sentences(summary, spending, dataset), *filter(None, [gap_sentence(gaps)])],
        "tiles": headline.tiles(summary, spending, history.steps),
        "summary": summary,
        "spending": spending,
        "steps": history.steps,
        "rounds": rounds[-MAX_ROUNDS:],
        "rounds_total": len(rounds),
        "story": evolved.get("story", {"rounds": [], "seeds": {"calls": 0, "cost_usd": 0.0}, "of_other_branches": 0}),
        "teachers": summary.get("teacher_table") or {},
        "judge_health": {_MEASURES.get(k, k): v for k, v in (summary.get("judge_health") or {}).items()},
        "judge_gaps": gaps,
        "forgetting": summary.get("forgetting"),
        "film": film,
        "pairs": evolved.get("pairs", {"pairs": [], "total": 0, "kind": "compare"}),
        "lineage": evolved.get("lineage", {"nodes": [], "total": 0, "families": 0}),
        "curves": curves,
        "config": _config_text(run),
        "artwork": artwork_of(run.config()),
        "versions": noted or versions(),
        "versions_of_run": bool(noted),
        "problems": problems,
    }
    page["charts"] = _charts(page)
    _note_pictures(thumbnails, problems)
    return page


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

        def families() -> dict[str, Any]:
            return lineage_of(ledger, history, blobs, thumbnails)

        return {
            "history": history,
            "spending": spending_of(ledger),
            "story": rounds_story(ledger, history, sha),
            "pairs": _part("The pairs", problems, lambda: pairs_of(ledger, blobs, thumbnails)) or _NO_PAIRS,
            "lineage": _part("The families of prompts", problems, families) or _NO_PROMPTS,
        }


_NO_PAIRS: dict[str, Any] = {"pairs": [], "total": 0, "kind": "compare"}
_NO_PROMPTS: dict[str, Any] = {"nodes": [], "total": 0, "families": 0}


def _state(run: RunFolder, status: dict[str, Any], rounds: list[dict[str, Any]]) -> dict[str, str]:
    """Say how the run stands: `word` for the badge and a sentence."""
    step = f" at step {status['global_step']:,}" if isinstance(status.get("global_step"), int) else ""
    if status.get("state") == "finished":
        return {"word": "finished", "says": f"The run came to its end{step}."}
    running = status.get("state") != "ended early" and run.is_running()
    if running:
        return {"word": "running", "says": f"The run was going on when this page was written{step}."}
    if running is None:
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.noted_at()))
        return {
            "word": "not known",
            "says": f"Whether the run still goes on is not known: it was last heard of on {at}{step}, on another "
            "machine.",
        }
    if status.get("state") in ("running", "ended early") or (rounds and rounds[-1]["status"] == "unfinished"):
        why = f" ({status['reason']})" if isinstance(status.get("reason"), str) and status["reason"] else ""
        return {
            "word": "ended early",
            "says": f"The run ended before its end{step}{why}. All that was recorded is here; its command goes "
            "on with `--ckpt_path last`.",
        }
    return {"word": "", "says": ""}


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
