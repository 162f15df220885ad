"""Drawing with the module being trained: averaged weights, encoded images, device memory lent to others."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol, runtime_checkable

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from evolvedirector.callbacks._run.image_forms import rgb_image
from evolvedirector.errors import RunError
from evolvedirector.evolution.host import MeasuresLoss, ReadsFiles, StudentPart
from evolvedirector.models.quantised import quantised_layers
from evolvedirector.planning.roles import DrawsInChunks
from evolvedirector.records import ImageRequest, LossRequest
from evolvedirector.records.part import HoldsParts


@runtime_checkable
class Moves(Protocol):
    """A part beside the weights, such as a text encoder, that works where it is sent."""

    def to(self, device: torch.device) -> Any:
        """Move it."""
        ...


@runtime_checkable
class AveragesWeights(Protocol):
    """A callback that can lend the module its averaged weights for a while."""

    def averaged(self, pl_module: pl.LightningModule) -> AbstractContextManager[Any]:
        """Swap the averaged weights in, and the trained ones back at the end."""
        ...


def averaged_weights(trainer: pl.Trainer, module: pl.LightningModule) -> AbstractContextManager[Any]:
    """Draw with averaged weights when a callback keeps them, else with the trained ones."""
    keeper = next((c for c in trainer.callbacks if isinstance(c, AveragesWeights)), None)  # type: ignore[attr-defined]
    return keeper.averaged(module) if keeper else nullcontext()


def averages_weights(trainer: pl.Trainer) -> bool:
    """Whether a callback keeps averaged weights, which are then what draws."""
    return any(isinstance(callback, AveragesWeights) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def encode_png(image: Any) -> bytes:
    """Encode one drawn image as PNG.

    Args:
        image: Anything that `rgb_image` takes.
    """
    buffer = io.BytesIO()
    rgb_image(image).save(buffer, "PNG")
    return buffer.getvalue()


def student_draw(
    trainer: pl.Trainer, module: pl.LightningModule, averaged: bool = True
) -> Callable[[Sequence[ImageRequest]], list[bytes]]:
    """Return a function that draws encoded images with the module's `generate`.

    No gradient is recorded (not inference_mode: a sharded module then fails at its next training step), and the
    train/eval mode of every part is put back.

    Args:
        trainer: Knows the callback that keeps averaged weights.
        module: The student.
        averaged: Whether averaged weights draw where there are any; False: the module as it is.
    """

    def draw(requests: Sequence[ImageRequest]) -> list[bytes]:
        weights = averaged_weights(trainer, module) if averaged else nullcontext()
        with eval_mode(module), torch.no_grad(), weights:
            images = module.generate(requests)  # type: ignore[operator]
        if not isinstance(images, Sequence | Tensor | np.ndarray):
            raise RunError(
                f"{type(module).__name__}.generate returned a {type(images).__name__}. Allowed is a list of images, "
                "one for each request. Return one uint8 tensor (3, height, width) per request, in order."
            )
        if len(images) != len(requests):
            raise RunError(
                f"{type(module).__name__}.generate returned {len(images)} images for {len(requests)} requests. "
                "Allowed is one image for each. Return one uint8 tensor (3, height, width) per request, in order."
            )
        return [encode_png(image) for image in images]

    return draw


def student_measure(trainer: pl.Trainer, module: MeasuresLoss) -> Callable[[Sequence[LossRequest]], list[float]]:
    """Return a function that measures losses as images are drawn: averaged weights, no gradient, every mode put back.

    Args:
        trainer: The running trainer.
        module: The student.
    """
    assert isinstance(module, pl.LightningModule)

    def measure(requests: Sequence[LossRequest]) -> list[float]:
        with eval_mode(module), torch.no_grad(), averaged_weights(trainer, module):
            losses = [float(loss) for loss in module.sample_losses(requests)]
        if len(losses) != len(requests):
            raise RunError(
                f"{type(module).__name__}.sample_losses returned {len(losses)} losses for {len(requests)} samples. "
                "Allowed is one for each. Return one number per request, in order."
            )
        return losses

    return measure


def student_part(trainer: pl.Trainer, module: pl.LightningModule) -> StudentPart:
    """Let the module being trained take part in a round, with its averaged weights when a callback keeps them.

    Args:
        trainer: The running trainer; its step names the weights.
        module: The student.
    """
    weights = f"{'averaged' if averages_weights(trainer) else 'trained'} weights at step {trainer.global_step}"
    name = f"{type(module).__name__}, {weights}"
    measure = student_measure(trainer, module) if isinstance(module, MeasuresLoss) else None
    roles = (module.file_roles, module.needed_roles) if isinstance(module, ReadsFiles) else ()
    return StudentPart(student_draw(trainer, module), name, chunk_of(module), measure, *roles)


def draw_share(
    trainer: pl.Trainer, module: pl.LightningModule, requests: Sequence[ImageRequest], averaged: bool = True
) -> dict[str, bytes]:
    """Draw this rank's share of the requests; returns encoded images by request id.

    Whole chunks are dealt to the ranks in turn, padded so that all ranks draw equally many (a sharded student needs
    all of them in step). Every rank calls it with the same list.

    Args:
        trainer: Knows the ranks.
        module: The student.
        requests: What all ranks draw together.
        averaged: Whether averaged weights draw where there are any; False: the module as it is.
    """
    size = chunk_of(module)
    chunks = [list(requests[start : start + size]) for start in range(0, len(requests), size)]
    if chunks:
        chunks[-1] += [chunks[-1][-1]] * (size - len(chunks[-1]))
        chunks += [chunks[-1]] * (-len(chunks) % trainer.world_size)
    share = [request for chunk in chunks[trainer.global_rank :: trainer.world_size] for request in chunk]
    if not share:
        return {}
    images = student_draw(trainer, module, averaged)(share)
    return {request.request_id: image for request, image in zip(share, images, strict=True)}


@runtime_checkable
class PredictsEmbeddings(Protocol):
    """A module that draws by way of an embedding, as a prior does."""

    def embed(self, requests: Sequence[ImageRequest]) -> Tensor:
        """Return the embedding of each request, Float[request, embedding]."""
        ...


def embedded_share(
    trainer: pl.Trainer, module: pl.LightningModule, requests: Mapping[str, ImageRequest]
) -> dict[str, list[float]]:
    """Return what a module predicts for requests that this rank drew, by request id; nothing where it predicts none.

    Args:
        trainer: Knows the callback that keeps averaged weights.
        module: The student.
        requests: By id.
    """
    if not isinstance(module, PredictsEmbeddings) or not requests:
        return {}
    with eval_mode(module), torch.no_grad(), averaged_weights(trainer, module):
        found = module.embed(list(requests.values()))
    return dict(zip(requests, found.float().cpu().tolist(), strict=True))


@runtime_checkable
class MeasuresEdits(Protocol):
    """A module that edits, and knows what it did outside of the masks of what it drew last."""

    errors_outside: Mapping[str, float]
    """By request id: mean change before it was composited, of 255."""


def chunk_of(module: pl.LightningModule) -> int:
    """Return how many requests a module draws together; 1 where it does not say."""
    return max(1, module.generation_chunk_size) if isinstance(module, DrawsInChunks) else 1


@contextmanager
def eval_mode(module: pl.LightningModule) -> Iterator[None]:
    """Put a module into eval mode for a while and every part back into its own mode after."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, was_training in modes:
            part.training = was_training


