"""The rehearsal: before anything is bought, one training step, one drawn image and one checkpoint, all undone."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from PIL import Image
from torch import Tensor
from torch.nn.parameter import is_lazy

from evolvedirector.callbacks._run.drawing import chunk_of, encode_png, student_draw, student_measure
from evolvedirector.callbacks._run.untouched import silent, untouched
from evolvedirector.errors import RunError, UserError
from evolvedirector.evolution.host import MeasuresLoss
from evolvedirector.evolution.losses import NOISE_LEVELS
from evolvedirector.planning.roles import OffersPlaceholder
from evolvedirector.policies.policy import DrawsByLoss
from evolvedirector.records import IMAGE_ROLE, FileRef, ImageRequest, LossRequest
from evolvedirector.records.part import HoldsParts
from evolvedirector.secrecy.guard import redacted

_UNDONE = (SingleDeviceStrategy, DDPStrategy, ModelParallelStrategy)
_SKIP = "`rehearse: false` under the init_args of EvolutionCallback leaves the rehearsal out."


def rehearse(trainer: pl.Trainer, module: pl.LightningModule, image_size_px: int | None, checkpoint: Path) -> None:
    """Train on one placeholder batch, draw one image, write and read one checkpoint; leave no trace, or say why not.

    Where a policy draws by loss, that of one sample is measured, too. Everything happens in the run's own strategy,
    precision and world size, on every rank. Weights, optimizers, random states and counters are bit-identical
    afterwards.

    Args:
        trainer: Its strategy is set up, its loops have not begun.
        module: The student.
        image_size_px: Side of the image to draw. None: nobody knows it, and none is drawn.
        checkpoint: Where one is written, in a new folder beside those of the run; the folder goes again.

    Raises:
        UserError: Something written cannot work.
        RunError: A step of it failed; the message names the step.
    """
    batch, reason = placeholder_of(trainer, module)
    if reason:
        if trainer.is_global_zero:
            print(f"The rehearsal before the first purchase is left out: {reason}.", flush=True)
        return
    with untouched(trainer, module):
        with named("training step", trainer):
            trial_step(trainer, module, batch)
        if image_size_px is not None:
            with named("drawing of an image", trainer):
                _draw(trainer, module, batch, image_size_px)
            if isinstance(module, MeasuresLoss) and _draws_by_loss(trainer):
                with named("loss of a sample", trainer):
                    _measure(trainer, module, batch, image_size_px)
        with named("checkpoint", trainer):
            _save_and_read(trainer, checkpoint)


def placeholder_of(trainer: pl.Trainer, module: pl.LightningModule) -> tuple[Any, str]:
    """Return a batch to try a training step on, or why there is none.

    Args:
        trainer: Knows strategy and datamodule.
        module: The one that would be trained.
    """
    data, strategy = trainer.datamodule, trainer.strategy  # type: ignore[attr-defined]
    if not isinstance(strategy, _UNDONE):
        return None, f"what a step changes in {type(strategy).__name__} cannot be put back"
    if any(map(is_lazy, module.parameters())):
        return None, f"layers of {type(module).__name__} get their size from the first batch"
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        return None, f"{type(module).__name__}.training_step takes an iterator instead of a batch"
    if not isinstance(data, OffersPlaceholder):
        return None, f"{type(data).__name__} has no `placeholder_batch()`"
    with named("placeholder batch", trainer):
        batch = data.placeholder_batch()
    return batch, "" if batch is not None else f"{type(data).__name__} cannot make a placeholder batch yet"


def trial_step(trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
    """Take one optimizer step as the trainer would: forward, backward, clipping, update. Call it inside `untouched`.

    Args:
        trainer: Its strategy is set up.
        module: The one it trains.
        batch: As a loader would deliver it.
    """
    strategy = trainer.strategy
    with silent(trainer, module), torch.enable_grad():
        batch = trainer.precision_plugin.convert_input(batch)
        batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
        batch = call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)
        for hook in ("on_train_start", "on_train_epoch_start"):
            call._call_lightning_module_hook(trainer, hook)
        call._call_lightning_module_hook(trainer, "on_train_batch_start", batch, 0)
        arguments = (
            (batch, 0) if is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2) else (batch,)
        )
        if not module.automatic_optimization:
            call._call_strategy_hook(trainer, "training_step", *arguments)
            return
        optimizer = strategy._lightning_optimizers[0] if trainer.optimizers else None
        closure = _closure(trainer, arguments)
        if optimizer is None:
            closure()
            return
        call._call_lightning_module_hook(trainer, "optimizer_step", 0, 0, optimizer, closure)


def _closure(trainer: pl.Trainer, arguments: tuple[Any, ...]) -> Callable[[], Tensor | None]:
    def closure() -> Tensor | None:
        with torch.enable_grad():
            result = call._call_strategy_hook(trainer, "training_step", *arguments)
            loss: Tensor | None = result.get("loss") if isinstance(result, Mapping) else result
            for optimizer in trainer.optimizers:
                optimizer.zero_grad()
            if loss is not None and trainer.optimizers:
                scaled = loss / trainer.accumulate_grad_batches
                call._call_strategy_hook(trainer, "backward", scaled, trainer.optimizers[0])
            return loss

    return closure


def _draw(trainer: pl.Trainer, module: pl.LightningModule, batch: Any, size_px: int) -> None:
    request = ImageRequest("rehearsal", _prompt_of(batch), 0, size_px, size_px, files=_files_of(batch))
    student_draw(trainer, module)([request] * chunk_of(module))


def _draws_by_loss(trainer: pl.Trainer) -> bool:
    holders = [callback for callback in trainer.callbacks if isinstance(callback, HoldsParts)]  # type: ignore[attr-defined]
    parts = [part for holder in holders for part in holder.parts().values()]
    return any(isinstance(part, DrawsByLoss) and part.most_losses > 0 for part in parts)


def _measure(trainer: pl.Trainer, module: MeasuresLoss, batch: Any, size_px: int) -> None:
    """Measure the loss of a grey picture."""
    image = encode_png(torch.full((3, size_px, size_px), 128, dtype=torch.uint8))
    seeds = tuple(range(NOISE_LEVELS))
    student_measure(trainer, module)([LossRequest("rehearsal", image, _prompt_of(batch), seeds, _files_of(batch))])


def _prompt_of(batch: Any) -> str:
    texts = batch.get("prompt") if isinstance(batch, Mapping) else None
    return texts[0] if isinstance(texts, list) and texts and isinstance(texts[0], str) else "a placeholder"


def _files_of(batch: Any) -> dict[str, FileRef]:
    """Make files of the first sample's further roles: some networks read a mask or a source when they draw, too."""
    files = {}
    for role, values in batch.items() if isinstance(batch, Mapping) else ():
        if role == IMAGE_ROLE or not isinstance(values, Tensor) or values.dim() < 2:
            continue
        if f"has_{role}" in batch and not batch[f"has_{role}"][0]:
            continue  # a row that stands for a file that the sample does not have
        buffer = io.BytesIO()
        if values.dtype == torch.uint8 and values.dim() == 4:
            first = values[0].permute(1, 2, 0).cpu().numpy()
            Image.fromarray(first[..., 0] if first.shape[-1] == 1 else first).save(buffer, "PNG")
            files[role] = FileRef.of(buffer.getvalue(), "image/png", values.shape[-1], values.shape[-2])
        else:
            np.save(buffer, values[0].cpu().numpy(), allow_pickle=False)
            files[role] = FileRef.of(buffer.getvalue(), "application/x-npy")
    return files


