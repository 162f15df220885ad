"""Measure the quickstart as it is shipped: evolution against a static set of equal price, from several seeds.

Both recipes run unchanged but for their seeds and folders: each seed draws other first weights, other seed prompts,
other batches and another evolution. What is held out stays as shipped. The reader is exact.

Run: python -m benchmarks.quickstart_seeds [--seeds 0,1,2] [--out FILE]
Each finished run is written to FILE, so an interrupted grid continues; `--report` prints the table of what is there.
Two single-thread processes work side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from threading import Lock
from typing import Any

import yaml

from benchmarks.data_efficiency import load, paired_interval
from evolvedirector.evaluation.intervals import wilson_interval
from evolvedirector.report.headline import accuracy_rows

RESULTS = Path(__file__).parent / "results" / "quickstart_seeds.json"
CONFIGS = Path(__file__).parents[1] / "configs"
ARMS = {"evolution": "quickstart.yaml", "static": "quickstart_static.yaml"}


def seeded(recipe: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Return a recipe with other seeds and folders; nothing else changes.

    Args:
        recipe: The shipped one.
        seed: Added to each of its seeds; 0 is the shipped recipe.
        folder: Its run folder.
    """
    recipe["seed_everything"] += seed
    model = recipe["model"]["init_args"]
    model["seed"] = model.get("seed", 0) + seed
    data = recipe["data"]["init_args"]
    data["root"] = str(folder / "data")
    data["seed"] = data.get("seed", 0) + seed
    data["seeds"]["init_args"]["seed"] = data["seeds"]["init_args"].get("seed", 0) + seed
    recipe["trainer"]["default_root_dir"] = str(folder)
    for callback in recipe["trainer"]["callbacks"]:
        if callback["class_path"].endswith("EvolutionCallback"):
            callback["init_args"]["seed"] = callback["init_args"].get("seed", 0) + seed
    return recipe


def one(arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one arm from one seed and return its figures.

    Raises:
        RuntimeError: The run failed.
    """
    recipe = yaml.safe_load((CONFIGS / ARMS[arm]).read_text("utf-8"))
    written = folder / "recipe.yaml"
    written.write_text(yaml.safe_dump(seeded(recipe, seed, folder / "run")), "utf-8")
    command = [sys.executable, "-m", "evolvedirector", "fit", "-c", str(written)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=CONFIGS.parent)
    if done.returncode:
        raise RuntimeError(f"{arm}, seed {seed} failed:\n{done.stderr[-3000:]}")
    summary = json.loads((folder / "run" / "summary.json").read_text("utf-8"))
    kept = ("accuracy", "accuracy_interval", "accuracy_prompts", "accuracy_mean", "accuracy_by_kind", "teacher_calls")
    return {"arm": arm, "seed": seed, **{name: summary[name] for name in kept}, "seconds": summary["wall_s"]}


def report(runs: Sequence[dict[str, Any]]) -> str:
    """Return the table: each figure by arm with its range over seeds, and the difference paired by seed.

    Args:
        runs: Finished runs; a seed counts where both arms are there.
    """
    by_arm = {arm: {run["seed"]: run for run in runs if run["arm"] == arm} for arm in ARMS}
    seeds = sorted(set.intersection(*(set(found) for found in by_arm.values())))
    if not seeds:
        return "no seed has both arms yet"
    names = ["mean", *dict.fromkeys(name for run in runs for name, *_ in accuracy_rows(run))]
    lines = [
        f"| share right (seeds {', '.join(map(str, seeds))}) | evolution | static | difference, 95 % interval |",
        "|---|---|---|---|",
    ]
    for name in names:
        values = {arm: [_figure(by_arm[arm][seed], name) for seed in seeds] for arm in ARMS}
        low = paired_interval(values["evolution"], values["static"])
        cells = [f"{mean(found):.2f} ({', '.join(f'{v:.2f}' for v in found)})" for found in values.values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {low[0]:+.2f}, {low[1]:+.2f} to {low[2]:+.2f} |")
    pooled = [name for name in names if name != "mean" and _worse(by_arm, seeds, name)]
    lines.append(f"Worse with evolution by more than the pooled intervals: {', '.join(pooled) or 'nothing'}.")
    return "\n".join(lines)


def _figure(run: dict[str, Any], name: str) -> float:
    rows = {row: share for row, share, *_ in accuracy_rows(run)}
    return float(run["accuracy_mean"] if name == "mean" else rows[name])


def _worse(by_arm: dict[str, dict[int, dict[str, Any]]], seeds: Sequence[int], name: str) -> bool:
    """Say whether evolution's pooled interval lies below the static one's; the prompts of all seeds are the trials."""
    bounds = {}
    for arm, runs in by_arm.items():
        rows = [{row: (share, n) for row, share, _, n in accuracy_rows(runs[seed])}[name] for seed in seeds]
        trials = sum(n or 0 for _, n in rows)
        bounds[arm] = wilson_interval(sum(share * (n or 0) for share, n in rows), trials) or (0.0, 1.0)
    return bounds["evolution"][1] < bounds["static"][0]


def main() -> None:
    """Run the grid, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2", help="which: fixed before the first run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="print the table of the finished runs")
    options = parser.parse_args()
    lock = Lock()

    def work(arm: str, seed: int) -> None:
        if any((run["arm"], run["seed"]) == (arm, seed) for run in load(options.out)):
            return
        with tempfile.TemporaryDirectory() as folder:
            result = one(arm, seed, Path(folder))
        with lock:
            options.out.write_text(json.dumps([*load(options.out), result], indent=1) + "\n")
        print(f"{arm}, seed {seed}: {result['accuracy_mean']:.3f} in {result['seconds']:.0f} s", flush=True)

    if not options.report:
        jobs = [(arm, int(seed)) for seed in options.seeds.split(",") for arm in ARMS]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda job: work(*job), jobs))
    print(report(load(options.out)))


if __name__ == "__main__":
    main()
