"""Updates that are not finite: never applied, counted, named, and the end of a run that makes them in a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from evolvedirector.errors import RunError, UserError
from evolvedirector.lightning_modules import TextToImage
from evolvedirector.lightning_modules.finite_steps import StepFigures
from tests.lightning_modules.test_text_to_image import batch_of, request, student


class Broken(TextToImage):
    """A student whose loss or gradient is not finite at chosen batches."""

    loss_at: tuple[int, ...] = ()
    gradient_at: tuple[int, ...] = ()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if batch_idx in self.gradient_at:
            loss.register_hook(lambda gradient: gradient * torch.nan)
        return loss

    def _log_training(self, losses: Tensor, batch: dict[str, Any]) -> None:
        if batch["sample_seed"][0] // 8 in self.loss_at:
            losses.data[2] = torch.nan
        super()._log_training(losses, batch)


def broken(loss_at: tuple[int, ...] = (), gradient_at: tuple[int, ...] = (), **settings: Any) -> Broken:
    module = student(**settings)
    module.__class__ = Broken
    assert isinstance(module, Broken)
    module.loss_at, module.gradient_at = loss_at, gradient_at
    return module


def fit(module: TextToImage, steps: int, **settings: Any) -> Trainer:
    settings = {"max_steps": steps, "accelerator": "cpu"} | settings
    trainer = Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **settings
    )
    keys = {"key": [f"sample{number}" for number in range(8)]}
    trainer.fit(module, DataLoader([batch_of(number) | keys for number in range(8)], batch_size=None))  # type: ignore[arg-type]
    return trainer


def state_of(trainer: Trainer, module: TextToImage) -> list[Tensor]:
    state = trainer.optimizers[0].state_dict()["state"]
    moments = [value for of_parameter in state.values() for value in of_parameter.values()]
    return [*[parameter.detach().clone() for parameter in module.parameters()], *moments]


@pytest.mark.parametrize(
    "clipping", [{}, {"gradient_clip_val": 1.0}, {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}]
)
@pytest.mark.parametrize("where", ["loss_at", "gradient_at"])
def test_an_update_that_is_not_finite_changes_neither_weights_nor_moments(
    where: str, clipping: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = broken(), broken(**{where: (2,)}, on_nonfinite="skip")
    expected = state_of(fit(before, 2, **clipping), before)
    trainer = fit(after, 3, **clipping)
    for one, other in zip(expected, state_of(trainer, after), strict=True):
        assert torch.equal(one, other)
    assert trainer.global_step == 3 and after.summary_entries() == {"nonfinite_steps": 1, "nonfinite_at": [3]}
    named = "samples sample2)" if where == "loss_at" else "one of the samples sample0, sample1"
    assert f"Step 3 is left out, 1 so far: its loss or gradient is not finite ({named}" in capsys.readouterr().out


def test_finite_steps_between_begin_the_count_anew_and_a_row_ends_the_run() -> None:
    module = broken(loss_at=(0, 1, 3, 4, 5), nonfinite_limit=3)
    with pytest.raises(RunError, match=r"3 steps in a row, up to step 6 \(samples sample2\)"):
        fit(module, 8)
    assert module.nonfinite_in_a_row == 3 and module.summary_entries()["nonfinite_at"] == [1, 2, 4, 5, 6]
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_a_run_that_ends_in_such_a_row_does_not_end_well_unless_it_may_skip() -> None:
    with pytest.raises(RunError, match=r"came to step 4, but .* in the last 2 steps"):
        fit(broken(loss_at=(2, 3)), 4)
    assert fit(broken(loss_at=(2, 3), on_nonfinite="skip"), 4).global_step == 4


def test_skipping_ends_where_the_weights_are_not_finite_either() -> None:
    module = broken(on_nonfinite="skip", nonfinite_limit=2)
    module.configure_model()
    with torch.no_grad():
        next(module.parameters()).fill_(torch.inf)
    with pytest.raises(RunError, match="2 steps in a row"):
        fit(module, 8)


def test_an_accumulated_batch_is_named_alone_and_its_step_left_out() -> None:
    module = broken(loss_at=(1,), on_nonfinite="skip")
    trainer = fit(module, 4, accumulate_grad_batches=2)
    assert trainer.global_step == 4 and module.summary_entries() == {"nonfinite_steps": 1, "nonfinite_at": [1]}


def test_what_a_loss_scaler_leaves_out_does_not_count() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)  # type: ignore[attr-defined]
    module = broken()
    trainer = fit(module, 8, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert scaler.get_scale() < 2.0**40 and trainer.global_step == 8
    assert module.summary_entries()["nonfinite_steps"] == 0


@pytest.mark.parametrize(
    ("loss_is_finite", "gradient_is_finite", "scale", "counts"),
    [
        (True, True, None, False), (False, True, None, True), (True, False, None, True),
        (True, False, 65536.0, False), (True, False, 1.0, True), (False, False, 65536.0, True),
    ],
)  # fmt: skip
def test_which_steps_count(loss_is_finite: bool, gradient_is_finite: bool, scale: float | None, counts: bool) -> None:
    assert StepFigures(1.0, loss_is_finite, gradient_is_finite).counts(scale) is counts


def test_the_count_survives_a_checkpoint(tmp_path: Path) -> None:
    module = broken(loss_at=(2,), on_nonfinite="skip")
    fit(module, 3).save_checkpoint(tmp_path / "a.ckpt")
    again = student()
    again.on_load_checkpoint(torch.load(tmp_path / "a.ckpt", weights_only=True))
    assert again.nonfinite_in_a_row == 1 and again.summary_entries() == module.summary_entries()
    again.on_load_checkpoint({"text_to_image": {"frozen_parts": again._frozen_parts}})  # an older checkpoint
    assert again.nonfinite_in_a_row == 0


def test_an_image_of_numbers_that_are_not_finite_is_refused() -> None:
    module = student()
    module.configure_model()
    with torch.no_grad():
        module.transformer.proj_out.bias.fill_(torch.nan)  # type: ignore[union-attr]
    with pytest.raises(RunError, match="not finite for 'colour a'"):
        module.generate([request("colour a", 0)])


@pytest.mark.parametrize("settings", [{"nonfinite_limit": 0}, {"on_nonfinite": "never"}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Write on_nonfinite: stop, nonfinite_limit: 5"):
        student(**settings)
