"""The report shows both judges over training and marks where they are over 10 points apart."""

from pathlib import Path

import pytest

from evolvedirector.report.build import build_report
from evolvedirector.report.judges import gap_sentence, judge_gaps, judges_chart
from evolvedirector.report.run_folder import RunFolder
from tests.report_runs import RunBuilder


def summary(training: float, evaluation: float, **more: object) -> dict:
    gap = {"win_rate": training, "difference": round(training - evaluation, 6), "same_verdict": 0.5}
    return {
        "win_rate_held_out": {"toy": {"win_rate": evaluation, "interval": [0.1, 0.4], "prompts": 20}},
        "win_rate_by_training_judge": {"toy": gap | more},
        "win_rate_history": [
            {"global_step": 10, "evaluation": {"toy": 0.2}, "training": {"toy": 0.25}},
            {"global_step": 20, "evaluation": {"toy": evaluation}, "training": {"toy": training}},
        ],
    }


@pytest.mark.parametrize(
    ("training", "evaluation", "says"),
    [(0.45, 0.25, "20 points higher"), (0.25, 0.45, "20 points lower"), (0.35, 0.25, ""), (0.25, 0.3, "")],
)
def test_a_divergence_of_over_10_points_is_marked(training: float, evaluation: float, says: str) -> None:
    gaps = judge_gaps(summary(training, evaluation))
    assert [gap["marked"] for gap in gaps] == [bool(says)]
    assert (says in gap_sentence(gaps)) if says else gap_sentence(gaps) == ""
    chart = judges_chart(summary(training, evaluation))
    assert chart is not None
    marks = [trace for trace in chart["traces"] if trace["mode"] == "markers"]
    assert [trace["x"] for trace in marks] == ([[20]] if says else [])


def test_one_judge_alone_is_no_comparison() -> None:
    alone = summary(0.4, 0.2) | {"win_rate_by_training_judge": None}
    alone["win_rate_history"] = [{"global_step": 10, "evaluation": {"toy": 0.2}, "training": {}}]
    assert judge_gaps(alone) == judge_gaps({}) == [] and judges_chart(alone) is judges_chart({}) is None


def test_a_reading_that_failed_leaves_a_gap_in_the_line() -> None:
    figures = summary(0.4, 0.2, difference=None)
    figures["win_rate_history"][0]["training"] = {"toy": None}
    chart = judges_chart(figures)
    assert judge_gaps(figures) == [] and chart is not None
    assert chart["traces"][1]["y"] == [None, 0.4]


def test_the_page_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolvedirector.report.build._plotly", lambda: "")
    builder = RunBuilder(tmp_path / "run").seeds("tone 1", "tone 2")
    run = builder.summary(**summary(0.45, 0.25)).close()
    page = build_report(RunFolder.open(run))
    assert "The two judges diverge" in page and "⚠ +20 points" in page and "Wins by both judges" in page
