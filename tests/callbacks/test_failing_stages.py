"""Experts for the skills that rounds see fail: who gets one, what they stand on, who draws between them, and resume."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from evolvedirector.errors import RunError, UserError
from evolvedirector.experts import LoRA, Trained
from evolvedirector.experts.expert_files import read_expert
from evolvedirector.experts.lora import adapter_of
from evolvedirector.policies import EvolveDirectorPolicy
from tests.callbacks.failing_toys import PLAN, SLOTS, at_work, run
from tests.callbacks.staged import Staged, made_root

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*litmodels.*", "ignore:.*val_dataloader.*", "ignore:.*refused in this round.*"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_root(tmp_path_factory.mktemp("root") / "data")


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    return run(tmp_path_factory.mktemp("whole"), root).fit()


def test_the_skills_that_fail_most_get_the_experts(whole: Staged) -> None:
    skills = [whole.module.seen[step][0] for step in range(6)]
    assert skills == [{"light"}] * 2 + [{"dark"}] * 2 + [{"light"}] * 2  # the judge sees light ones fail
    told = read_expert(whole.folder / "experts" / "two.safetensors").provenance["stage"]
    assert told["failing"] == 2 and told["trains_on"] == {"skills": ["dark"]}


def test_rounds_draw_with_what_the_next_stage_stands_on(whole: Staged) -> None:
    drawn: Any = whole.drawn  # type: ignore[attr-defined]
    works = {step: now for step, now in drawn}
    assert works[2] == {} and works[4] == {"one": 0.5, "two": 0.25}


def test_an_expert_learns_on_top_of_others_that_stay_as_they_are(whole: Staged) -> None:
    before = {name: read_expert(whole.folder / "experts" / f"{name}.safetensors") for name in SLOTS}
    for part, value in whole.weights().items():
        name, layer = adapter_of(part), part.removeprefix("transformer.").rpartition(".lora_")[0]
        place = 0 if "lora_A" in part else 1
        assert name is not None and torch.equal(value, before[name].factors[layer][place])
    assert at_work(whole) == {"three": 1.0, "one": 0.5, "two": 0.25}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


BOUNDARIES = [
    "00000002",
    "00000004-round",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("00000000-round", "00000002-round", "00000003")),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("00000004", "00000005")),
]


@pytest.mark.parametrize("name", BOUNDARIES)
def test_a_run_that_goes_on_from_any_boundary_ends_alike(root: Path, tmp_path: Path, whole: Staged, name: str) -> None:
    shutil.copytree(whole.folder / "checkpoints", tmp_path / "checkpoints")
    again = run(tmp_path, root)
    again.fit(f"step-{name}")
    step = int(name[:8])
    assert again.module.seen == {at: seen for at, seen in whole.module.seen.items() if at >= step}
    assert same(again.weights(), whole.weights())
    assert (tmp_path / "experts" / "last.json").read_text() == (whole.folder / "experts" / "last.json").read_text()


def test_skills_of_no_round_are_told(tmp_path: Path) -> None:
    root = made_root(tmp_path / "data")
    with pytest.raises(RunError, match="no round has screened candidates"):
        run(tmp_path, root, EvolveDirectorPolicy(), stages=PLAN[:2], merges={}).fit()
    with pytest.raises(UserError, match="no callback holds rounds"):
        Staged(tmp_path, root, trained=Trained(LoRA(2), experts=SLOTS), stages=PLAN[:2], merges={}).fit()


def test_rounds_stand_behind_stages_that_they_draw_for(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Put ExpertStages before EvolutionCallback"):
        run(tmp_path, root, rounds_first=True).fit()
