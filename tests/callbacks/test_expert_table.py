"""The table of a run with experts: same prompts under every arm, each arm once, no evaluator that chose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from evolvedirector.callbacks import ExpertStages, ExpertTable, RunSummary
from evolvedirector.errors import RunError, UserError
from evolvedirector.evaluation.arm_table import ArmTable, picture_path, read_table, table_path
from evolvedirector.evolution import Budget
from evolvedirector.evolution.round_id import RoundSettings
from evolvedirector.evolution.schedule import RoundSchedule
from evolvedirector.experts.expert_files import write_expert
from evolvedirector.experts.gate import GatedLoRA, install_gates
from evolvedirector.experts.stages import Stage
from evolvedirector.planning.roles import EvolutionPlan
from evolvedirector.policies.best_of_n import Aspect, BestOfN
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.store.images import decode_image
from tests.callbacks.expert_toys import (
    CHANGES,
    HELD_OUT,
    Data,
    Measures,
    Painter,
    evaluators,
    expert_named,
    trainer_of,
    write_experts,
)
from tests.toys import ToyJudge, ToyStudent, ToyWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*dataloader.*")


def made(folder: Path, table: ExpertTable, painter: Painter | None = None, **options) -> ArmTable:
    painter = painter or Painter()
    trainer_of(folder, table, **options).fit(painter, datamodule=Data())
    found = read_table(folder)
    assert found is not None
    return found


def test_every_arm_draws_the_same_prompts_and_the_figures_are_those_of_the_experts(tmp_path: Path) -> None:
    write_experts(tmp_path)
    painter = Painter()
    answer = painter.network.line.weight.clone()
    table = made(tmp_path, ExpertTable(evaluators(), images_per_prompt=2, shown_prompts=3), painter)
    assert list(table.arms) == ["base", "bright", "red", "uniform"]
    assert [arm.kind for arm in table.arms.values()] == ["base", "expert", "expert", "merge"]
    assert painter.asked == 4 * 2 * len(HELD_OUT)
    figures = table.figures()
    mean = sum(int(prompt.text.split()[1]) for prompt in HELD_OUT) / len(HELD_OUT)
    for name, (red, green, blue) in {**CHANGES, "uniform": [0.15, 0.0, 0.0]}.items():
        found = figures[name].differences
        assert found["bright"].mean == pytest.approx(mean * (red + green + blue) / 3, abs=0.7)  # 8 bits a colour
        assert found["red"].mean == pytest.approx(mean * (red - (green + blue) / 2), abs=0.7)
        assert found["bright"].prompts == len(HELD_OUT)
    assert figures["red"].worst == "bright" and figures["red"].differences["bright"].is_surely_below
    assert figures["uniform"].is_nowhere_below
    assert table.arms["uniform"].about["merge"]["method"] == "product_mean"
    assert (painter.network.line.weight == answer).all() and painter.network.line.active_adapters == ["bright"]
    for arm in table.arms.values():
        assert len(arm.pictures) == 3
        pictures = [picture_path(tmp_path, sha256).read_bytes() for sha256 in arm.pictures.values()]
        assert all(decode_image(picture).shape == (8, 8, 3) for picture in pictures)


def test_finished_arms_are_not_drawn_or_scored_again(tmp_path: Path) -> None:
    write_experts(tmp_path, merge=False)
    scores = evaluators()
    first = made(tmp_path, ExpertTable(scores))
    painter, again = Painter(), evaluators()
    assert made(tmp_path, ExpertTable(again), painter).arms == first.arms
    assert painter.asked == again["red"].scored == 0
    write_experts(tmp_path)  # a merge that was made later
    assert list(made(tmp_path, ExpertTable(again), painter).arms) == ["base", "bright", "red", "uniform"]
    assert painter.asked == again["red"].scored == len(HELD_OUT)


def test_other_weights_prompts_or_evaluators_are_other_arms(tmp_path: Path) -> None:
    write_experts(tmp_path, merge=False)
    made(tmp_path, ExpertTable(evaluators()))
    for changed in (
        ExpertTable({**evaluators(), "red": Measures("red", (1.0, 0.0, 0.0))}),
        ExpertTable(evaluators(), images_per_prompt=2),
        ExpertTable(evaluators(), max_prompts=3),
    ):
        painter = Painter()
        table = made(tmp_path, changed, painter)
        assert painter.asked == 3 * (len(table.images) + len(table.images) % 2)  # whole chunks of two
    made(tmp_path, ExpertTable(evaluators()))
    write_experts(tmp_path, merge=False)
    (tmp_path / "experts" / "red.safetensors").write_bytes((tmp_path / "experts" / "bright.safetensors").read_bytes())
    with pytest.raises(UserError, match="Two arms are called 'bright'"):
        made(tmp_path, ExpertTable(evaluators()))


class Breaks(Measures):
    """Works for so many arms."""

    def __init__(self, arms: int) -> None:
        super().__init__("red", (1.0, -0.5, -0.5))
        self.arms = arms

    def score(self, items):
        if self.scored >= self.arms * len(HELD_OUT):
            raise OSError("outage")
        return super().score(items)


def test_a_run_that_breaks_off_keeps_the_finished_arms(tmp_path: Path) -> None:
    write_experts(tmp_path)
    with pytest.warns(UserWarning, match="unfinished at the arm red: an evaluator broke off: .*outage"):
        table = made(tmp_path, ExpertTable({"red": Breaks(2)}))
    assert list(table.arms) == ["base", "bright"]
    painter = Painter()
    assert list(made(tmp_path, ExpertTable({"red": Breaks(9)}), painter).arms)[2:] == ["red", "uniform"]
    assert painter.asked == 2 * len(HELD_OUT)
    with pytest.raises(RunError, match="broke off at the arm base"):
        trainer_of(tmp_path, ExpertTable({"other": Breaks(0)}), limit_val_batches=1).validate(
            Painter(), datamodule=Data()
        )


def test_a_table_that_was_damaged_is_made_anew_with_a_warning(tmp_path: Path) -> None:
    write_experts(tmp_path)
    table_path(tmp_path).write_text('{"arms": {"base": 3}}')
    with pytest.warns(UserWarning, match="is no table of arms .* drawn and scored anew"):
        assert len(made(tmp_path, ExpertTable(evaluators())).arms) == 4


def test_a_run_that_is_over_is_completed_by_validate(tmp_path: Path) -> None:
    write_experts(tmp_path)
    table = ExpertTable(evaluators())
    trainer_of(tmp_path, table, limit_val_batches=1).validate(Painter(), datamodule=Data(), verbose=False)
    assert len(read_table(tmp_path).arms) == 4


def test_a_gate_is_an_arm_whose_choices_are_kept_by_layer(tmp_path: Path) -> None:
    write_experts(tmp_path, merge=False)
    painter = Painter()
    install_gates(painter.network, list(CHANGES), GatedLoRA("token"))
    painter.network.line.gate_router.weight.data = 0.1 + painter.network.line.gate_router.weight.data * 0
    painter.network.line.gate_router.weight.data[1] = -2.0
    table = made(tmp_path, ExpertTable(evaluators()), painter)
    assert list(table.arms)[-1] == "gate" and table.arms["gate"].kind == "gate"
    weights = table.gates["line"]
    assert weights["bright"] + weights["red"] == pytest.approx(1) and weights["bright"] > 0.6
    difference = table.figures()["gate"].differences["bright"].mean
    assert 0 < difference < table.figures()["bright"].differences["bright"].mean
    again = Painter()
    install_gates(again.network, list(CHANGES), GatedLoRA("token"))
    changed = made(tmp_path, ExpertTable(evaluators()), again)
    assert again.asked == len(HELD_OUT) and changed.gates["line"]["red"] == pytest.approx(0.5)


def test_skills_are_columns_as_in_selma(tmp_path: Path) -> None:
    write_experts(tmp_path)
    table = made(tmp_path, ExpertTable({"reader": evaluators()["bright"]}, by_skill=True))
    assert set(table.figures()["bright"].differences) == {"dark", "light"}
    assert table.figures()["bright"].differences["dark"].prompts == 2


def test_the_summary_names_the_worst_aspect_of_each_arm(tmp_path: Path) -> None:
    write_experts(tmp_path)
    trainer_of(tmp_path, RunSummary(), ExpertTable(evaluators())).fit(Painter(), datamodule=Data())
    found = json.loads((tmp_path / "summary.json").read_text())["experts"]
    assert list(found) == ["bright", "red", "uniform"]
    assert found["red"]["worst_aspect"] == "bright" and found["red"]["t"] < 0 > found["red"]["effect"]
    assert found["uniform"]["nowhere_below_base"] is True


def test_a_smoke_test_makes_none(tmp_path: Path) -> None:
    trainer_of(tmp_path, ExpertTable(evaluators()), fast_dev_run=True).fit(Painter(), datamodule=Data())
    assert not (tmp_path / "experts").exists()


def test_what_no_table_can_be_made_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evaluators is empty"):
        ExpertTable({})
    with pytest.raises(UserError, match="images_per_prompt is 0"):
        ExpertTable(evaluators(), images_per_prompt=0)
    with pytest.raises(UserError, match="a table of arms needs at least one"):
        made(tmp_path, ExpertTable(evaluators()))
    with pytest.raises(RunError, match="ToyStudent cannot draw with experts"):
        trainer_of(tmp_path, ExpertTable(evaluators())).fit(ToyStudent(), datamodule=Data())


def test_an_expert_draws_with_what_it_stands_on_and_both_are_told(tmp_path: Path) -> None:
    write_experts(tmp_path, merge=False)
    stage = {"trains_on": {"skills": ["dark"]}, "on_top_of": {"bright": 0.5}}
    top = replace(expert_named("red"), provenance={"stage": stage})
    write_expert(top, tmp_path / "experts" / "red.safetensors")
    table = made(tmp_path, ExpertTable(evaluators()))
    assert table.arms["red"].about["trained_on"] == "{skills: [dark]} on top of 0.5 bright"
    means = {name: of.differences["bright"].mean for name, of in table.figures().items() if name != "base"}
    own = sum(CHANGES["red"]) / sum(CHANGES["bright"]) * means["bright"]
    assert means["red"] == pytest.approx(own + 0.5 * means["bright"], abs=1.0)  # of 255
    (tmp_path / "experts" / "bright.safetensors").unlink()
    with pytest.raises(UserError, match="trained on top of 'bright', whose file is not beside it"):
        made(tmp_path, ExpertTable(evaluators()))


def test_an_expert_of_another_base_is_no_arm(tmp_path: Path) -> None:
    write_experts(tmp_path)
    alien = tmp_path / "experts" / "alien.safetensors"
    write_expert(replace(expert_named("red"), name="alien", base_digest="1" * 12), alien)
    with pytest.raises(UserError, match=r"'alien' was trained beside other weights \(1{12}\) .* student's \(0{12}\)"):
        made(tmp_path, ExpertTable(evaluators()))
    alien.unlink()
    assert len(made(tmp_path, ExpertTable(evaluators())).arms) == 4


class Selects(pl.Callback):
    """Stands for EvolutionCallback: says who chooses the training data."""

    def __init__(self, policy: Any) -> None:
        rewards = {"mine": evaluators()["red"], "seen only": evaluators()["bright"]}
        self.settings = RoundSettings({}, ToyJudge(), ToyWriter(), policy, Budget(), rewards=rewards)

    def evolution(self) -> EvolutionPlan:
        return EvolutionPlan(self.settings, RoundSchedule(1, 1))


def test_a_reward_that_selects_is_never_the_evaluator(tmp_path: Path) -> None:
    write_experts(tmp_path)
    best_of_n = BestOfN({"warm": Aspect("mine", top_share=0.5)})
    with pytest.raises(UserError, match=r"evaluators.red is the reward 'mine', which selects .* config says both"):
        trainer_of(tmp_path, Selects(best_of_n), ExpertTable(evaluators())).fit(Painter(), datamodule=Data())
    other = ExpertTable({"bright": evaluators()["bright"]})
    trainer_of(tmp_path, Selects(best_of_n), other).fit(Painter(), datamodule=Data())  # it measures candidates only
    with pytest.raises(UserError, match="is the reward 'seen only', which selects"):
        trainer_of(tmp_path, Selects(EvolveDirectorPolicy()), other).fit(Painter(), datamodule=Data())


def test_it_stands_behind_the_stages(tmp_path: Path) -> None:
    stages = ExpertStages([Stage("bright", 2)])
    with pytest.raises(UserError, match="ExpertTable stands before ExpertStages"):
        trainer_of(tmp_path, ExpertTable(evaluators()), stages).fit(Painter(), datamodule=Data())


@pytest.mark.slow
def test_two_ranks_make_the_table_that_one_makes(tmp_path: Path) -> None:
    tables = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        write_experts(folder)
        command = [sys.executable, str(Path(__file__).with_name("expert_table_ranks.py")), str(folder), str(ranks)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
        tables.append(json.loads(table_path(folder).read_text()))
        each = f"{5 * len(HELD_OUT) // ranks} {5 * len(HELD_OUT) // ranks}"
        assert [(folder / f"rank{rank}.txt").read_text() for rank in range(ranks)] == [each] * ranks
    assert tables[0] == tables[1]