def _save_and_read(trainer: pl.Trainer, path: Path) -> None:
    """Write a checkpoint where the run will write its own, read it back, and delete it."""
    path = Path(trainer.strategy.broadcast(str(path)))
    folder = path.parent
    try:
        if trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        trainer.strategy.barrier("rehearsal_folder")
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero and (path).is_file():
            torch.load(path, map_location="cpu", weights_only=True)
        trainer.strategy.barrier("rehearsal_read")
    finally:
        if trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)
            if folder.parent.is_dir() and not any(folder.parent.iterdir()):
                folder.parent.rmdir()


@contextmanager
def named(step: str, trainer: pl.Trainer) -> Iterator[None]:
    """Let an error say in which step of the rehearsal it came, and that nothing was bought.

    Args:
        step: What is tried.
        trainer: Knows where checkpoints go.

    Raises:
        UserError: As it was raised.
        RunError: Anything else.
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise RunError(
            f"The device's memory is full in the rehearsal's {step}, before anything was bought. Weights, gradients, "
            "optimizer and one batch must fit together. Lower data.init_args.global_batch_size (with "
            "trainer.accumulate_grad_batches in exchange), or write trainer.precision: bf16-mixed."
        ) from error
    except OSError as error:
        raise RunError(
            f"The rehearsal's {step} failed: {redacted(str(error))}. Nothing was bought. The run folder "
            f"{trainer.default_root_dir} must take checkpoints of the whole training state. Free space there, or name "
            f"another folder with trainer.default_root_dir. {_SKIP}"
        ) from error
    except Exception as error:
        said = redacted(" ".join(str(error).split()))[:600].rstrip(".")
        raise RunError(
            f"The rehearsal's {step} failed: {type(error).__name__}: {said}. Nothing was bought. The run would have "
            "failed in the same way after its first purchase: mend it, or see the whole error with "
            f"EVOLVEDIRECTOR_DEBUG=1. {_SKIP}"
        ) from error