def offloader(
    trainer: pl.Trainer, module: pl.LightningModule, what: Literal["none", "optimizer", "all"]
) -> Callable[[bool], None] | None:
    """Return a function that lends the student's device memory to the judge and the teachers (True) and takes it back.

    Args:
        trainer: Holds the optimizers.
        module: The student.
        what: `none` keeps all in place, `optimizer` moves the optimizer's state to the CPU, `all` the weights too,
            with the module's frozen parts: text encoders, codec.
    """
    home = module.device
    if what == "none" or home.type == "cpu":
        return None
    # a strategy may keep shards in main memory anyway: what does not lie on the device does not come to it either
    lent = [part for part in (*module.parameters(), *module.buffers()) if part.device.type != "cpu"]

    def move(away: bool) -> None:
        device = torch.device("cpu") if away else home
        if what == "all":
            for layer in quantised_layers(module):
                layer.to(device)  # their scales are no parameters
            for part in lent:
                part.data = part.data.to(device)
            for frozen in module.parts().values() if isinstance(module, HoldsParts) else ():
                if isinstance(frozen, Moves):
                    frozen.to(device)
        for optimizer in trainer.optimizers:
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.dim() > 0:
                        state[name] = value.to(device if away else parameter.device)
        if away and home.type == "cuda":
            torch.cuda.empty_cache()

    return move
