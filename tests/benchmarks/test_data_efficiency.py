"""The data-efficiency benchmark: honest intervals, a grid that continues, and arms that spend the same."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest

from benchmarks import data_efficiency
from benchmarks.data_efficiency import load, paired_interval, report
from benchmarks.efficiency_pictures import draw_all


def run(arm: str, seed: int, accuracy: float, calls: int = 150) -> dict:
    rounds = [{"calls": 10, "bought": {"counting": 7, "position": 3}}, {"calls": 0, "bought": {}}]
    return {
        "arm": arm, "seed": seed, "n": 150, "images_seen": 960, "calls": calls, "accuracy_mean": accuracy,
        "accuracy": {"counting": accuracy, "position": accuracy}, "rounds": rounds, "seconds": 1,
    }  # fmt: skip


def test_the_interval_is_students_over_paired_differences() -> None:
    mean, low, high = paired_interval([0.7, 0.8, 0.9], [0.6, 0.7, 0.7])
    half = 4.30 * math.sqrt(((0.1 - 2 / 15) ** 2 * 2 + (0.2 - 2 / 15) ** 2) / 2) / math.sqrt(3)
    assert mean == pytest.approx(0.4 / 3) and (low, high) == pytest.approx((mean - half, mean + half))
    assert paired_interval([0.5], [0.4])[1:] == (-math.inf, math.inf)  # one pair says nothing


def test_the_report_pairs_arms_by_seed() -> None:
    runs = [run("static 5N", seed, 0.5 + seed / 100, 750) for seed in range(3)]
    runs += [run("screening N", seed, 0.6 + seed / 100) for seed in (2, 0, 1)]
    line = next(line for line in report(runs).splitlines() if line.startswith("| screening N"))
    assert "| 3 | 150 |" in line and "+0.100 (+0.100 to +0.100)" in line


def test_pictures_are_drawn_from_the_runs(tmp_path: Path) -> None:
    runs = [run("static N", 0, 0.2), run("static 5N", 0, 0.5, 750), run("screening N", 0, 0.6)]
    draw_all(runs, tmp_path)
    for name in ("data_efficiency.png", "spend_per_skill.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_missing_file_is_an_empty_grid(tmp_path: Path) -> None:
    assert load(tmp_path / "none.json") == []
    (tmp_path / "some.json").write_text(json.dumps([run("static N", 0, 0.2)]))
    assert len(load(tmp_path / "some.json")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["static N", "no judge N", "screening N"])
def test_every_kind_of_arm_spends_exactly_n(arm: str) -> None:
    from benchmarks.efficiency_run import run as train

    result = train(arm, seed=0, images_seen=384, n=20)
    assert result["calls"] == 20 and set(result["accuracy"]) >= {"position", "counting"}


def test_runs_that_failed_do_not_end_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "no room left")

    monkeypatch.setattr(data_efficiency.subprocess, "run", failing)
    words = ["x", "--arms", "static N", "--seeds", "2", "--workers", "1", "--out", str(tmp_path / "runs.json")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match="2 of 2 runs failed"):
        data_efficiency.main()
    assert "static N, seed 1 failed:\nno room left" in capsys.readouterr().out
