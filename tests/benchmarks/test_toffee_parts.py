"""The benchmarks of Toffee's refiner and view generator say of what model their figures are, and of what training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import toffee_refiner, toffee_views


def test_views_of_another_seed_world_or_training_are_never_measured_on_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[Any, ...]] = []
    measured: list[Path] = []

    def train(out: Path, seed: int, world: str, overrides: list[str]) -> dict[str, Any]:
        trained.append((seed, world, *overrides))
        (out / "export").mkdir()
        return {}

    monkeypatch.setattr(toffee_views, "train", train)
    monkeypatch.setattr(toffee_views, "measure", lambda out, seed, world: measured.append(out) or {"seed": seed})
    asked = [[], ["--seed=1"], ["--world=emoji"], ["--trainer.max_steps=2"], []]
    for words in asked:
        monkeypatch.setattr(sys, "argv", ["toffee_views", "views", f"--out={tmp_path}", *words])
        toffee_views.main()
    assert trained == [(0, "shapes"), (1, "shapes"), (0, "emoji"), (0, "shapes", "--trainer.max_steps=2")]
    assert len(set(measured)) == 4 and measured[0] == measured[-1]


def test_a_training_that_was_interrupted_has_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(words: list[str]) -> int:
        for made in (tmp_path / "run", tmp_path / "export"):
            made.mkdir(exist_ok=True)
        return 0

    monkeypatch.setattr(toffee_refiner, "evolvedirector", command)
    assert toffee_refiner.trained(0, tmp_path, 2)[1] is not None
    assert toffee_refiner.trained(0, tmp_path, 2) == (tmp_path / "export", None)
