"""Drawing with the module being trained: averaged weights, encoded images, device memory lent to others."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from PIL import Image
from torch import Tensor

from evolvedirector.evolution.host import StudentPart
from evolvedirector.records import ImageRequest


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


def encode_png(image: Tensor) -> bytes:
    """Encode a uint8 image (3, height, width) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image.detach().to("cpu").permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def student_draw(trainer: pl.Trainer, module: pl.LightningModule) -> Callable[[Sequence[ImageRequest]], list[bytes]]:
    """Return a function that draws encoded images with the module's `generate`.

    No gradient is recorded (not inference_mode: a sharded module then fails at its next training step), and the
    train/eval mode of every part is put back.
    """

    def draw(requests: Sequence[ImageRequest]) -> list[bytes]:
        with eval_mode(module), torch.no_grad(), averaged_weights(trainer, module):
            images = module.generate(requests)  # type: ignore[operator]
        if len(images) != len(requests):
            raise RuntimeError(
                f"{type(module).__name__}.generate returned {len(images)} images for {len(requests)} requests. "
                "Allowed is one image for each. Return one uint8 tensor (3, height, width) per request, in order."
            )
        return [encode_png(image) for image in images]

    return draw


def student_part(trainer: pl.Trainer, module: pl.LightningModule) -> StudentPart:
    """Let the module being trained take part in a round, with its averaged weights when a callback keeps them.

    Args:
        trainer: The running trainer; its step names the weights.
        module: The student.
    """
    averaged = any(isinstance(callback, AveragesWeights) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    weights = f"{'averaged' if averaged else 'trained'} weights at step {trainer.global_step}"
    return StudentPart(student_draw(trainer, module), f"{type(module).__name__}, {weights}", chunk_of(module))


def draw_share(trainer: pl.Trainer, module: pl.LightningModule, requests: Sequence[ImageRequest]) -> dict[str, bytes]:
    """Draw this rank's share of the requests with averaged weights; returns encoded images by request id.

    Whole chunks are dealt to the ranks in turn, padded so that all ranks draw equally many (a sharded student needs
    all of them in step). Every rank calls it with the same list.

    Args:
        trainer: Knows the ranks.
        module: The student.
        requests: What all ranks draw together.
    """
    size = chunk_of(module)
    chunks = [list(requests[start : start + size]) for start in range(0, len(requests), size)]
    if chunks:
        chunks[-1] += [chunks[-1][-1]] * (size - len(chunks[-1]))
        chunks += [chunks[-1]] * (-len(chunks) % trainer.world_size)
    share = [request for chunk in chunks[trainer.global_rank :: trainer.world_size] for request in chunk]
    if not share:
        return {}
    images = student_draw(trainer, module)(share)
    return {request.request_id: image for request, image in zip(share, images, strict=True)}


@runtime_checkable
class DrawsInChunks(Protocol):
    """A module that draws a fixed number of requests together."""

    generation_chunk_size: int


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
        what: `none` keeps all in place, `optimizer` moves the optimizer's state to the CPU, `all` the weights too.
    """
    home = module.device
    if what == "none" or home.type == "cpu":
        return None

    def move(away: bool) -> None:
        device = torch.device("cpu") if away else home
        for optimizer in trainer.optimizers:
            for state in optimizer.state.values():
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.dim() > 0:
                        state[name] = value.to(device)
        if what == "all":
            for part in [*module.parameters(), *module.buffers()]:
                part.data = part.data.to(device)
        if away and home.type == "cuda":
            torch.cuda.empty_cache()

    return move
