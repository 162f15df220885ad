"""Measure how opening, publishing, deciding and reading a dataset grow with its prompts.

Roots of 10 thousand, 100 thousand and a million samples are written first (real shards of a picture of 8 x 8 px). Each
phase then runs in a process of its own, on each root in turn, and says its seconds of processor time and by how much
its memory grew at most. Publishing adds 100 samples and changes 100 states, five times; the bar is a second at a
million. Opening is what a rank of a training does: the reader of the newest revision and its order; bars are 2 s and
300 MB at a million. The same revisions as objects (as they were held before there were columns) stand beside it.
Deciding is `ScreeningPolicy` with 100 candidates that a judge without cost looked at. Reading is 1,000 batches of 16,
decoded.

Run: python -m benchmarks.store_scale [--samples 10000,100000,1000000] [--work runs/store-scale] [--write FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import webdataset  # noqa: F401 - not in the seconds of the first shard
from PIL import Image

from evolvedirector.policies import ScreeningPolicy
from evolvedirector.records import Allowance, Evidence, Prompt, PromptEntry, RevisionChange, RoundInfo, Sample
from evolvedirector.records.layered import with_changes
from evolvedirector.store import DatasetStore, EvolvingDataset, RevisionReader, columnar
from evolvedirector.store.card import keep_card
from evolvedirector.store.codec import prompt_to_json
from evolvedirector.store.dataset import create_root
from evolvedirector.store.delta import Place, sample_to_json, shard_to_json
from evolvedirector.store.revision import RevisionFiles
from evolvedirector.store.shards import MAX_SHARD_SAMPLES, sample_members, write_shard

Figures = dict[str, float]
SIZES = (10_000, 100_000, 1_000_000)
SKILLS = 12
CHANGED = 100
"""Samples that a round adds, and states that it changes."""
PUBLISHED = 5
BATCHES, BATCH = 1000, 16


def picture() -> bytes:
    """Draw the picture that every sample has."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 80, 40)).save(file, "PNG")
    return file.getvalue()


def prompt_of(number: int) -> Prompt:
    """Return a prompt of about 80 characters."""
    text = f"thing number {number}, seen from the side on a wooden table under a lamp, in the evening"
    return Prompt.create(text, skill=f"skill {number % SKILLS}")


def make_root(root: Path, samples: int) -> None:
    """Write one revision of so many samples, with its snapshot.

    Args:
        root: Of the dataset; one that is there is taken.
        samples: In all, one for each prompt.
    """
    if (root / "CURRENT").exists():
        return
    create_root(root)
    png, sha256 = picture(), f"{0:064x}"
    prompts: list[Any] = []
    rows: list[Any] = []
    shards: list[Any] = []
    for start in range(0, samples, MAX_SHARD_SAMPLES):
        made = [prompt_of(n) for n in range(start, min(start + MAX_SHARD_SAMPLES, samples))]
        named = [Sample.create(prompt, sha256, "noise") for prompt in made]
        shard = write_shard(root / "shards", 1, (sample_members(sample, png) for sample in named))
        shards.append(shard_to_json(shard))
        prompts += [prompt_to_json(prompt) for prompt in made]
        rows += [sample_to_json(sample, Place(shard.name, n, 8, 8)) for n, sample in enumerate(named)]
    files = RevisionFiles(root)
    body = {"number": 1, "parent": None, "round_id": "import", "prompts": prompts, "samples": rows, "shards": shards}
    sha = files.write({**body, "states": {}, "skill_weights": None, "replay_share": None})
    keep_card(root, ())
    files.write_snapshot(sha, files.load(sha))
    files.set_current(sha)


def opening(root: Path) -> Figures:
    """Open what a rank of a training opens."""
    reader = RevisionReader(root, RevisionFiles(root).current() or "")
    order = reader.order(0, BATCH)
    return {"rows": float(len(reader)), "first": float(order.global_batch(0)[0])}


def opening_as_objects(root: Path) -> Figures:
    """Do the same with every prompt and sample an object."""
    columnar.MAX_OBJECTS = sys.maxsize
    return opening(root)


