from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from evolvedirector.evaluation.intervals import wilson_interval
from evolvedirector.evaluation.suite import Sitting
from evolvedirector.planning.roles import PlannedRun
from evolvedirector.records import ImageRequest, Prompt
from tests import toys
from tests.callbacks.evolving_toy import Evolving
from tests.callbacks.measuring import held_out

HELD_OUT = [Prompt.create(f"tone {tone}", skill="dark" if tone < 100 else "light") for tone in (10, 20, 120, 125, 250)]


class Measured(toys.ToyStudent):
    def test_step(self, batch, batch_idx):
        return self.generate(batch)


class Data(pl.LightningDataModule):
    def held_out_prompts(self) -> list[Prompt]:
        return HELD_OUT

    def val_dataloader(self):
        requests = [ImageRequest(p.id, p.text, 0, 8, 8) for p in HELD_OUT]
        return torch.utils.data.DataLoader([*requests, requests[-1]], batch_size=2, collate_fn=list)

    test_dataloader = val_dataloader

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch


def module_that_draws(tone: int) -> Measured:
    module = Measured()
    torch.nn.init.constant_(module.line.bias, tone / 255)
    return module


@pytest.mark.parametrize("loop", ["validate", "test"])
def test_the_share_shown_is_reported_by_skill(tmp_path: Path, loop: str) -> None:
    accuracy = held_out(toys.ToyJudge())
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[accuracy], enable_progress_bar=False
    )
    (figures,) = getattr(trainer, loop)(module_that_draws(122), datamodule=Data(), verbose=False)
    # 122 is within 10 of 120 and 125; the padded repetition of 250 does not count twice
    entries = accuracy.summary_entries()
    assert entries["accuracy"] == {"dark": 0.0, "light": pytest.approx(2 / 3, abs=1e-6)}
    assert entries["accuracy_mean"] == pytest.approx(1 / 3, abs=1e-6), "the mean is over skills, not over prompts"
    assert entries["accuracy_interval"]["light"] == pytest.approx(wilson_interval(2, 3), abs=1e-6)
    low, high = entries["accuracy_mean_interval"]
    assert low < 1 / 3 < high
    assert figures["accuracy/mean"] == pytest.approx(1 / 3, abs=1e-6)
    assert figures["accuracy/light"] == pytest.approx(2 / 3, abs=1e-6)


def test_unreadable_looks_show_nothing(tmp_path: Path) -> None:
    accuracy = held_out(toys.ToyJudge(mass=0.0))
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[accuracy], enable_progress_bar=False
    )
    trainer.validate(module_that_draws(122), datamodule=Data(), verbose=False)
    assert accuracy.summary_entries()["accuracy"] == {"dark": 0.0, "light": 0.0}


def test_a_run_without_reader_contributes_nothing() -> None:
    assert held_out(toys.ToyJudge()).summary_entries() == {}


