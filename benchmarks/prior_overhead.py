"""Measure what Lightning and our loader add to a training step of a prior, against a bare torch loop.

Both train a prior of their own, of equal weights at the start, by ECLIPSE's loss on the same batches in one process,
and take turns step by step, so that a busy machine slows both alike. The Trainer reads cached embeddings from a dataset
root through `EmbeddingDataModule`; the bare loop has its batches in memory and does the computation of a step and
nothing else: draws, forward, loss, backward, clipping, optimizer.
The figure is the median of the ratios of the pairs, bare seconds over the Trainer's, which is the share of a bare
loop's steps per second, with its 95 % interval by bootstrap over pairs; the bar of 90 % is held where the interval lies
above it. Time is processor time of this process; on a GPU machine it must be read as wall time (--wall).

Run: python -m benchmarks.prior_overhead [--pairs 150] [--batch 64] [--size small] [--wall] [--write FILE]
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

from benchmarks.embedding_reads import make_root
from benchmarks.interleaved import median_interval, take_turns
from evolvedirector.datamodules import EmbeddingDataModule
from evolvedirector.lightning_modules import EclipseObjective, ImagePrior, PriorNetwork
from evolvedirector.lightning_modules.gradient_clipping import clip_gradients
from evolvedirector.lightning_modules.priors.prior_condition import condition_of_batch
from evolvedirector.lightning_modules.priors.prior_objective import draw_for_prior
from evolvedirector.models.embedder import IMAGE_EMBEDDING

WARM_UP = 3
BAR = 0.9
SIZES = {
    "small": PriorNetwork(128, heads=4, head_dim=16, layers=2, text_length=14),
    "karlo": PriorNetwork(),
    "kandinsky": PriorNetwork(1280),
}
"""That of configs/method/eclipse.yaml but for the width of text states, and the two of ECLIPSE."""


class Widths:
    """An embedder that says how wide a prior is, and is never asked."""

    fingerprint = "noise"

    def __init__(self, network: PriorNetwork) -> None:
        self.embedding_dim, self.text_width, self.max_tokens = (
            network.embedding_dim,
            network.text_width,
            network.text_length,
        )

    def embed_texts(self, texts: Any) -> Any:
        """Refuse."""
        raise NotImplementedError

    def embed_images(self, images: Any) -> torch.Tensor:
        """Refuse."""
        raise NotImplementedError


def prior(network: PriorNetwork) -> ImagePrior:
    """Make a prior with ECLIPSE's loss."""
    return ImagePrior(EclipseObjective(), Widths(network), network=network)


def datamodule(root: Path, steps: int, size: int) -> EmbeddingDataModule:
    """Make a datamodule at the start of its stream: every measurement sees the same batches."""
    return EmbeddingDataModule(root, global_batch_size=size, batches_per_epoch=steps)


class BareLoop:
    """Do the same computation without a trainer.

    Args:
        module: Trained.
        batches: In memory.
    """

    def __init__(self, module: ImagePrior, batches: list[dict[str, Any]]) -> None:
        module.configure_model()
        self._module, self._batches = module.train(), batches
        self._optimizer = torch.optim.AdamW(part for part in module.parameters() if part.requires_grad)

    def step(self, number: int) -> None:
        """Train on one batch.

        Args:
            number: Of the batch; those in memory are taken again and again.
        """
        module, batch = self._module, self._batches[number % len(self._batches)]
        condition = condition_of_batch(batch)
        draws = draw_for_prior(batch["sample_seed"], module.objective, module.network.embedding_dim)
        loss = module.objective.losses(
            module._predict, batch[IMAGE_EMBEDDING], condition, draws, batch["prompt"]
        ).total.mean()
        self._optimizer.zero_grad()
        loss.backward()
        clip_gradients(self._optimizer, 1.0, "norm", loss_is_scaled=False)
        self._optimizer.step()


def measure(options: argparse.Namespace, clock: Any) -> list[tuple[float, float]]:
    """Return seconds of a step of the Trainer and of the bare loop, by pair."""
    network = SIZES[options.size]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        make_root(root, options.samples, network.text_length, network.embedding_dim)
        steps = options.pairs + WARM_UP
        loader: Any = datamodule(root, min(steps, options.in_memory), options.batch).train_dataloader()
        bare = BareLoop(prior(network), list(loader))
        return take_turns(prior(network), datamodule(root, steps, options.batch), bare.step, clock, WARM_UP).seconds


def main() -> None:
    """Measure, print and, where asked to, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=150, help="pairs of steps (150)")
    parser.add_argument("--batch", type=int, default=64, help="pairs of embeddings per step (64)")
    parser.add_argument("--size", choices=SIZES, default="small", help="of the network (small)")
    parser.add_argument("--samples", type=int, default=1000, help="pairs of embeddings in the root (1000)")
    parser.add_argument("--in-memory", type=int, default=64, help="batches of the bare loop (64)")
    parser.add_argument("--wall", action="store_true", help="measure wall time instead of processor time")
    parser.add_argument("--write", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seconds = measure(options, time.perf_counter if options.wall else time.process_time)
    found = median_interval([theirs / ours for ours, theirs in seconds])
    sums = [sum(side) for side in zip(*seconds, strict=True)]
    held = "held" if found.low >= BAR else "missed" if found.high < BAR else "open"
    ours, theirs = (1 / statistics.median(side) for side in zip(*seconds, strict=True))
    print(
        f"Steps per second, Trainer {ours:.1f}, bare loop {theirs:.1f}: {100 * found.median:.1f} % ("
        f"{100 * found.low:.1f} to {100 * found.high:.1f} %, {len(seconds)} pairs), bar {100 * BAR:.0f} %: {held}; of "
        f"the sums {100 * sums[1] / sums[0]:.1f} %"
    )
    if options.write:
        figures = {
            "clock": "wall" if options.wall else "processor",
            "size": options.size,
            "batch": options.batch,
            "share_of_bare": round(found.median, 4),
            "interval_95": [round(found.low, 4), round(found.high, 4)],
            "pairs": len(seconds),
            "bar": BAR,
            "bar_is": held,
            "steps_per_s": round(ours, 2),
            "bare_steps_per_s": round(theirs, 2),
        }
        options.write.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
