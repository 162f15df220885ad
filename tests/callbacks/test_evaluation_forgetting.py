from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch

from evolvedirector.callbacks import EvaluationCallback
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evaluation.suite import Sitting
from evolvedirector.evaluation.suites.forgetting import forgetting_figures
from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore
from tests import toys
from tests.callbacks.measuring import mastered

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")
TONES = (95, 105, 205, 215)


def figures_of(measured: EvaluationCallback) -> dict | None:
    return measured.summary_entries().get("forgetting")


class Student(toys.ToyStudent):
    """Draws the tone 100 whatever is asked."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0)
        torch.nn.init.constant_(self.line.bias, 100 / 255)
        self.seeds: list[int] = []

    def generate(self, requests):
        self.seeds += [request.seed for request in requests]
        return super().generate(requests)


def root_with(folder: Path, mastered: int) -> Path:
    prompts = [Prompt.create(f"tone {tone}", skill="tone") for tone in TONES]
    with DatasetStore(folder / "data", create=True) as store:
        store.ledger.prompts.add(prompts)
        images = store.blobs.put_many([toys.flat_png(tone) for tone in TONES])
        samples = tuple(Sample.create(p, sha256, "toy") for p, sha256 in zip(prompts, images, strict=True))
        first = store.publish(None, "first", RevisionChange(samples=samples))
        states = {prompt.id: "mastered" for prompt in prompts[:mastered]}
        store.publish(first, "second", RevisionChange(states=states))  # type: ignore[arg-type]
    return folder / "data"


def fit(root: Path, forgetting: EvaluationCallback, epochs: int = 2) -> Student:
    data = EvolvingDataModule(root, global_batch_size=2, batches_per_epoch=2, image_size_px=8)
    trainer = pl.Trainer(
        default_root_dir=root.parent, accelerator="cpu", logger=False, max_epochs=epochs, callbacks=[forgetting],
        reload_dataloaders_every_n_epochs=1, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    student = Student()
    trainer.fit(student, datamodule=data)
    return student


def test_the_share_of_mastered_prompts_that_the_student_fails(tmp_path: Path) -> None:
    forgetting = mastered(toys.ToyJudge())
    fit(root_with(tmp_path, 3), forgetting)
    figures = figures_of(forgetting)
    # tone 100 is within 10 of 95 and 105; 205 is forgotten; 215 was never mastered
    assert figures["share"] == pytest.approx(1 / 3, abs=1e-6)
    assert (figures["prompts"], figures["unreadable"]) == (3, 0)
    assert figures["interval"][0] < 1 / 3 < figures["interval"][1]


def test_nothing_mastered_is_nothing_forgotten(tmp_path: Path) -> None:
    forgetting = mastered(toys.ToyJudge())
    fit(root_with(tmp_path, 0), forgetting)
    assert figures_of(forgetting) is None


def test_each_reading_draws_fresh_seeds_and_at_most_so_many_prompts(tmp_path: Path) -> None:
    student = fit(root_with(tmp_path, 4), mastered(toys.ToyJudge(), max_prompts=2, every_n_epochs=1), epochs=3)
    assert len(student.seeds) == len(set(student.seeds)) == 3 * 2


def test_a_running_round_keeps_the_root_locked_and_is_not_disturbed(tmp_path: Path) -> None:
    forgetting, root = mastered(toys.ToyJudge()), root_with(tmp_path, 3)
    with DatasetStore(root):
        fit(root, forgetting)
    assert figures_of(forgetting) is not None


def test_unreadable_looks_are_no_failures(tmp_path: Path) -> None:
    forgetting = mastered(toys.ToyJudge(mass=0.0))
    fit(root_with(tmp_path, 3), forgetting)
    assert figures_of(forgetting) == {"share": None, "interval": None, "prompts": 0, "unreadable": 3}
    assert forgetting_figures(["student", "invalid"])["share"] == 0.0


def test_a_reader_that_breaks_costs_the_figure_and_not_the_run(tmp_path: Path) -> None:
    class Broken(toys.ToyJudge):
        def check(self, items):
            raise OSError("no reader")

    forgetting = mastered(Broken())
    with pytest.warns(UserWarning, match="broke off.*no reader"):
        fit(root_with(tmp_path, 3), forgetting)
    assert figures_of(forgetting) is None


def test_a_reply_that_never_came_is_unreadable(tmp_path: Path) -> None:
    class Silent(toys.ToyJudge):
        def check(self, items):
            return iter(())

    forgetting = mastered(Silent())
    fit(root_with(tmp_path, 3), forgetting)
    assert figures_of(forgetting) == {"share": None, "interval": None, "prompts": 0, "unreadable": 3}


def test_the_size_of_the_datamodule_will_do(tmp_path: Path) -> None:
    forgetting, trainer = mastered(toys.ToyJudge()), SimpleNamespace(callbacks=[], datamodule=Host())
    module = Student()
    module.image_size_px = None  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match=r"forgetting.* draws is unknown"):
        forgetting.setup(trainer, module, "fit")  # type: ignore[arg-type]
    trainer.datamodule.image_size_px = 8
    forgetting.setup(trainer, module, "fit")  # type: ignore[arg-type]
    forgetting.setup(SimpleNamespace(callbacks=[], datamodule=None), module, "predict")  # type: ignore[arg-type]


class Host:
    """The parts of evolving data, with nothing behind them."""

    data_root, revision_sha = Path("data"), "sha"

    def open_revision(self, revision_sha: str) -> None: ...


@pytest.mark.parametrize("data", [None, "pictures"])
def test_data_that_does_not_evolve_is_refused_before_training(data: str | None) -> None:
    trainer = SimpleNamespace(callbacks=[], datamodule=pl.LightningDataModule())
    with pytest.raises(RuntimeError, match=r"forgetting.*open_revision"):
        mastered(toys.ToyJudge(), data=data).setup(trainer, Student(), "fit")  # type: ignore[arg-type]


def test_the_last_figures_survive_a_checkpoint() -> None:
    forgetting, other = mastered(toys.ToyJudge()), mastered(toys.ToyJudge())
    outcome = forgetting.suites["forgetting"].figures({"a": "shows", "b": "lacks"}, Sitting({}))
    forgetting._outcomes = {"forgetting": outcome}
    other.load_state_dict(forgetting.state_dict())
    assert figures_of(other) == figures_of(forgetting) is not None


@pytest.mark.parametrize("wrong", [{"max_prompts": 0}, {"every_n_epochs": 0}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        mastered(toys.ToyJudge(), **wrong)
