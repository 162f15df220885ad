"""Measure what each policy, each of its parts and each judge is worth, with a student that trains in a second.

A small network learns prompt -> layout on the miniature grammar (4 shapes x 6 colours, all six skills) through the real
loop: the real round, store, ledger and order. Every arm spends exactly its teacher calls and sees equally many images;
what a policy does not spend goes to prompts as the seeds were. Accuracy is the mean over skills of exact layouts on
prompts that are never trained on and never screened. Each finished run is written at once; the same command goes on.

Run: python benchmarks/policy_trial.py [--seeds 10] [--workers 2] [--arms "static N;screening"] [--out FILE]
"""

from __future__ import annotations

import argparse
import difflib
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds its own folder only, not the one above

from benchmarks.trial_arms import ARMS
from benchmarks.trial_run import TrialSize, run
from benchmarks.trial_table import table

RESULTS = Path(__file__).parent / "results" / "policy_trial.json"


def one_thread() -> None:
    """Give each process one thread: two beside each other then take as long as one."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a bad judge's skipped rounds and a writer without news are figures here


def run_named(name: str, seed: int, size: TrialSize) -> dict[str, Any]:
    """Run one arm with one seed."""
    return {"arm": name, "seed": seed} | run(ARMS[name], seed, size)


def chosen_arms(names: str | None) -> list[str]:
    """Return the arms to run.

    Args:
        names: Separated by semicolons; None is all.

    Raises:
        ValueError: There is no such arm.
    """
    chosen = [name.strip() for name in names.split(";")] if names else list(ARMS)
    for name in chosen:
        if name not in ARMS:
            near = difflib.get_close_matches(name, ARMS, n=1, cutoff=0.0)[0]
            raise ValueError(f"There is no arm {name!r}. Allowed are {'; '.join(ARMS)}. Write {near!r} perhaps.")
    return chosen


def load(path: Path, size: TrialSize) -> list[dict[str, Any]]:
    """Read the finished runs of an interrupted grid.

    Raises:
        ValueError: They were made at another size.
    """
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    if found["size"] != asdict(size):
        raise ValueError(
            f"'{path}' holds runs of another size, {found['size']}. Allowed are runs of {asdict(size)}. "
            "Name another --out, or delete the file."
        )
    return found["runs"]


def save(path: Path, size: TrialSize, runs: Sequence[dict[str, Any]]) -> None:
    """Write all runs, one a line; a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(item) for item in sorted(runs, key=lambda item: (item["arm"], item["seed"])))
    temporary = path.with_suffix(".tmp")
    temporary.write_text(f'{{"size": {json.dumps(asdict(size))},\n"runs": [\n{lines}\n]}}\n')
    os.replace(temporary, path)


def grid(names: Sequence[str], seeds: int, size: TrialSize, workers: int, path: Path) -> list[dict[str, Any]]:
    """Run what is missing, seed by seed, so that an interrupted grid has whole pairs."""
    runs = load(path, size)
    done = {(item["arm"], item["seed"]) for item in runs}
    missing = [(name, seed) for seed in range(seeds) for name in names if (name, seed) not in done]
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(workers, mp_context=context, initializer=one_thread) as pool:
        open_runs: set[Future[dict[str, Any]]] = {pool.submit(run_named, *item, size) for item in missing}
        while open_runs:
            finished, open_runs = wait(open_runs, return_when=FIRST_COMPLETED)
            for future in finished:
                item = future.result()
                runs.append(item)
                save(path, size, runs)
                print(
                    f"{item['arm']:32} {item['seed']:2} {item['accuracy']:.3f} {item['cpu_seconds']:5.1f} s", flush=True
                )
    return runs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the grid and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="runs per arm")
    parser.add_argument("--arms", help="names separated by semicolons; all when left out")
    parser.add_argument("--workers", type=int, default=2, help="processes side by side, one thread each")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where finished runs are kept")
    for name, value in asdict(TrialSize()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help="see TrialSize")
    given = parser.parse_args(arguments)
    size = TrialSize(**{name: getattr(given, name) for name in asdict(TrialSize())})
    begun = time.perf_counter()
    names = chosen_arms(given.arms)
    runs = grid(names, given.seeds, size, given.workers, given.out)
    print(table([item for item in runs if item["arm"] in names and item["seed"] < given.seeds]))
    print(f"{time.perf_counter() - begun:.0f} s with {given.workers} processes")


if __name__ == "__main__":
    main()
