"""Two processes hold the rounds over pairs that one process holds: the same looks, the same pairs, one writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.store import DatasetStore
from tests.distributed.launched import launch

SCRIPT = Path(__file__).with_name("pair_ranks.py")
pytestmark = pytest.mark.slow


def run(folder: Path, ranks: int) -> list[dict[str, Any]]:
    folder.mkdir()
    launch(SCRIPT, folder, ranks, ranks=ranks)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


def test_two_ranks_look_and_build_as_one_does(tmp_path: Path) -> None:
    (one,), two = run(tmp_path / "one", 1), run(tmp_path / "two", 2)
    assert {rank["revision"] for rank in two} == {one["revision"]}
    assert two[0]["weight"] == two[1]["weight"] == pytest.approx(one["weight"], abs=1e-6)
    assert all(rank["drawn"] >= one["drawn"] // 2 > 0 for rank in two), "each draws its share"
    rounds = []
    for name in ("one", "two"):
        with DatasetStore(tmp_path / name / "data") as store:
            rounds.append([(row.round_id, row.figures) for row in store.ledger.rounds.all()])
    assert rounds[0] == rounds[1]
