from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from evolvedirector.callbacks import PreviewCallback
from evolvedirector.callbacks.preview import CELL_PX, GAP_PX, compose_grid
from tests import toys


class Loader:
    def __len__(self) -> int:
        return 2

    def __iter__(self):
        import torch

        batch = {"prompt": ["tone 100"], "image": torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)}
        return iter([batch, batch])


def fit(folder: Path, *callbacks: pl.Callback, epochs: int = 4, **options) -> pl.Trainer:
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        **{"logger": False, **options},
    )  # fmt: skip
    trainer.fit(toys.ToyStudent(), Loader())
    return trainer


def test_grids_are_drawn_every_n_epochs_and_at_the_end(tmp_path: Path) -> None:
    preview = PreviewCallback(["tone 10", "tone 200"], every_n_epochs=3, teacher=toys.ToyTeacher())
    fit(tmp_path, preview)
    assert sorted(path.name for path in (tmp_path / "previews").glob("*.png")) == [
        "step-00000006.png",
        "step-00000008.png",
    ]
    assert preview.last_grid == tmp_path / "previews" / "step-00000008.png"


def test_the_teacher_stands_right_of_the_student_and_is_asked_once(tmp_path: Path) -> None:
    teacher = toys.ToyTeacher()
    preview = PreviewCallback(["tone 10", "tone 200"], every_n_epochs=1, teacher=teacher)
    fit(tmp_path, preview)
    pixels = np.asarray(Image.open(preview.last_grid))
    assert pixels[GAP_PX + 50, GAP_PX + CELL_PX + 50, 0] == 10
    second = GAP_PX * 2 + CELL_PX * 2
    assert pixels[GAP_PX + 50, second + GAP_PX + CELL_PX + 50, 0] == 200
    assert teacher.asked == ["tone 10", "tone 200"]


def test_a_resumed_run_asks_the_teacher_nothing_again_not_even_what_it_refused(tmp_path: Path) -> None:
    teacher = toys.ToyTeacher(refuses=True)
    for _ in range(2):
        fit(tmp_path, PreviewCallback(["tone 10"], every_n_epochs=1, teacher=teacher), epochs=1)
    assert teacher.asked == ["tone 10"]


def test_a_failing_preview_is_a_warning_and_training_goes_on(tmp_path: Path) -> None:
    class Broken(toys.ToyTeacher):
        def generate(self, requests):
            raise OSError("no connection")

    with pytest.warns(UserWarning, match="preview at step [48] failed and is skipped.*no connection"):
        trainer = fit(tmp_path, PreviewCallback(["tone 10"], every_n_epochs=2, teacher=Broken()))
    assert trainer.global_step == 8


def test_drawing_leaves_the_module_in_training_mode_and_the_weights_alone(tmp_path: Path) -> None:
    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            assert module.training and module.line.training

    one = fit(tmp_path / "a", PreviewCallback(["tone 10"], every_n_epochs=1), Watch())
    other = fit(tmp_path / "b")
    assert one.lightning_module.line.weight.equal(other.lightning_module.line.weight)


def test_the_grid_reaches_tensorboard(tmp_path: Path) -> None:
    fit(tmp_path, PreviewCallback(["tone 10"]), logger=TensorBoardLogger(tmp_path, name="logs"))
    events = list((tmp_path / "logs").rglob("events*"))
    assert any(b"preview" in path.read_bytes() for path in events)


def test_captions_that_the_font_cannot_draw_are_no_failure() -> None:
    png = toys.flat_png(5)
    grid = compose_grid(["狐 🦊 " * 40, ""], [png, png], [None, None], columns=4)
    assert grid.size[0] == 2 * (CELL_PX + 2 * GAP_PX)


@pytest.mark.parametrize("wrong", [{"prompts": []}, {"every_n_epochs": 0}, {"columns": 0}])
def test_bad_settings_say_what_to_write(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"Allowed: .* Write"):
        PreviewCallback(**{"prompts": ["x"], **wrong})
