"""Compare reading in random order by index with streaming WebDataset over the same tars.

    python benchmarks/reads.py --samples 20000

Both read raw bytes (48 KiB of image, a caption and JSON per sample) from the page cache, without decoding, in one
process. Pairs are interleaved, so that a busy machine slows both; the figure is the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import webdataset

from evolvedirector.records import Prompt, Sample
from evolvedirector.store import RevisionReader
from evolvedirector.store.codec import prompt_to_json
from evolvedirector.store.dataset import create_root
from evolvedirector.store.delta import Place, sample_to_json, shard_to_json
from evolvedirector.store.revision import RevisionFiles
from evolvedirector.store.shards import sample_members, write_shard

SAMPLE_BYTES = 48 * 1024
SAMPLES_PER_SHARD = 2000


def make_root(root: Path, samples: int) -> str:
    """Write a revision of incompressible samples, straight into shards (their pixels are never decoded here)."""
    create_root(root)
    noise = np.random.default_rng(0)
    prompts, rows, shards = [], [], []
    for start in range(0, samples, SAMPLES_PER_SHARD):
        part = [Prompt.create(f"thing number {n}") for n in range(start, min(start + SAMPLES_PER_SHARD, samples))]
        named = [Sample.create(prompt, f"{start + n:064x}", "noise") for n, prompt in enumerate(part)]
        images = (b"\x89PNG\r\n\x1a\n" + noise.bytes(SAMPLE_BYTES - 8) for _ in part)
        shard = write_shard(root / "shards", 1, map(sample_members, named, images))
        shards.append(shard_to_json(shard))
        prompts += [prompt_to_json(prompt) for prompt in part]
        rows += [sample_to_json(sample, Place(shard.name, n, 256, 256)) for n, sample in enumerate(named)]
    body = {"number": 1, "parent": None, "round_id": "benchmark", "prompts": prompts, "samples": rows, "shards": shards}
    files = RevisionFiles(root)
    return files.write({**body, "states": {}, "skill_weights": None, "replay_share": None})


def samples_per_second(read: object, samples: int) -> float:
    """Time one pass of a callable that reads `samples` samples."""
    started = time.perf_counter()
    count = read()  # type: ignore[operator]
    seconds = time.perf_counter() - started
    assert count == samples, f"{count} of {samples} samples were read"
    return samples / seconds


def main() -> None:
    """Print both speeds and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000, help="48 KiB each (default 10000: 0.5 GB on disk)")
    parser.add_argument("--pairs", type=int, default=7, help="interleaved repetitions (default 7)")
    options = parser.parse_args()
    options.samples = max(100, options.samples // 100 * 100)  # whole batches
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        reader = RevisionReader(root, make_root(root, options.samples))
        order = reader.order(seed=0, global_batch_size=100)
        tars = sorted(str(path) for path in (root / "shards").glob("*.tar"))

        def by_index() -> int:
            batches = range(options.samples // 100)
            return sum(len(reader.raw(row)) > 0 for batch in batches for row in order.global_batch(batch).tolist())

        def streaming() -> int:
            return sum(1 for _ in webdataset.WebDataset(tars, shardshuffle=False))

        by_index(), streaming()  # fills the page cache
        pairs = []
        for _ in range(options.pairs):
            pairs.append(
                (samples_per_second(by_index, options.samples), samples_per_second(streaming, options.samples))
            )
    indexed, streamed = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"random order by index: {indexed:,.0f} samples/s; streaming webdataset: {streamed:,.0f} samples/s")
    print(f"median ratio of {options.pairs} interleaved pairs: {ratio:.2f} (bar: 6)")


if __name__ == "__main__":
    main()
