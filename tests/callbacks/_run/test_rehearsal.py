"""What cannot work is found before anything is bought, and trying it leaves no trace in the run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from evolvedirector.callbacks import EMA, EvolutionCallback, RunCheckpoint
from evolvedirector.callbacks._run import rehearsal
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.errors import RunError, UserError
from evolvedirector.evolution import Budget
from evolvedirector.lightning_modules import FlowMatching, PixArt, RandomTextEncoder, TextToImage
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from tests.toys import ToyJudge, ToyPrompts, ToyStudent, ToyTeacher, ToyWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")


class Counting(ToyStudent):
    """Depends on every kind of state that a step could leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.noise, self.norm = torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(1)
        self.steps, self.seen, self.running = 0, [], torch.zeros(1)
        self.losses: list[float] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.steps += 1
        self.seen.append(batch["key"][0])
        self.running += 0.5
        chance = random.random() + float(np.random.rand())
        moved = self.norm(self.noise(torch.rand(len(batch["prompt"]), 1)))
        loss = super().training_step(batch, batch_idx) * (1 + self.steps + chance + self.running.item()) + moved.mean()
        self.log("loss", loss)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.05)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Manual(Counting):
    """Steps two optimizers by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: dict, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.line.parameters()), torch.optim.SGD(self.norm.parameters(), 0.1, momentum=0.5)


def text_to_image() -> TextToImage:
    family = PixArt(RandomTextEncoder(8), 8, text_length=4, patch_size=4, layers=1, heads=2, head_dim=4)
    return TextToImage(family, FlowMatching(prediction="x0"), 8, sampling_steps=1, generation_chunk_size=2)


def run(
    folder: Path,
    student: pl.LightningModule | None = None,
    data: pl.LightningDataModule | None = None,
    teacher: ToyTeacher | None = None,
    rehearse: bool = True,
    checkpoint: str | None = None,
    ema: bool = False,
    **settings: Any,
) -> pl.Trainer:
    pl.seed_everything(3)
    random.seed(3)
    student = student or Counting()
    evolution = EvolutionCallback(
        {"toy": teacher or ToyTeacher()}, ToyJudge(), ToyWriter(), EvolveDirectorPolicy(expansions=1), Budget(12),
        rehearse=rehearse,
    )  # fmt: skip
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, reload_dataloaders_every_n_epochs=1,
        callbacks=[*([EMA(0.5)] if ema else []), evolution, RunCheckpoint(keep_last=9)], enable_progress_bar=False,
        enable_model_summary=False, **{"max_epochs": 2, "gradient_clip_val": 1.0} | settings,
    )  # fmt: skip
    data = data or EvolvingDataModule(
        folder / "data", ToyPrompts(6), global_batch_size=4, batches_per_epoch=3, image_size_px=8
    )
    path = folder / "checkpoints" / checkpoint / "state.ckpt" if checkpoint else None
    trainer.fit(student, datamodule=data, ckpt_path=path, weights_only=True)
    return trainer


def state_of(folder: Path, name: str = "step-00000006") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / name / "state.ckpt", weights_only=True)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{place}]")
    else:
        assert one == other, where


# ---- no trace


@pytest.mark.parametrize(
    ("student", "settings"),
    [
        (Counting, {}),
        (Manual, {"gradient_clip_val": None}),
        (Counting, {"accumulate_grad_batches": 2, "ema": True}),
        (text_to_image, {"accumulate_grad_batches": 2, "ema": True, "precision": "bf16-mixed"}),
    ],
)
def test_a_run_is_the_same_to_the_bit_with_and_without_it(tmp_path: Path, student: Any, settings: dict) -> None:
    """Weights, optimizer, schedule, EMA, loops, counters; the global random states are part of `Counting`'s loss."""
    trained = []
    for rehearsed in (True, False):
        module = student()
        trainer = run(tmp_path / str(rehearsed), module, rehearse=rehearsed, **settings)
        state = state_of(tmp_path / str(rehearsed), f"step-{trainer.global_step:08d}")
        trained.append((vars(module).get("losses"), vars(module).get("seen"), state, torch.get_rng_state()))
    assert_same(*trained)
    assert trained[0][2]["global_step"] > 0


def test_a_resumed_run_is_the_same_too(tmp_path: Path) -> None:
    run(tmp_path, ema=True)
    whole = state_of(tmp_path)
    for rehearsed in (True, False):
        run(tmp_path, ema=True, rehearse=rehearsed, checkpoint="step-00000003")
    names = ("step-00000006", "step-00000006-2", "step-00000006-3")
    first, second, third = (state_of(tmp_path, name) for name in names)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "ema"):
        assert_same(first[key], whole[key])
        assert_same(second[key], third[key])


# ---- what it finds


