"""Two processes find the skills that one process finds, train the same experts, and go on between any two stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evolvedirector.experts.expert_files import read_expert
from tests.callbacks.failing_toys import SLOTS
from tests.callbacks.staged import made_root
from tests.distributed.launched import launch
from tests.distributed.test_stage_ranks import differs

SCRIPT = Path(__file__).with_name("evolving_stage_ranks.py")
pytestmark = pytest.mark.slow
Run = Callable[..., tuple[dict[str, torch.Tensor], Path]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    of_all, finished = tmp_path_factory.mktemp("evolving"), {}

    def once(strategy: str, checkpoint: str = "-") -> tuple[dict[str, torch.Tensor], Path]:
        folder, root = of_all / f"{strategy}{checkpoint}", of_all / f"{strategy}-data"
        if folder not in finished:
            if not root.exists():
                made_root(root)
            folder.mkdir()
            if checkpoint != "-":
                shutil.copytree(of_all / f"{strategy}-" / "checkpoints", folder / "checkpoints")
            launch(SCRIPT, strategy, root, folder, checkpoint, ranks=1 if strategy == "single" else 2)
            finished[folder] = torch.load(folder / "result.pt", weights_only=True)
        return finished[folder], folder

    return once


def told(folder: Path) -> dict[str, Any]:
    """What was trained on, what rounds drew with, and what each expert was trained from."""
    experts = {name: read_expert(folder / "experts" / f"{name}.safetensors").provenance for name in SLOTS}
    made = {
        name: {key: said[key] for key in ("stage", "global_step", "revision_sha")} for name, said in experts.items()
    }
    return json.loads((folder / "seen.json").read_text()) | made


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_give_the_skills_that_fail_the_experts_that_one_process_gives_them(run: Run, strategy: str) -> None:
    (one, alone), (two, folder) = run("single"), run(strategy)
    assert told(folder) == told(alone)
    assert told(alone)["skills"] == {str(step): ["dark" if step in (2, 3) else "light"] for step in range(6)}
    assert told(alone)["drew with"]["4"] == {"one": 0.5, "two": 0.25}  # the merge, at its stated round
    assert differs(two, one) < 1e-2
    found, expected = (read_expert(place / "experts" / "last.safetensors") for place in (folder, alone))
    assert all(torch.allclose(found.update(layer), expected.update(layer), atol=1e-4) for layer in expected.factors)
    assert max(float(expected.update(layer).abs().max()) for layer in expected.factors) > 1e-3


@pytest.mark.parametrize(("strategy", "name"), [("ddp", "step-00000005"), ("fsdp", "step-00000004-round")])
def test_ranks_go_on_before_the_merge_and_on_top_of_it(run: Run, strategy: str, name: str) -> None:
    (whole, folder), (again, later) = run(strategy), run(strategy, name)
    assert all(torch.equal(whole[part], again[part]) for part in whole)
    assert (later / "experts" / "last.json").read_text() == (folder / "experts" / "last.json").read_text()