def publishing(root: Path) -> Figures:
    """Publish some rounds; the median, and the first with what is opened for it."""
    seconds = []
    with DatasetStore(root) as store:
        sha = store.current() or ""
        sha256 = store.blobs.put(picture())
        for number in range(PUBLISHED):
            first = (store.number(sha) + 1) * 1_000_000_000
            added = [Sample.create(prompt_of(first + n), sha256, "noise") for n in range(CHANGED)]
            before = time.process_time()
            state = store.state(sha)
            ids = [prompt_of(n).id for n in range(number * CHANGED, (number + 1) * CHANGED)]
            states = {key: "mastered" if state.entries[key].state == "live" else "live" for key in ids}
            sha = store.publish(sha, f"round {first}", RevisionChange(samples=added, states=states))  # type: ignore[arg-type]
            seconds.append(time.process_time() - before)
    return {"first_s": seconds[0], "median_s": statistics.median(seconds[1:])}


def deciding(root: Path) -> Figures:
    """Plan a round, and decide it."""
    with DatasetStore(root) as store:
        sha = store.current() or ""
        state = store.state(sha)
        policy = ScreeningPolicy()
        info = RoundInfo("round", 3, 10, 0, 3000, sha, budget_teacher_calls=10 * CHANGED, seed_calls=0)
        before = time.process_time()
        plan = policy.plan(state, info)  # goes through the prompts first, and makes objects of them
        planned = time.process_time() - before
        candidates = [replace(prompt_of(-1 - n), origin="mutation") for n in range(CHANGED)]
        seen = replace(
            state, entries=with_changes(state.entries, {p.id: PromptEntry(p, "candidate") for p in candidates})
        )
        evidence = [
            Evidence(p.id, "screen", "lacks" if n % 3 else "shows", skill=p.skill, lineage_id=p.lineage_id)
            for n, p in enumerate(candidates)
        ]
        before = time.process_time()
        decisions = policy.decide(seen, evidence, Allowance(CHANGED, None, None), info)
        mix = policy.mix(seen, evidence, info)
        decided = time.process_time() - before
    assert plan.write and any(decision.kind == "buy" for decision in decisions) and mix is not None
    return {"plan_s": planned, "decide_s": decided}


def reading(root: Path) -> Figures:
    """Read and decode the samples of many batches in their order."""
    dataset = EvolvingDataset(root, RevisionFiles(root).current() or "")
    batches = dataset.batch_sampler(BATCH, batches=BATCHES)
    before, samples = time.process_time(), 0
    for rows in batches:
        samples += len([dataset[row] for row in rows])
    return {"read_s": time.process_time() - before, "samples": float(samples)}


PHASES: dict[str, Callable[[Path], Figures]] = {
    "open": opening,
    "open as objects": opening_as_objects,
    "publish": publishing,
    "decide": deciding,
    "read": reading,
}


def measured(phase: str, root: Path) -> Figures:
    """Run a phase in this process; say what it took beside its own figures.

    Args:
        phase: Of `PHASES`.
        root: Of the dataset.
    """
    before_kb, began, wall = _memory_kb("VmRSS"), time.process_time(), time.perf_counter()
    found = PHASES[phase](root)
    return {
        **found,
        "seconds": time.process_time() - began,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": (_memory_kb("VmHWM") - before_kb) / 1000,
    }


def _memory_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def main() -> None:
    """Write the roots, run every phase on each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", default=",".join(map(str, SIZES)))
    parser.add_argument("--work", type=Path, default=Path("runs/store-scale"))
    parser.add_argument("--write", type=Path, help="a JSON file of the figures")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one[0], Path(options.one[1]))))
        return
    sizes = [int(word) for word in options.samples.split(",")]
    roots = {size: options.work / str(size) for size in sizes}
    for size, root in roots.items():
        make_root(root, size)
    figures: dict[str, dict[str, Figures]] = {}
    for phase in PHASES:
        for size, root in roots.items():
            command = [sys.executable, "-m", "benchmarks.store_scale", "--one", phase, str(root)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found: Figures = json.loads(done.stdout.splitlines()[-1])
            figures.setdefault(phase, {})[str(size)] = found
            said = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
            print(f"{phase}, {size} samples: {said}", flush=True)
    if options.write:
        options.write.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
