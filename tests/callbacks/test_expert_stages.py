"""Stages of experts inside one training: each begins anew, reads its own samples, and resumes at any step."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from peft.tuners.lora import LoraLayer

from evolvedirector.errors import RunError, UserError
from evolvedirector.experts.expert_files import read_expert
from evolvedirector.experts.lora import adapter_of
from evolvedirector.experts.merge_settings import Merge
from evolvedirector.experts.stages import Stage
from tests.callbacks.staged import DARK, LIGHT, Staged, made_root

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_root(tmp_path_factory.mktemp("root") / "data")


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    """All stages, uninterrupted, with a checkpoint after every step."""
    return Staged(tmp_path_factory.mktemp("whole"), root, every=1).fit()


def of_expert(weights: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {part: value for part, value in weights.items() if adapter_of(part) == name}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_each_stage_trains_on_its_samples_with_a_schedule_of_its_own(whole: Staged) -> None:
    skills = [whole.module.seen[step][0] for step in range(8)]
    assert skills[:4] == [{"dark"}] * 4 and skills[4:6] == [{"light"}] * 2
    assert set.union(*skills[6:]) == {"dark", "light"}
    rates = [whole.module.seen[step][2] for step in range(8)]
    assert rates == pytest.approx([0.01, 0.005, 0.01 / 3, 0.0025, 0.01, 0.005, 0.01, 0.005])


def test_experts_and_merges_are_written_with_what_they_were_made_of(whole: Staged) -> None:
    folder = whole.folder / "experts"
    assert {path.name for path in folder.glob("*.safetensors")} == {
        "dark.safetensors", "light.safetensors", "joint.safetensors", "uniform.safetensors"
    }  # fmt: skip
    dark, light, uniform = (read_expert(folder / f"{name}.safetensors") for name in ("dark", "light", "uniform"))
    assert dark.provenance["stage"]["trains_on"] == {"skills": ["dark"]} and dark.provenance["global_step"] == 4
    assert dark.provenance["revision_sha"] == whole.data.revision_sha
    layer = next(iter(dark.factors))
    torch.testing.assert_close(uniform.update(layer), (dark.update(layer) + light.update(layer)) / 2)


@pytest.mark.parametrize("average", [True, False])
def test_an_expert_does_not_depend_on_those_before_it(root: Path, tmp_path: Path, whole: Staged, average: bool) -> None:
    before = whole if average else Staged(tmp_path / "all", root, average=False).fit()
    alone = Staged(tmp_path / "alone", root, average=average, only="light").fit()
    assert same(of_expert(before.weights(), "light"), of_expert(alone.weights(), "light"))
    assert not same(of_expert(alone.weights(), "light"), of_expert(Staged(tmp_path, root).fresh(), "light"))
    assert same(of_expert(alone.weights(), "dark"), of_expert(Staged(tmp_path, root).fresh(), "dark"))


def test_averaged_weights_become_those_of_the_expert(whole: Staged) -> None:
    assert same(whole.weights(), whole.averages())
    kept = read_expert(whole.folder / "experts" / "dark.safetensors")
    layer, (down, _) = next(iter(kept.factors.items()))
    assert torch.equal(whole.weights()[f"transformer.{layer}.lora_A.dark.weight"], down)


@pytest.mark.parametrize("step", range(1, 8))
def test_a_run_that_goes_on_from_any_step_ends_alike(root: Path, tmp_path: Path, whole: Staged, step: int) -> None:
    shutil.copytree(whole.folder / "checkpoints", tmp_path / "checkpoints")
    again = Staged(tmp_path, root, every=1).fit(f"step-{step:08d}")
    assert again.module.seen == {at: seen for at, seen in whole.module.seen.items() if at >= step}
    assert same(again.weights(), whole.weights()) and same(again.averages(), whole.averages())
    for name in ("joint", "uniform"):
        assert (tmp_path / "experts" / f"{name}.json").read_text() == (
            whole.folder / "experts" / f"{name}.json"
        ).read_text()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"stages": [Stage("blue", 4)]}, "trained.experts: [dark, light, joint, blue]"),
        ({"stages": [Stage("dark", 3)], "max_steps": 3, "merges": {}}, "Write steps: 4"),
        ({"max_steps": 6}, "Write trainer.max_steps: 8"),
        ({"stages": [Stage("gate", 4, kind="gate")], "merges": {}}, "trained.gate: {kind: pooled}"),
        ({"merges": {"uniform": Merge(experts=["dark", "blue"])}}, "'blue', which no stage trains"),
        ({"merges": {"light": Merge(experts=["dark", "light"])}}, "no name of a stage"),
        ({"only": "blue"}, "Write only: dark"),
        ({"max_epochs": 3}, "Write trainer.max_steps: 8"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_step(
    root: Path, tmp_path: Path, settings: dict[str, Any], line: str
) -> None:
    with pytest.raises((UserError, RunError), match=re.escape(line)):
        Staged(tmp_path, root, **settings).fit()
    assert not (tmp_path / "experts").exists() and not (tmp_path / "checkpoints").exists()


def test_a_stage_without_a_sample_says_what_there_is(root: Path, tmp_path: Path) -> None:
    stages = [Stage("dark", 2, DARK), Stage("light", 2, type(LIGHT)(["bright"]))]
    with pytest.raises(RunError, match=r"no sample of the subset \{skills: \[bright\]\}\. It has skills dark, light"):
        Staged(tmp_path, root, stages=stages, merges={}).fit()
    assert (tmp_path / "experts" / "dark.safetensors").exists()


def test_a_smoke_test_tries_a_stage_and_writes_nothing(root: Path, tmp_path: Path) -> None:
    run = Staged(tmp_path, root, fast_dev_run=True, max_steps=-1).fit()
    assert len(run.module.seen) == 1 and not (tmp_path / "experts").exists()


class Draws(Callback):
    """Notes which expert works when a run goes on, before any hook of the stages' own."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        layers = [part for part in pl_module.modules() if isinstance(part, LoraLayer)]
        self.active = {name for layer in layers for name in layer.active_adapters}


def test_a_run_that_goes_on_draws_with_the_expert_of_its_stage_at_once(
    root: Path, tmp_path: Path, whole: Staged
) -> None:
    shutil.copytree(whole.folder / "checkpoints", tmp_path / "checkpoints")
    again, draws = Staged(tmp_path, root), Draws()
    again.trainer.callbacks.insert(0, draws)  # type: ignore[attr-defined]
    again.fit("step-00000005")
    assert draws.active == {"light"}