class Fails(ToyStudent):
    """Breaks in one place."""

    def __init__(self, place: str, error: Exception) -> None:
        super().__init__()
        self.place, self.error = place, error

    def at(self, place: str) -> None:
        if place == self.place:
            raise self.error

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.at("forward")
        return super().training_step(batch, batch_idx)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.at("optimizer")

    def generate(self, requests: Any) -> list[torch.Tensor]:
        self.at("drawing")
        return super().generate(requests)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        self.at("saving")
        if self.place == "reading":
            checkpoint["odd"] = self.error  # cannot be read without running code


@pytest.mark.parametrize(
    ("place", "error", "said"),
    [
        ("forward", ValueError("odd shapes"), "training step failed: ValueError: odd shapes. Nothing was bought"),
        ("optimizer", KeyError("exp_avg"), "training step failed: KeyError: 'exp_avg'. Nothing was bought"),
        ("drawing", TypeError("no scheduler"), "drawing of an image failed: TypeError: no scheduler. Nothing"),
        ("saving", OSError(28, "No space left"), "checkpoint failed: .*No space left. Nothing was bought. The run fol"),
        ("reading", ValueError("odd"), "checkpoint failed: UnpicklingError: .*Nothing was bought"),
        ("forward", torch.cuda.OutOfMemoryError("full"), "memory is full in the rehearsal's training step.*bf16-mixed"),
        ("forward", UserError("The batch has no mask. Allowed. Write it."), "^The batch has no mask. Allowed. Write "),
    ],
)
def test_an_error_names_the_step_and_nothing_is_bought(tmp_path: Path, place: str, error: Exception, said: str) -> None:
    teacher = ToyTeacher()
    with pytest.raises((RunError, UserError), match=said) as caught:
        run(tmp_path, Fails(place, error), teacher=teacher)
    assert caught.value is error or caught.value.__cause__ is not None
    assert teacher.asked == [] and not (tmp_path / "checkpoints").exists()


def test_a_folder_that_cannot_take_checkpoints_is_found(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    teacher = ToyTeacher()
    with pytest.raises(RunError, match=r"rehearsal's checkpoint failed.*Nothing was bought.*default_root_dir"):
        run(tmp_path, teacher=teacher)
    assert teacher.asked == []


class Foreign(EvolvingDataModule):
    """Has no `placeholder_batch`."""

    placeholder_batch = None


class Lazy(ToyStudent):
    """Gets a layer's size from its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.lazy = torch.nn.LazyLinear(1)

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) + 0 * self.lazy(torch.ones(2, 3)).sum()


@pytest.mark.parametrize(
    ("student", "kind", "reason"),
    [
        (ToyStudent, Foreign, "left out: Foreign has no `placeholder_batch()`."),
        (Lazy, EvolvingDataModule, "left out: layers of Lazy get their size from the first batch."),
    ],
)
def test_what_cannot_be_rehearsed_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], student: Any, kind: Any, reason: str
) -> None:
    data = kind(tmp_path / "data", ToyPrompts(6), global_batch_size=4, batches_per_epoch=3, image_size_px=8)
    run(tmp_path, student(), data, max_epochs=1)
    assert [line for line in capsys.readouterr().out.splitlines() if "rehearsal" in line] == [
        f"The rehearsal before the first purchase is {reason}"
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limit_train_batches": 0.1}, r"limit_train_batches is 0.1, which leaves 0 of 3 batches"),
        ({"overfit_batches": 1}, r"overfit_batches is 1.*fast_dev_run: 1"),
        ({"max_epochs": 0}, r"max_epochs is 0, so images would be bought"),
    ],
)
def test_options_under_which_nothing_is_trained_are_refused(tmp_path: Path, settings: dict, said: str) -> None:
    teacher = ToyTeacher()
    with pytest.raises(UserError, match=said):
        run(tmp_path, teacher=teacher, **settings)
    assert teacher.asked == []


def test_a_smoke_test_buys_and_saves_nothing_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, student = ToyTeacher(), Counting()
    run(tmp_path, student, teacher=teacher, fast_dev_run=2)
    assert teacher.asked == [] and not (tmp_path / "checkpoints").exists()
    assert student.steps == 2
    assert "nothing is bought, judged or saved; placeholders" in capsys.readouterr().out
    run(tmp_path, teacher=teacher)
    bought = len(teacher.asked)
    run(tmp_path, student, teacher=teacher, fast_dev_run=1, checkpoint="step-00000003-round")
    assert len(teacher.asked) == bought  # the images that are there were trained on


def test_it_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "trial_step", lambda *args: pytest.fail("it was rehearsed"))
    run(tmp_path, rehearse=False, max_epochs=1)


def test_a_trial_drawing_gets_the_files_that_its_sample_has_and_no_stand_ins() -> None:
    picture = torch.full((2, 3, 8, 8), 7, dtype=torch.uint8)
    lacks = torch.tensor([False, True])
    batch = {"image": picture, "reference": picture, "source": picture, "has_source": lacks}
    assert rehearsal._files_of(batch).keys() == {"reference"}
    assert rehearsal._files_of({**batch, "has_source": ~lacks}).keys() == {"reference", "source"}
