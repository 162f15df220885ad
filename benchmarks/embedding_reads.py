"""Compare reading batches of embeddings with the training step of a small prior on them.

    python benchmarks/embedding_reads.py --pairs 5000 --batch-size 64

The rows are of CLIP's form: token states of 5 to 77 tokens (--tokens), a pooled text and an image embedding, as
`evolvedirector embed` publishes them. The prior is a stand-in of the size of the small ones of the embedded world: a
transformer of 184 thousand parameters over the token states, its pooled text, noise and a learned token, trained on the
mean squared error by AdamW. Stretches of both are interleaved, so that a busy machine slows both; the figure is the
median of their ratios. The first pass, which decodes every file, is told by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evolvedirector.datamodules import EmbeddingDataModule
from evolvedirector.evolution.embedding import derived_files
from evolvedirector.models.embedder import IMAGE_EMBEDDING, TEXT_EMBEDDING, TEXT_MASK, TEXT_STATES
from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore
from evolvedirector.store.embeddings import EmbeddingFiles

BAR = 10.0
_PNG = (
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f61738550000"
    "000049454e44ae426082"
)
"""One black pixel: images are not read."""


class SmallPrior(nn.Module):
    """Two transformer layers of width 80 over texts, pooled text, noise and a learned token."""

    def __init__(self, text_width: int, embedding_dim: int, width: int = 80, layers: int = 2) -> None:
        super().__init__()
        self.states, self.pooled = nn.Linear(text_width, width), nn.Linear(embedding_dim, width)
        self.noise, self.head = nn.Linear(embedding_dim, width), nn.Linear(width, embedding_dim)
        self.learned = nn.Parameter(torch.zeros(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Predict image embeddings, [batch embedding]."""
        pooled = batch[TEXT_EMBEDDING]
        rest = [self.pooled(pooled)[:, None], self.noise(torch.randn_like(pooled))[:, None]]
        rest.append(self.learned.expand(len(pooled), -1, -1))
        hidden = torch.cat([self.states(batch[TEXT_STATES]), *rest], 1)
        padding = torch.cat([~batch[TEXT_MASK], batch[TEXT_MASK].new_zeros(len(pooled), 3)], 1)
        return self.head(self.blocks(hidden, src_key_padding_mask=padding)[:, -1])


def make_root(root: Path, pairs: int, tokens: int, width: int) -> None:
    """Publish random embeddings of so many pairs, in the form and through the files of `evolvedirector embed`."""
    draw = np.random.default_rng(0)
    with DatasetStore(root, create=True) as store:
        image = store.blobs.put(bytes.fromhex(_PNG))
        samples = [Sample.create(Prompt.create(f"thing number {n}"), image, "noise") for n in range(pairs)]
        sha = store.publish(None, "import", RevisionChange(samples=tuple(samples)))
        files = EmbeddingFiles(root, "noise")
        files.write({files.image_key(image): {IMAGE_EMBEDDING: draw.normal(size=width).astype(np.float32)}})
        for sample in samples:
            states = draw.normal(size=(draw.integers(min(5, tokens), tokens + 1), width)).astype(np.float16)
            pooled = draw.normal(size=width).astype(np.float32)
            files.write({files.text_key(sample.prompt.text): {TEXT_STATES: states, TEXT_EMBEDDING: pooled}})
        store.publish_companion(sha, "noise", derived_files(samples, files), "noise")
        files.discard()


def per_second(work: Iterator[Any], count: int) -> float:
    """Time so many steps of an iterator."""
    started = time.perf_counter()
    for _ in range(count):
        next(work)
    return count / (time.perf_counter() - started)


def steps(batches: Iterator[dict[str, Any]], width: int) -> Iterator[int]:
    """Train the small prior for ever; the batches are read beforehand, so that only the step is timed."""
    kept = [next(batches) for _ in range(8)]
    prior = SmallPrior(width, width)
    optimizer = torch.optim.AdamW(prior.parameters(), 1e-3)
    yield sum(parameter.numel() for parameter in prior.parameters())
    while True:
        for batch in kept:
            (prior(batch) - batch[IMAGE_EMBEDDING]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            yield 0


def main() -> None:
    """Print both rates and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5000, help="of the root (default 5000)")
    parser.add_argument("--batch-size", type=int, default=64, help="(default 64)")
    parser.add_argument("--tokens", type=int, default=16, help="most of a text (default 16)")
    parser.add_argument("--width", type=int, default=64, help="of states and joint space (default 64)")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved stretches (default 7)")
    parser.add_argument("--threads", type=int, default=1, help="of the prior (default 1)")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        make_root(root, options.pairs, options.tokens, options.width)
        endless = {"global_batch_size": options.batch_size, "batches_per_epoch": 10**9}
        reading = iter(EmbeddingDataModule(root, **endless).train_dataloader())
        training = steps(iter(EmbeddingDataModule(root, **endless).train_dataloader()), options.width)
        parameters = next(training)
        next(reading)
        first_pass = per_second(reading, max(1, options.pairs // options.batch_size))
        per_second(training, 3)
        pairs = [(per_second(reading, 200), per_second(training, 20)) for _ in range(options.repeats)]
    reads, trains = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"batches of {options.batch_size}: {reads:,.0f} read/s ({first_pass:,.0f} in the first pass), ", end="")
    print(f"{trains:,.1f} training steps/s of {parameters:,} parameters on {options.threads} thread(s)")
    print(f"median ratio of {options.repeats} interleaved stretches: {ratio:.1f} (bar: {BAR:g})")
    if options.out is not None:
        figures = {"ratio": ratio, "reads_per_s": reads, "first_pass_per_s": first_pass, "steps_per_s": trains}
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        options.out.write_text(json.dumps({**settings, "parameters": parameters, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
