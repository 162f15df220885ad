"""A whole method as new files beside their kin: it runs end to end and touches no file of the package."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import webdataset

from evolvedirector.callbacks import EvolutionCallback, RunCheckpoint
from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget
from evolvedirector.lightning_modules.families.family import Family
from evolvedirector.policies import Policy
from evolvedirector.rewards import Reward
from evolvedirector.store import DatasetStore
from evolvedirector.teachers import Teacher
from tests import toys
from tests.methods.masked_family import MaskedFamily
from tests.methods.masked_self_training import (
    BestOfKInMasks,
    InsideBrightness,
    SelfTeacher,
    Stages,
    export,
    student,
)

K = 3


class Run:
    """One run of the method in a folder."""

    def __init__(self, folder: Path, exported: Path) -> None:
        self.root = folder / "data"
        self.student = student(optimizer=partial(torch.optim.SGD, lr=0.01))
        if not exported.exists():
            export(self.student, exported)
        self.teacher, self.policy = SelfTeacher(str(exported)), BestOfKInMasks(K)
        self.stages = Stages(whole_from_step=4)
        self.evolution = EvolutionCallback(
            teachers={"self": self.teacher},
            judge=toys.ToyJudge(),
            writer=toys.ToyWriter(),
            policy=self.policy,
            rewards={"inside": InsideBrightness()},
            budget=Budget(budget_teacher_calls=100),
        )
        self.data = EvolvingDataModule(
            self.root, seeds=toys.ToyPrompts(4), global_batch_size=4, batches_per_epoch=3, image_size_px=8,
            roles=("image", "mask"),
        )  # fmt: skip
        self.trainer = pl.Trainer(
            default_root_dir=folder,
            max_epochs=3,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[self.evolution, self.stages, RunCheckpoint()],
        )

    def fit(self, **options: object) -> Run:
        self.trainer.fit(self.student, datamodule=self.data, **options)
        return self


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, tmp_path / "exported").fit()


def test_its_parts_stand_behind_the_seams() -> None:
    assert isinstance(SelfTeacher("x"), Teacher) and isinstance(BestOfKInMasks(), Policy)
    assert isinstance(InsideBrightness(), Reward) and isinstance(MaskedFamily(), Family)


def test_the_best_image_of_each_prompt_enters_with_its_mask(run: Run) -> None:
    with DatasetStore(run.root) as store:
        state = store.state(store.current())
        assert len(store.revisions()) == 4  # the seeds' prompts, their images, two rounds
        assert store.ledger.spend().teacher_calls == run.teacher.drawn == 4 + 2 * 3 * K
    samples = [entry.sample for entry in state.in_state("live")]
    assert len(samples) == 4 + 2 * 3
    assert all(sample.teacher == "self" and set(sample.files) == {"mask"} for sample in samples)
    chosen = {sample.prompt.id: sample.image_sha256 for sample in samples}
    by_prompt: dict[str, dict[str, float]] = {}
    for item in run.policy.seen:
        by_prompt.setdefault(item.prompt_id, {})[item.teacher_sha256] = item.scores["inside"]
    assert len(by_prompt) == 6
    for prompt_id, scores in by_prompt.items():
        assert scores[chosen[prompt_id]] == max(scores.values()) and len(scores) > 1


def test_training_reads_both_roles_in_the_order_of_its_stages(run: Run) -> None:
    assert run.stages.order == ["text"] * 4 + ["whole"] * 5
    batch = next(iter(run.data.train_dataloader()))
    assert batch["mask"].shape == (4, 1, 8, 8) and batch["image"].shape == (4, 3, 8, 8)
    assert set(batch["mask"].unique().tolist()) == {0, 255}
    fresh = student()
    fresh.configure_model()
    trained, start = run.student.transformer, fresh.transformer
    assert not torch.equal(trained.first.weight, start.first.weight)
    assert not torch.equal(trained.modulation.weight, start.modulation.weight)


def test_the_mask_decides_what_is_drawn(run: Run) -> None:
    batch = next(iter(run.data.train_dataloader()))
    losses = []
    for mask in (batch["mask"], 255 - batch["mask"]):
        run.student.log = lambda *args, **kwargs: None  # no loop is running
        losses.append(run.student.training_step({**batch, "mask": mask}, 0).item())
    assert losses[0] != losses[1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_any_webdataset_tool_reads_image_and_mask(run: Run) -> None:
    tars = [str(path) for path in sorted((run.root / "shards").glob("r*.tar"))]
    names = {name for sample in list(webdataset.WebDataset(tars, shardshuffle=False)) for name in sample}
    assert {"png", "mask.png", "txt", "json"} <= names


class Stop(pl.Callback):
    """Ends a run in the middle of its second epoch."""

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.global_step == 5:
            raise RuntimeError("stopped")


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "again"
    first = Run(folder, tmp_path / "exported")
    first.trainer.callbacks.append(Stop())
    with pytest.raises(RuntimeError, match="stopped"):
        first.fit()
    second = Run(folder, tmp_path / "exported")
    second.fit(ckpt_path=str(latest_committed(folder)))
    for name, value in run.student.transformer.state_dict().items():
        assert torch.equal(value, second.student.transformer.state_dict()[name]), name
    with DatasetStore(run.root) as whole, DatasetStore(second.root) as continued:
        assert whole.current() == continued.current()
        assert whole.ledger.spend() == continued.ledger.spend()


def test_the_reward_has_no_score_without_a_mask() -> None:
    from evolvedirector.records import ImageAndPrompt

    (score,) = InsideBrightness().score([ImageAndPrompt("x", toys.flat_png(5), "tone 5")])
    assert score.value != score.value
