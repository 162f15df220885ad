"""Two ranks measure what one process measures, each drawing its share, and rank 0 alone pays."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore
from tests import toys

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


def measure(folder: Path, ranks: int, *words: str) -> list[dict[str, Any]]:
    prompts = [Prompt.create(f"tone {tone}", skill="tone") for tone in (95, 104, 105, 205, 215)]
    with DatasetStore(folder / "data", create=True) as store:
        images = [store.blobs.put(toys.flat_png(toys.tone_of(prompt.text))) for prompt in prompts]
        samples = tuple(Sample.create(p, sha256, "toy") for p, sha256 in zip(prompts, images, strict=True))
        first = store.publish(None, "first", RevisionChange(samples=samples))
        store.publish(first, "second", RevisionChange(states={prompt.id: "mastered" for prompt in prompts[1:]}))
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "evaluate_ranks.py"), str(folder), str(ranks), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


def test_two_ranks_know_what_one_knows(tmp_path: Path) -> None:
    (alone,) = measure(tmp_path / "one", 1)
    both = measure(tmp_path / "two", 2)
    assert both[0]["figures"] == both[1]["figures"] == alone["figures"]
    assert 0 < alone["figures"]["accuracy_mean"] < 1 and alone["figures"]["forgetting"]["prompts"] == 4
    assert [rank["asked"] for rank in both] == [alone["asked"], 0]
    assert both[0]["drawn"] == both[1]["drawn"] < alone["drawn"]


def test_a_reader_that_breaks_on_one_rank_costs_its_figures_on_all(tmp_path: Path) -> None:
    both = measure(tmp_path, 2, "broken")
    assert both[0]["figures"] == both[1]["figures"]
    assert "forgetting" not in both[0]["figures"] and "accuracy" not in both[0]["figures"]
    assert both[0]["figures"]["win_rate_held_out"]["toy"]["prompts"] == 8