class Fitted(Data):
    def train_dataloader(self):
        batch = {"prompt": ["tone 0"], "image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}
        return torch.utils.data.DataLoader([batch, batch], batch_size=None)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch


class Chance(Measured):
    """Draws the right tone for every second image of a prompt."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0)
        self.requests: list[ImageRequest] = []

    def generate(self, requests):
        self.requests += requests
        tones = [toys.tone_of(request.prompt) if request.seed % 2 else 60 for request in requests]
        return [torch.full((3, 8, 8), tone, dtype=torch.uint8) for tone in tones]


class OtherJudge(toys.ToyJudge):
    fingerprint = "another toy judge"


def fit(folder: Path, *callbacks: pl.Callback, module: pl.LightningModule | None = None, **options) -> pl.Trainer:
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", callbacks=list(callbacks), enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
        **{"max_epochs": 1, "num_sanity_val_steps": 0, "logger": False, **options},
    )  # fmt: skip
    trainer.fit(module or Chance(), datamodule=Fitted())
    return trainer


def test_the_last_reading_draws_several_images_of_each_prompt(tmp_path: Path) -> None:
    accuracy, module = held_out(toys.ToyJudge(), seeds_per_prompt=6), Chance()
    fit(tmp_path, accuracy, module=module, limit_val_batches=1)
    seeds: dict[str, set[int]] = {}
    for request in module.requests[2:]:  # after one validation batch
        seeds.setdefault(request.prompt, set()).add(request.seed)
    assert {prompt: len(drawn) for prompt, drawn in seeds.items()} == {p.text: 6 for p in HELD_OUT}
    entries = accuracy.summary_entries()
    right = sum(seed % 2 for p in HELD_OUT if p.skill == "light" for seed in seeds[p.text])
    assert entries["accuracy"]["light"] == pytest.approx(right / 18, abs=1e-6)
    low, high = entries["accuracy_interval"]["light"]
    few, many = wilson_interval(right / 6, 3), wilson_interval(right, 18)
    assert many[1] - many[0] <= high - low + 1e-6 and high - low <= few[1] - few[0] + 1e-6  # type: ignore[index]


class Steady(toys.ToyStudent):
    def generate(self, requests):
        return [torch.full((3, 8, 8), 122, dtype=torch.uint8) for _ in requests]

    def validation_step(self, batch, batch_idx):
        return self.generate(batch)


class Lights:
    """The other prompts of a skill of few kinds; one of them is held out all the same."""

    def prompts(self) -> list[Prompt]:
        return [Prompt.create(f"tone {tone}", skill="light") for tone in (130, 140, 120)]


def test_a_skill_of_few_kinds_is_read_on_all_of_them_and_both_kinds_stand_apart(tmp_path: Path) -> None:
    accuracy = held_out(toys.ToyJudge(), 4, trained_kinds=Lights())
    fit(tmp_path, accuracy, module=Steady())
    entries = accuracy.summary_entries()
    assert entries["accuracy_prompts"] == {"dark": 2, "light": 5}, "the held-out one counts once, as held out"
    # 122 is within 10 of 120, 125 and 130, not of 250 and 140
    assert entries["accuracy"]["light"] == pytest.approx(3 / 5, abs=1e-6)
    apart = {kind: (found["share"], found["prompts"]) for kind, found in entries["accuracy_by_kind"]["light"].items()}
    assert apart == {"held_out": (pytest.approx(2 / 3, abs=1e-6), 3), "trained": (0.5, 2)}
    assert "dark" not in entries["accuracy_by_kind"], "none of its kinds was read but those held out"
    looks = accuracy.planned_looks(PlannedRun(epochs=1, validations=1, held_out_prompts=5))
    assert looks[0].looks == 5 + 4 * 8


def test_what_validation_read_after_the_last_step_is_not_read_again(tmp_path: Path) -> None:
    module = Chance()
    fit(tmp_path, held_out(toys.ToyJudge()), module=module)
    assert len(module.requests) == 6, "the validation loop's own requests"


def test_without_validation_at_the_last_step_the_end_is_read(tmp_path: Path) -> None:
    accuracy, module = held_out(toys.ToyJudge()), Chance()
    fit(tmp_path, accuracy, module=module, check_val_every_n_epoch=5)
    assert {request.prompt for request in module.requests} == {prompt.text for prompt in HELD_OUT}
    assert "accuracy" in accuracy.summary_entries()


def test_the_sanity_check_leaves_no_figure(tmp_path: Path) -> None:
    accuracy = held_out(toys.ToyJudge())
    fit(tmp_path, accuracy, num_sanity_val_steps=1, limit_train_batches=0)
    assert accuracy.summary_entries() == {}


def test_validation_switched_off_reads_nothing(tmp_path: Path) -> None:
    accuracy = held_out(toys.ToyJudge(), seeds_per_prompt=4)
    fit(tmp_path, accuracy, limit_val_batches=0)
    assert accuracy.summary_entries() == {}


def test_averaged_weights_draw_the_last_reading(tmp_path: Path) -> None:
    class Half(pl.Callback):
        @contextmanager
        def averaged(self, pl_module):
            torch.nn.init.constant_(pl_module.line.bias, 122 / 255)
            yield
            torch.nn.init.zeros_(pl_module.line.bias)

    accuracy = held_out(toys.ToyJudge(), seeds_per_prompt=2)
    fit(tmp_path, accuracy, Half(), module=Measured(learning_rate=0.0))
    assert accuracy.summary_entries()["accuracy"] == {"dark": 0.0, "light": pytest.approx(2 / 3, abs=1e-6)}


def test_the_training_judge_as_reader_is_warned_of_once(tmp_path: Path) -> None:
    where = r"EvaluationCallback\.suites\.held_out\.reader"
    with pytest.warns(UserWarning, match=rf"{where} is the judge of the training data") as said:
        fit(tmp_path, held_out(toys.ToyJudge()), Evolving(toys.ToyJudge()))
    assert len([w for w in said if "training data" in str(w.message)]) == 1


def test_another_judge_as_reader_is_not_warned_of(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    fit(tmp_path, held_out(OtherJudge()), Evolving(toys.ToyJudge()))
    assert not [w for w in recwarn if "training data" in str(w.message)]


def test_the_last_figures_survive_a_checkpoint() -> None:
    accuracy, other = held_out(toys.ToyJudge()), held_out(toys.ToyJudge())
    readings = {"a": ("dark", "p", True), "b": ("light", "q", False)}
    accuracy._outcomes = {"held_out": accuracy.suites["held_out"].figures(readings, Sitting({}))}
    other.load_state_dict(accuracy.state_dict())
    assert other.summary_entries() == accuracy.summary_entries() != {}


class Sizeless(Chance):
    """Does not say how large its images are."""

    image_size_px = None  # type: ignore[assignment]


def test_the_size_is_taken_from_what_evolves_the_data(tmp_path: Path) -> None:
    accuracy, module = held_out(toys.ToyJudge(), seeds_per_prompt=2), Sizeless()
    fit(tmp_path, accuracy, Evolving(OtherJudge(), image_size_px=16), module=module)
    assert {(r.width_px, r.height_px) for r in module.requests[6:]} == {(16, 16)}, "6 are of the validation loop"


def test_without_a_known_size_the_validation_readings_stay(tmp_path: Path) -> None:
    accuracy, module = held_out(toys.ToyJudge(), seeds_per_prompt=2), Sizeless()
    with pytest.warns(UserWarning, match="size of the images.*held_out.*unknown") as said:
        fit(tmp_path, accuracy, Evolving(OtherJudge()), module=module)
    assert len([w for w in said if "size of the images" in str(w.message)]) == 1
    assert len(module.requests) == 6 and "accuracy" in accuracy.summary_entries(), "the validation loop's own requests"


class Breaks(toys.ToyJudge):
    """Answers so many times, then breaks."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.answers = answers

    def check(self, items):
        for look in super().check(items):
            if self.asked > self.answers:
                raise OSError("no reader")
            yield look


def test_a_reader_that_breaks_at_the_end_costs_the_last_reading_and_not_the_run(tmp_path: Path) -> None:
    accuracy, reader = held_out(Breaks(6), seeds_per_prompt=2), Breaks(6)
    accuracy.suites["held_out"].reader = reader  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="broke off.*no reader") as said:
        fit(tmp_path, accuracy)
    assert len([w for w in said if "broke off" in str(w.message)]) == 1
    assert reader.asked == 7, "it is not asked again"
    assert set(accuracy.summary_entries()["accuracy"]) == {"dark", "light"}, "what validation read stays"


