"""`evolvedirector compare`: runs side by side, and one sentence where there is nothing to compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evolvedirector.cli import main
from evolvedirector.commands.compare import comparison


def summary(folder: Path, **figures: object) -> Path:
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"teacher_calls": 100, **figures}))
    return folder


def test_runs_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on = summary(tmp_path / "on", accuracy={"counting": 0.5, "single_object": 1.0}, accuracy_mean=0.75)
    off = summary(tmp_path / "off", accuracy={"single_object": 0.25}, accuracy_mean=0.25, teacher_calls=None)
    assert main(["compare", str(on), str(off)]) == 0
    lines = {line.split("  ")[0].strip(): line.split()[-2:] for line in capsys.readouterr().out.splitlines()}
    assert lines["single_object"] == ["1.00", "0.25"]
    assert lines["counting"] == ["0.50", "-"]
    assert lines["mean accuracy"] == ["0.75", "0.25"]
    assert lines["teacher calls"] == ["100", "-"]


def test_held_out_and_trained_kinds_stand_apart() -> None:
    kinds = {"tone": {"held_out": {"share": 0.5, "prompts": 2}, "trained": {"share": 1.0, "prompts": 10}}}
    rows = comparison([{"accuracy": {"tone": 0.92}, "accuracy_by_kind": kinds}, {"accuracy": {"tone": 0.25}}])
    assert rows[:3] == [
        ["tone", "0.92", "0.25"], ["tone, held-out kinds", "0.50", "-"], ["tone, trained kinds", "1.00", "-"]
    ]  # fmt: skip


def test_a_run_without_accuracy_still_has_its_spending() -> None:
    rows = dict(map(tuple, comparison([{"accuracy": None, "teacher_calls": 1234}])))  # type: ignore[arg-type]
    assert rows["teacher calls"] == "1,234" and rows["mean accuracy"] == "-"


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "has no summary.json"), ("{", "is no JSON"), ("[]", "is no summary of a run"), ("{}", "no teacher_calls")],
)
def test_what_is_no_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], content, says) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    assert main(["compare", str(tmp_path)])
    assert says in " ".join(capsys.readouterr().err.split())
