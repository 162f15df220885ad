"""Measure what Lightning adds to a training step: our module and loader in a Trainer against a bare torch loop.

Both train a student of their own, of equal weights at the start, on the same batches in one process, and take turns
step by step, so that a busy machine slows both alike. The Trainer reads them from a dataset root through
`EvolvingDataModule`; the bare loop has them in memory and does the computation of a step and nothing else: draws, text
states, forward, backward, clipping, optimizer.
The figure is the median of the ratios of the pairs, with its 95 % interval by bootstrap over pairs; the bar of 5 % is
held where the interval lies under it. Time is processor time of this process, which other work on the machine disturbs
least; on a GPU machine it must be read as wall time (--wall).

Run: python -m benchmarks.step_overhead [--pairs 150] [--batch 32] [--wall] [--write FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.interleaved import median_interval, take_turns
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.lightning_modules import FlowMatching, PixArt, RandomTextEncoder, TextToImage
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.lightning_modules.gradient_clipping import clip_gradients
from evolvedirector.lightning_modules.sampling import from_uint8
from evolvedirector.records import ImageRequest, RevisionChange, Sample
from evolvedirector.records.condition import Extras, Size
from evolvedirector.store import DatasetStore
from evolvedirector.worlds.shapes import MiniaturePrompts, MiniatureTeacher

WARM_UP = 3
BAR_PERCENT = 5


def student() -> TextToImage:
    """Make the student of configs/model/tiny.yaml, with a text encoder that needs no package."""
    return TextToImage(
        PixArt(RandomTextEncoder(384), 32, text_length=24, patch_size=8, layers=6, heads=4, head_dim=48),
        FlowMatching(prediction="x0"),
        image_size_px=32,
    )


def dataset(root: Path, samples: int) -> None:
    """Make a dataset root of drawn scenes, kept as given images."""
    prompts = MiniaturePrompts(count=samples).prompts()
    requests = [ImageRequest(prompt.id, prompt.text, number, 32, 32) for number, prompt in enumerate(prompts)]
    images = {reply.request_id: reply.image for reply in MiniatureTeacher().generate(requests)}
    with DatasetStore(root, create=True) as store:
        names = store.blobs.put_many([images[prompt.id] or b"" for prompt in prompts])
        samples_of = [Sample.create(prompt, name, "given") for prompt, name in zip(prompts, names, strict=True)]
        store.publish(None, "import", RevisionChange(samples=tuple(samples_of)))


def datamodule(root: Path, steps: int, size: int) -> EvolvingDataModule:
    """Make a datamodule at the start of its stream: every measurement sees the same batches."""
    return EvolvingDataModule(root, global_batch_size=size, batches_per_epoch=steps, image_size_px=32)


class BareLoop:
    """Do the same computation without a trainer.

    Args:
        module: Trained.
        batches: In memory.
    """

    def __init__(self, module: TextToImage, batches: list[dict[str, Any]]) -> None:
        module.configure_model()
        self._module, self._batches = module.train(), batches
        self._optimizer = torch.optim.AdamW(module.parameters())

    def step(self, number: int) -> None:
        """Train on one batch.

        Args:
            number: Of the batch.
        """
        module, batch = self._module, self._batches[number]
        draws = draw(batch["sample_seed"], module.objective, module.condition_dropout, (3, 32, 32), latent=False)
        clean = from_uint8(batch["image"])
        noisy = module.objective.corrupt(clean, draws.noise, draws.time)
        texts = ["" if dropped else text for text, dropped in zip(batch["prompt"], draws.dropped, strict=True)]
        states = module.text_states.get(texts, torch.device("cpu"))
        condition = module.family.condition(states, [Size(32, 32)] * len(texts), Extras())
        times = module.objective.transformer_time(draws.time)
        assert module.transformer is not None
        prediction = module.family.predict(module.transformer, noisy, times, condition)
        loss = module.objective.loss(prediction, clean, draws.noise, draws.time).mean()
        self._optimizer.zero_grad()
        loss.backward()
        clip_gradients(self._optimizer, 1.0, "norm", loss_is_scaled=False)
        self._optimizer.step()


def main() -> None:
    """Measure, print and, where asked to, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=150, help="pairs of steps")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--wall", action="store_true", help="measure wall time instead of processor time")
    parser.add_argument("--write", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    clock = time.perf_counter if arguments.wall else time.process_time
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        dataset(root, samples=500)
        steps = arguments.pairs + WARM_UP
        loader: Any = datamodule(root, steps, arguments.batch).train_dataloader()
        bare = BareLoop(student(), list(loader))
        seconds = take_turns(student(), datamodule(root, steps, arguments.batch), bare.step, clock, WARM_UP).seconds
    found = median_interval([100 * (ours / theirs - 1) for ours, theirs in seconds])
    sums = [sum(side) for side in zip(*seconds, strict=True)]
    held = "held" if found.high <= BAR_PERCENT else "missed" if found.low > BAR_PERCENT else "open"
    print(
        f"Lightning over a bare loop: {found.median:+.1f} % ({found.low:+.1f} to {found.high:+.1f} %, {len(seconds)} "
        f"pairs), bar {BAR_PERCENT} %: {held}; of the sums {100 * (sums[0] / sums[1] - 1):+.1f} %"
    )
    rate = arguments.batch / statistics.median(ours for ours, _ in seconds)
    print(f"{rate:.0f} images per second of one thread")
    if arguments.write:
        figures = {
            "clock": "wall" if arguments.wall else "processor",
            "overhead_percent": round(found.median, 3),
            "interval_95": [round(found.low, 3), round(found.high, 3)],
            "pairs": len(seconds),
            "bar_percent": BAR_PERCENT,
            "bar_is": held,
            "images_per_s": round(rate, 1),
        }
        arguments.write.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
