"""Kill -9 before every stage, in one and in the table: the same command goes on, and nothing is done twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from evolvedirector.evaluation.arm_table import read_table
from tests.callbacks.killed_stages import EVALUATED, EXPERTS, IMAGES_PER_PROMPT
from tests.distributed.launched import launch

PROMPTS = 16
SCRIPT = Path(__file__).with_name("killed_stages.py")


@pytest.mark.slow
def test_killed_between_any_two_stages_nothing_is_drawn_or_scored_twice(tmp_path: Path) -> None:
    launch(SCRIPT, tmp_path)
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    counts = Counter((killed / "asked").read_text().splitlines())
    assert counts == Counter((whole / "asked").read_text().splitlines())
    drawn = [count for word, count in counts.items() if word.startswith("draw ")]
    assert drawn == [1] * PROMPTS * IMAGES_PER_PROMPT
    assert counts["score bright"] == counts["score dull"] == len(drawn)
    arms = ["base", *EXPERTS, "uniform", "gate"]
    assert counts["score evaluator"] == len(arms) * EVALUATED
    one, two = (torch.load(folder / "result.pt", weights_only=True) for folder in (whole, killed))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    tables = [read_table(folder) for folder in (whole, killed)]
    assert tables[0] is not None and tables[1] is not None and list(tables[0].arms) == arms
    assert tables[0].to_plain() == tables[1].to_plain()
