"""A scale is chosen by drawings of a validation split that neither trains nor measures."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest

from evolvedirector.callbacks import ExpertStages, ExpertTable
from evolvedirector.callbacks._run.scale_choice import merge_at_best_scale
from evolvedirector.errors import UserError
from evolvedirector.evaluation.validation_split import ValidationSplit
from evolvedirector.experts.expert import Expert
from evolvedirector.experts.merge_settings import Merge
from evolvedirector.experts.stages import Stage
from evolvedirector.records import Prompt
from tests.callbacks.expert_toys import HELD_OUT, Data, Measures, Painter, expert_named, trainer_of

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*dataloader.*")
MERGE = Merge("task_arithmetic", scales=[0.25, 1.0, 0.5])


class Validation:
    """A prompt that is trained on, and two that are not."""

    def prompts(self) -> list[Prompt]:
        return [Prompt.create(f"tone {tone}") for tone in (30, 50, 90)]


class Chooses(pl.Callback):
    def __init__(self, split: ValidationSplit) -> None:
        self.split = split

    def on_train_end(self, trainer: pl.Trainer, pl_module: Painter) -> None:  # type: ignore[override]
        experts = [expert_named("bright"), expert_named("red")]
        network = pl_module.network
        self.found: Expert = merge_at_best_scale(
            trainer, pl_module, network, MERGE, experts, "best", self.split, ["tone 30"]
        )


@pytest.mark.parametrize(("sign", "scale"), [(1, 1.0), (-1, 0.25)])
def test_the_scale_whose_drawings_score_best_is_taken(tmp_path: Path, sign: int, scale: float) -> None:
    reward = Measures("brightness", (sign / 3,) * 3)
    chooses, painter = Chooses(ValidationSplit(Validation(), reward, images_per_prompt=2)), Painter()
    trainer_of(tmp_path, chooses).fit(painter, datamodule=Data())
    assert chooses.found.provenance["merge"]["scale"] == scale  # together they add 0.1 of the tone at a scale of 1
    told = chooses.found.provenance["validation"]
    assert told["prompts"] == 2 and told["reward"] == reward.fingerprint
    assert told["scores"]["1"] - told["scores"]["0.5"] == pytest.approx(sign * 70 * 0.05, abs=0.5)
    assert reward.scored == painter.asked == 3 * 2 * 2
    assert painter.network.line.active_adapters == ["bright"]


def test_what_measures_does_not_choose(tmp_path: Path) -> None:
    reward = Measures("brightness", (1, 1, 1))
    with pytest.raises(UserError, match="4 prompts of the validation split are held out"):
        ValidationSplit(HeldOutAgain(), reward).refuse_measured(HELD_OUT, {})
    split = ValidationSplit(Validation(), reward)
    with pytest.raises(UserError, match=r"validation\.reward is the evaluator 'bright'"):
        split.refuse_measured(HELD_OUT, {"bright": Measures("brightness", (1, 1, 1))})
    split.refuse_measured(HELD_OUT, {"bright": Measures("other", (1, 1, 1))})
    with pytest.raises(UserError, match="All 3 prompts of the validation split are trained on"):
        split.unseen([prompt.text for prompt in Validation().prompts()])


class HeldOutAgain:
    def prompts(self) -> list[Prompt]:
        return HELD_OUT


def test_a_table_refuses_the_reward_that_chose(tmp_path: Path) -> None:
    stages = ExpertStages(
        [Stage("bright", 1), Stage("red", 1)], merges={"best": MERGE},
        validation=ValidationSplit(Validation(), Measures("brightness", (1, 1, 1))),
    )  # fmt: skip
    table = ExpertTable({"bright": Measures("brightness", (1, 1, 1))})
    trainer = trainer_of(tmp_path, stages, table)
    with pytest.raises(UserError, match="is the evaluator 'bright'"):
        table.setup(WithData(trainer), Painter(), "fit")  # type: ignore[arg-type]


class WithData:
    """A trainer that knows its datamodule before it runs."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self.callbacks, self.datamodule = trainer.callbacks, Data()  # type: ignore[attr-defined]
