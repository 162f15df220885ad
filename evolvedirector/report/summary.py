"""The figures of a run: what evolution did and what it cost, with keys that never change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from evolvedirector.evaluation.intervals import wilson_interval
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.buying.standings import Standing, added, past_standings
from evolvedirector.records import RoundFigures, Verdict
from evolvedirector.report.judges import corrected_shares
from evolvedirector.report.origins import failed_by_origin
from evolvedirector.report.savings import saved_by_looking
from evolvedirector.store.revision import RevisionFiles

if TYPE_CHECKING:
    from evolvedirector.store.dataset import DatasetStore


def teacher_share(store: DatasetStore, revision_sha: str) -> dict[str, Any]:
    """Count by skill what each teacher gave to a revision: the paper's table of select ratios (its Table 3).

    A fork sees its own past only. Images that are retired are not counted as trained.

    Args:
        store: The dataset, with its ledger.
        revision_sha: The revision.

    Returns:
        `overall` and `skills` (by skill); in both, by teacher: `images`, `share`, `duels`, `duels_won` (a tie counts
        one half), `win_rate` and `win_rate_interval` (95 %, Wilson; None without duels), `checked`, `unfaithful` (the
        judge's mistakes included), `refusals`, `failures`.
    """
    images: Counter[tuple[str, str]] = Counter(
        (entry.prompt.skill, entry.sample.teacher)
        for entry in store.state(revision_sha).entries.values()
        if entry.sample and entry.state != "retired"
    )
    standings = past_standings(store.ledger, revision_sha)
    keys = sorted({*images, *standings})
    skills = {
        skill: _rows(
            {name: images[skill, name] for of, name in keys if of == skill},
            {name: standings.get((skill, name), Standing()) for of, name in keys if of == skill},
        )
        for skill in dict.fromkeys(skill for skill, _ in keys)
    }
    names = sorted({name for _, name in keys})
    overall = _rows(
        {name: sum(count for (_, teacher), count in images.items() if teacher == name) for name in names},
        {name: added(*[item for (_, teacher), item in standings.items() if teacher == name]) for name in names},
    )
    return {"overall": overall, "skills": skills}


def _rows(images: Mapping[str, int], standings: Mapping[str, Standing]) -> dict[str, dict[str, Any]]:
    total = sum(images.values())
    return {
        name: {
            "images": images[name],
            "share": images[name] / total if total else None,
            "duels": standing.duels,
            "duels_won": standing.wins,
            "win_rate": standing.wins / standing.duels if standing.duels else None,
            "win_rate_interval": wilson_interval(standing.wins, standing.duels),
            "checked": standing.faithful + standing.unfaithful,
            "unfaithful": standing.unfaithful,
            "refusals": standing.refusals,
            "failures": standing.failures,
        }
        for name, standing in standings.items()
    }


SUMMARY_KEYS = (
    "rounds", "rounds_skipped", "revisions", "live", "mastered", "retired", "expanded", "deleted", "mutated",
    "teacher_calls", "judge_calls", "lost_calls", "cost_usd", "images_seen", "wall_s", "accuracy", "accuracy_interval",
    "accuracy_prompts", "accuracy_mean", "accuracy_mean_interval", "accuracy_by_kind", "win_rate", "win_rate_interval",
    "win_rate_held_out", "win_rate_by_training_judge", "win_rate_history", "forgetting", "embedding_arms", "subjects",
    "suites",
    "evaluation_teacher_calls", "evaluation_cost_usd", "teacher_share", "teacher_table", "judge_health",
    "rounds_detail", "failed_shares", "budget", "saved_by_looking", "failed_by_origin",
    "nonfinite_steps", "nonfinite_at", "background", "loop",
)  # fmt: skip
"""Keys of `summary.json`; a figure that a run has no reader for is null."""


def without_nan(figures: Any) -> Any:
    """Replace numbers that JSON cannot hold by null.

    Args:
        figures: Plain values, lists and mappings of them.
    """
    if isinstance(figures, Mapping):
        return {key: without_nan(value) for key, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [without_nan(value) for value in figures]
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures


def evolution_figures(store: DatasetStore, revision_sha: str, budget: Budget) -> dict[str, Any]:
    """Count what evolution did up to a revision: a part of `summary.json`.

    A fork counts the rounds of its own past only; spending is that of the whole root, whose forks share one ledger.
    Rounds that a judge below its floors left out are `rounds_skipped`. The win rate is the student's share of
    comparisons in the last round that had any, ties counted as half; judge health is what the last finished round
    measured of the judge. `failed_shares` are, by round and skill, failed shares without the judge's mistakes, with
    their 95 % interval; `failed_by_origin` are those of candidates by who wrote them.

    Args:
        store: The dataset, with its ledger.
        revision_sha: The revision.
        budget: What evolution may spend; reported as it is.
    """

    ledger, state, spend = store.ledger, store.state(revision_sha), store.ledger.spend()
    rounds = ledger.rounds.finished(revision_sha)
    skipped = sum(row.figures.skipped for row in rounds)
    entered = Counter(entry.prompt.origin for entry in state.entries.values() if entry.sample)
    deleted = sum(row.figures.decisions["retire"] for row in rounds)
    verdicts: Counter[Verdict] = Counter()
    for row in reversed(rounds):
        verdicts = Counter(item.verdict for item in ledger.looks.evidence(row.round_id) if item.verdict is not None)
        if verdicts["student"] + verdicts["teacher"] + verdicts["tie"]:
            break
    judged = verdicts["student"] + verdicts["teacher"] + verdicts["tie"]
    wins = verdicts["student"] + verdicts["tie"] / 2
    share: dict[str, Counter[str]] = {}
    for entry in state.entries.values():
        if entry.sample and entry.state != "retired":
            share.setdefault(entry.prompt.skill, Counter())[entry.sample.teacher] += 1
    detail = rounds_detail(store, revision_sha)
    return {
        "rounds": len(rounds) - skipped,
        "rounds_skipped": skipped,
        "revisions": store.number(revision_sha),
        **{name: len(state.in_state(name)) for name in ("live", "mastered", "retired")},  # type: ignore[arg-type]
        "expanded": entered["expansion"],
        "deleted": deleted,
        "mutated": entered["mutation"],
        "teacher_calls": spend.teacher_calls,
        "judge_calls": spend.judge_calls,
        "lost_calls": spend.lost_calls,
        "cost_usd": round(spend.cost_usd, 6),
        "win_rate": wins / judged if judged else None,
        "win_rate_interval": wilson_interval(wins, judged),
        "teacher_share": {
            skill: {name: count / counts.total() for name, count in counts.items()} for skill, counts in share.items()
        },
        "teacher_table": teacher_share(store, revision_sha),
        "judge_health": (rounds[-1].figures.judge or None) if rounds else None,
        "rounds_detail": detail,
        "failed_shares": [
            {"round": of["round"], "skills": _corrected(of, row.figures)}
            for of, row in zip(detail, rounds, strict=True)
        ],
        "budget": asdict(budget),
        "saved_by_looking": saved_by_looking(ledger, revision_sha),
        "failed_by_origin": failed_by_origin(ledger, revision_sha),
    }


def _corrected(detail: Mapping[str, Any], figures: RoundFigures) -> dict[str, Any]:
    return corrected_shares(detail["looked_by_skill"], detail["failed_by_skill"], figures.judge_accuracy)


def rounds_detail(store: DatasetStore, revision_sha: str) -> list[dict[str, Any]]:
    """List what each finished round up to a revision did, in order: the points of the curves over teacher calls.

    `teacher_calls` are the calls of these rounds up to the end of each, and those for seeds. Looked at and failed are
    images of the student with a readable answer, of unseen prompts and of probes; bought are samples that entered the
    dataset.

    Args:
        store: The dataset, with its ledger.
        revision_sha: The revision; a fork lists its own past only.
    """
    ledger = store.ledger
    spent = ledger.calls.by_round()
    calls = ledger.spend().teacher_calls - ledger.calls.in_rounds()  # the seeds belong to no round
    files, detail = RevisionFiles(store.root), []
    for row in ledger.rounds.finished(revision_sha):
        calls += spent.get(row.round_id, 0)
        seen = [item for item in ledger.looks.evidence(row.round_id) if item.reading in ("shows", "lacks")]
        seen = [item for item in seen if item.kind in ("screen", "probe")]
        news = [] if row.child_sha in (row.revision_sha, None) else files.body(row.child_sha)["samples"]
        prompts = ledger.prompts.get([*(item.prompt_id for item in seen), *(sample["prompt_id"] for sample in news)])
        known = [(prompts[item.prompt_id].skill, item.reading) for item in seen if item.prompt_id in prompts]
        looked = Counter(skill for skill, _ in known)
        failed = Counter(skill for skill, reading in known if reading == "lacks")
        detail.append(
            {
                "round": row.number,
                "global_step": row.global_step,
                "teacher_calls": calls,
                "skipped": row.figures.skipped,
                "looked_by_skill": dict(sorted(looked.items())),
                "failed_by_skill": {skill: failed[skill] for skill in sorted(looked)},
                "bought_by_skill": dict(sorted(Counter(prompts[s["prompt_id"]].skill for s in news).items())),
            }
        )
    return detail
