"""The benchmark of a subject-driven model: fixed seeds, tables of nothing but what was run, bars that say so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import toffee
from benchmarks.toffee_plan import ARMS, ATTENTIONS, GUIDANCES, JOINT, SEEDS, STEPS, Job, Row, next_job, planned
from benchmarks.toffee_table import bars, report


def row_of(job: Job, **values: float) -> Row:
    figures = {"all": 0.9, "text": 0.9, "identity": 0.4, "to target": 0.5, "retrieval": 0.8, "left outside": 0.0}
    model = {name: {"value": value, "interval": None, "of": 4} for name, value in (figures | values).items()}
    target = {**model, "to target": {"value": 1.0, "interval": None, "of": 4}}
    text = {**model, "to target": {"value": 0.1, "interval": None, "of": 4}}
    ways = {"place from words": model, "box given": model, "edit": model, "text only": text, "exact target": target}
    about = {"arms": ways, "by_kind": {"place": ways, "style": ways}}
    more: dict[str, Any] = {}
    if job.arm == JOINT:
        more = {"trained": about}
        more["guidance"] = {str(v): {"box given": {**model, "to target": {"value": 0.1 + v / 10}}} for v in GUIDANCES}
        more["attention"] = {str(v): {"box given": model} for v in ATTENTIONS}
    return {**job.key(), "figures": {"held_out": about, **more}}


def test_the_plan_runs_the_joint_model_on_all_seeds_first_and_ends() -> None:
    jobs = planned()
    assert [job.seed for job in jobs[:3]] == [0, 1, 2] == list(SEEDS) and {job.arm for job in jobs[:3]} == {JOINT}
    assert len(jobs) == len(set(jobs)) == 27
    halves = [job.steps for job in jobs if "half" in job.arm]
    assert set(halves) == {STEPS // 2}, "two models of half the steps cost what the joint one does"
    rows: list[Row] = []
    while (job := next_job(rows, jobs)) is not None:
        rows.append(row_of(job))
    assert [(row["arm"], row["seed"]) for row in rows] == [(job.arm, job.seed) for job in jobs]


def test_bars_hold_or_do_not_and_what_was_not_run_is_named() -> None:
    rows = [row_of(job) for job in planned()[:2]]
    said = "\n".join(bars(rows))
    assert "W, all asked right: 0.900 (holds, at least .85)" in said
    assert "B, way from text-only to the exact target: 0.444 (holds, at least .25)" in said
    assert "does not hold" not in said and "holds: rises" in said
    assert "joint less generation alone, half the steps, box given, retrieval: not run" in said
    said = "\n".join(bars([row_of(job, all=0.2, retrieval=0.1) for job in planned()[:1]]))
    assert said.count("does not hold") == 3
    text = report(rows)
    assert "joint, seed 2" in text and "joint, seed 0" not in text.rpartition("Not run")[2]
    assert "| exact target |" in text and "| no reference dropout | not run |" in text


def test_a_report_of_nothing_says_that_nothing_was_run() -> None:
    text = report([])
    assert "joint: not run" in text and "holds" not in text and text.count("not run") > 15


def test_try_outs_stand_in_no_table_of_bars() -> None:
    rows = [row_of(Job(JOINT, 1000, 4))]
    assert "joint: not run" in report(rows)
    shown, _, said = report(rows, [1000]).partition("Bars")
    assert "joint: seeds 1000" in shown and "holds" not in said and said.count("not run") > 15


def test_the_joint_model_is_compared_on_seeds_that_both_have() -> None:
    jobs = [Job(JOINT, 0, STEPS), Job(JOINT, 1, STEPS), Job("generation alone, equal steps", 0, STEPS)]
    rows = [row_of(job, retrieval=value) for job, value in zip(jobs, (0.5, 1.0, 0.5), strict=True)]
    (line,) = [each for each in bars(rows) if "generation alone, equal steps, box given, retrieval" in each]
    assert ": 0.000 (" in line


def test_words_that_would_spoil_the_plan_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for words in (["--steps", "10"], ["--arms", "joined"]):
        monkeypatch.setattr(sys, "argv", ["toffee", *words, "--out", str(tmp_path / "out.json")])
        with pytest.raises(SystemExit):
            toffee.main()


def test_every_arm_says_what_it_changes() -> None:
    changed = [arm for name, arm in ARMS.items() if name != JOINT]
    assert all(arm != ARMS[JOINT] for arm in changed) and len(set(changed)) == len(changed)