def test_a_reader_that_breaks_in_a_validation_of_the_training_costs_its_figures_only(tmp_path: Path) -> None:
    accuracy = held_out(Breaks(2))
    with pytest.warns(UserWarning, match="broke off.*no reader"):
        trainer = fit(tmp_path, accuracy)
    assert trainer.global_step == 2 and accuracy.summary_entries() == {}


def test_a_reader_that_breaks_outside_training_is_an_error(tmp_path: Path) -> None:
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[held_out(Breaks(0))],
        enable_progress_bar=False,
    )  # fmt: skip
    with pytest.raises(OSError, match="no reader"):
        trainer.validate(module_that_draws(122), datamodule=Data(), verbose=False)


def test_a_reply_that_never_came_is_not_shown(tmp_path: Path) -> None:
    class Silent(toys.ToyJudge):
        def check(self, items):
            return (look for look in super().check(items) if look.item_id == HELD_OUT[2].id)

    accuracy = held_out(Silent())
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[accuracy], enable_progress_bar=False
    )
    trainer.validate(module_that_draws(122), datamodule=Data(), verbose=False)
    entries = accuracy.summary_entries()
    assert entries["accuracy"] == {"dark": 0.0, "light": pytest.approx(1 / 3, abs=1e-6)}
    assert entries["accuracy_prompts"] == {"dark": 2, "light": 3}


class Remembers(CSVLogger):
    """Remembers which final figures were logged."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.names: set[str] = set()

    def log_metrics(self, metrics, step=None):
        self.names |= {name for name in metrics if name.startswith("final")}
        super().log_metrics(metrics, step)


def test_without_held_out_prompts_old_figures_are_not_called_final(tmp_path: Path) -> None:
    class Bare(Fitted):
        held_out_prompts = val_dataloader = None  # type: ignore[assignment]

    old, accuracy = held_out(toys.ToyJudge()), held_out(toys.ToyJudge())
    old._outcomes = {"held_out": old.suites["held_out"].figures({"a": ("dark", "p", True)}, Sitting({}))}
    accuracy.load_state_dict(old.state_dict())
    logger = Remembers(tmp_path)
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=logger, max_epochs=1, callbacks=[accuracy],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Chance(), datamodule=Bare())
    assert logger.names == set()
    fit(tmp_path, held_out(toys.ToyJudge(), seeds_per_prompt=2), logger=logger)
    assert "final_accuracy/mean" in logger.names


@pytest.mark.parametrize("seeds", [0, -1])
def test_too_few_seeds_are_refused(seeds: int) -> None:
    with pytest.raises(ValueError, match=f"seeds_per_prompt is {seeds}"):
        held_out(toys.ToyJudge(), seeds_per_prompt=seeds)
