"""`evolvedirector report`: a page per run, a comparison for several, and one sentence for what is no run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from evolvedirector.cli import main
from evolvedirector.report import build
from tests.report_runs import small_run


@pytest.fixture(autouse=True)
def _small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_plotly", lambda: "const Plotly = {};")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "one"))


def test_one_run_gets_its_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    path = run / "report" / "index.html"
    assert f"Report: {path}" in capsys.readouterr().out
    assert "<title>one · report</title>" in path.read_text(encoding="utf-8")


def test_several_runs_are_compared(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Path(shutil.copytree(run, run.with_name("other")))
    assert main(["report", str(run), str(other)]) == 0
    assert f"Comparison: {run.parent / 'comparison.html'}" in capsys.readouterr().out
    assert "one · other · comparison" in (run.parent / "comparison.html").read_text(encoding="utf-8")
    assert (run / "report" / "index.html").exists() and (other / "report" / "index.html").exists()


def test_the_page_can_go_elsewhere(run: Path, tmp_path: Path) -> None:
    assert main(["report", str(run), "--output", str(tmp_path / "away" / "page.html")]) == 0
    assert (tmp_path / "away" / "page.html").exists() and not (run / "report").exists()


def test_data_elsewhere_is_named(run: Path, tmp_path: Path) -> None:
    (run / "data").rename(tmp_path / "moved")
    assert main(["report", str(run), "--data", str(tmp_path / "moved")]) == 0
    assert "tone 21" in (run / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["missing"], "is no folder"),
        (["."], "is no run folder"),
        (["one", "one", "--data", "one/data"], "--data names one dataset root"),
        (["one", "--watch", "--port", "70000"], "--port is 70000"),
        (["one", "one", "--watch"], "--watch serves the page of one run"),
        (["one"] * 13, "13 runs are given"),
    ],
)
def test_mistakes_are_told_in_one_paragraph(
    run: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    assert main(["report", *words]) == 2
    said = capsys.readouterr().err
    assert says in " ".join(said.split()) and "Traceback" not in said
