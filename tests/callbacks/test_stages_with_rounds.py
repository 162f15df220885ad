"""Rounds between stages, and before the first: what they buy is trained on, and a run goes on from each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.experts.stages import Stage
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.records.subset import Subset
from tests.callbacks.staged import Staged, made_root
from tests.toys import ToyJudge, ToyTeacher, ToyWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")
TWO = (Stage("dark", 4, Subset(["dark"])), Stage("light", 4, Subset(["light"])))


def run(folder: Path, root: Path, rounds_first: bool) -> Staged:
    evolution = EvolutionCallback(
        {"toy": ToyTeacher()}, ToyJudge(), ToyWriter(), EvolveDirectorPolicy(expansions=1), judge_health=False,
        every_n_epochs=2, first_rounds=1, rehearse=False,
    )  # fmt: skip
    made = Staged(folder, root, stages=TWO, merges={}, every=1, callbacks=[evolution])
    if rounds_first:
        made.trainer.callbacks.remove(evolution)  # type: ignore[attr-defined]
        made.trainer.callbacks.insert(0, evolution)  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("rounds_first", [True, False])
def test_a_run_goes_on_from_every_round(tmp_path: Path, rounds_first: bool) -> None:
    root = made_root(tmp_path / "data")
    whole = run(tmp_path, root, rounds_first).fit()
    revisions = {step: seen[0] for step, seen in whole.module.seen.items()}
    assert all(skills == {"dark"} for skills in list(revisions.values())[:4])
    for checkpoint in ("step-00000000-round", "step-00000004-round", "step-00000005"):
        again = run(tmp_path, root, rounds_first)
        again.fit(checkpoint)
        step = int(checkpoint.split("-")[1])
        assert again.module.seen == {at: seen for at, seen in whole.module.seen.items() if at >= step}
        weights: Any = zip(again.weights().values(), whole.weights().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in weights)
