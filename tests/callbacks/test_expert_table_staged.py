"""The table at the end of a training in stages, with a gate and merges of every form, killed in the middle of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evolvedirector.callbacks import ExpertTable
from evolvedirector.evaluation.arm_table import ArmTable, read_table
from evolvedirector.experts import LoRA, Trained
from evolvedirector.experts.gate import GatedLoRA
from evolvedirector.experts.merge_settings import Merge
from evolvedirector.experts.stages import Stage
from tests.callbacks.expert_toys import HeldOut, Measures
from tests.callbacks.staged import DARK, LIGHT, Staged, made_root

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*"),
]
MERGES = {"uniform": Merge(experts=["dark", "light"]), "ties": Merge("ties", ["dark", "light"], rank=1, density=0.5)}
GATED = Trained(LoRA(2), experts=("dark", "light"), gate=GatedLoRA("pooled"))
ARMS = ["base", "dark", "light", "ties", "uniform", "gate"]


class Killed(Measures):
    """Ends the process, as it were, when it is to score so many arms."""

    def __init__(self, arms: int = 99) -> None:
        super().__init__("brightness", (1 / 3, 1 / 3, 1 / 3))
        self.arms = arms

    def score(self, items: Any) -> Any:
        if self.scored >= self.arms * 4:
            raise SystemExit
        return super().score(items)


def staged(folder: Path, root: Path, evaluator: Measures) -> Staged:
    stages = [Stage("dark", 4, DARK), Stage("light", 2, LIGHT), Stage("gate", 2, kind="gate")]
    table = ExpertTable({"brightness": evaluator}, HeldOut())
    return Staged(folder, root, trained=GATED, stages=stages, merges=MERGES, callbacks=[table], every=1)


def table_of(folder: Path) -> ArmTable:
    found = read_table(folder)
    assert found is not None
    return found


def test_a_run_killed_inside_the_table_goes_on_and_ends_alike(tmp_path: Path) -> None:
    root = made_root(tmp_path / "root")
    whole = staged(tmp_path / "whole", root, Killed()).fit()
    expected = table_of(tmp_path / "whole")
    assert list(expected.arms) == ARMS and len(expected.gates) > 1
    assert len({arm.key for arm in expected.arms.values()}) == len(ARMS)
    assert all(sum(of.values()) == pytest.approx(1) for of in expected.gates.values())
    means = {name: of.means["brightness"] for name, of in expected.figures().items()}
    assert len(set(means.values())) == len(ARMS), "each arm draws otherwise"
    with pytest.raises(SystemExit):
        staged(tmp_path / "killed", root, Killed(3)).fit()
    assert list(table_of(tmp_path / "killed").arms) == ARMS[:3]
    again = Killed()
    last = max(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir())
    assert staged(tmp_path / "killed", root, again).fit(last).trainer.global_step == whole.trainer.global_step
    assert again.scored == 3 * 4, "the finished arms are not scored again"
    assert table_of(tmp_path / "killed").to_plain() == expected.to_plain()
