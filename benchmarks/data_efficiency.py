"""Measure what a judged, evolving dataset is worth: the image student at equal spend and equal images seen.

Every arm sees the same number of training images and spends exactly its teacher calls (one call is one image of one
perfect teacher; what a policy leaves over goes to prompts from the distribution of the seeds). 10 % of N are seeds,
95 % of them easy. The held-out prompts are whole combinations that no operation touches; the reader is exact.

Run: python -m benchmarks.data_efficiency [--seeds 3] [--arms "static N,screening N"] [--out FILE]
Each finished run is written to FILE, so an interrupted grid continues; `--report` prints the table of what is there
and `--pictures FOLDER` draws the curves. Two single-thread processes work side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks.trial_table import interval

RESULTS = Path(__file__).parent / "results" / "data_efficiency.json"


def load(path: Path) -> list[dict[str, Any]]:
    """Read the finished runs."""
    return json.loads(path.read_text()) if path.exists() else []


def of_size(runs: Sequence[dict[str, Any]], n: int, images: int) -> list[dict[str, Any]]:
    """Keep the runs with this N and this many images seen: only those can be compared."""
    return [run for run in runs if (run["n"], run["images_seen"] // 32) == (n, images // 32)]


def paired_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and 95 % interval of the paired difference: d +- t s / sqrt(n) (Student's t)."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return mean, float("-inf"), float("inf")
    return mean, *interval(differences)


def _one(arm: str, seed: int, out: Path, lock: Lock, extra: list[str]) -> bool:
    """Do one run in a process of its own, and say whether it finished."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "run.json"
        command = [sys.executable, "-m", "benchmarks.data_efficiency", "--one", arm, "--seed", str(seed)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--result", str(result), *extra], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            print(f"{arm}, seed {seed} failed:\n{done.stderr[-3000:]}", flush=True)
            return False
        with lock:
            runs = [*load(out), json.loads(result.read_text())]
            partial = out.with_suffix(".tmp")
            partial.write_text(json.dumps(runs, indent=1) + "\n")
            partial.replace(out)
    last = runs[-1]
    print(
        f"{arm}, seed {seed}: {last['accuracy_mean']:.3f} with {last['calls']} calls in {last['seconds']} s", flush=True
    )
    return True


def report(runs: Sequence[dict[str, Any]], reference: str = "static 5N") -> str:
    """Return the table as Markdown: accuracy per skill, mean, and the paired difference to a reference arm."""
    by_arm: dict[str, dict[int, dict[str, Any]]] = {}
    for run in runs:
        by_arm.setdefault(run["arm"], {})[run["seed"]] = run
    skills = list(runs[0]["accuracy"]) if runs else []
    lines = [f"| arm | seeds | calls | {' | '.join(skills)} | mean | minus {reference} (95 % interval) |"]
    lines.append("|" + "---|" * (5 + len(skills)))
    for arm, by_seed in by_arm.items():
        mean_of = [statistics.mean(run["accuracy"][skill] for run in by_seed.values()) for skill in skills]
        mean = statistics.mean(run["accuracy_mean"] for run in by_seed.values())
        calls = statistics.mean(run["calls"] for run in by_seed.values())
        difference = _difference(by_arm, arm, reference)
        cells = [f"{value:.2f}" for value in mean_of]
        lines.append(f"| {arm} | {len(by_seed)} | {calls:.0f} | {' | '.join(cells)} | {mean:.3f} | {difference} |")
    for first, second in (("screening N", "no judge N"), ("screening N, 30 % wrong looks", "static N")):
        lines.append(f"\n{first} minus {second}: {_difference(by_arm, first, second)}")
    return "\n".join(lines)


def _difference(by_arm: dict[str, dict[int, dict[str, Any]]], first: str, second: str) -> str:
    common = sorted(by_arm.get(first, {}).keys() & by_arm.get(second, {}).keys())
    if first == second or not common:
        return ""
    values = ([by_arm[arm][seed]["accuracy_mean"] for seed in common] for arm in (first, second))
    mean, low, high = paired_interval(*values)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    """Run what is missing, then report.

    Raises:
        SystemExit: With 1, where runs failed.
    """
    from benchmarks.efficiency_run import ARMS, CALIBRATION, CLAIM, IMAGES_SEEN, N, run

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1, help="settings were chosen with seed 0")
    parser.add_argument(
        "--arms", default=",".join(CLAIM).replace("N, 30", "N; 30"), help="separated by ',' (';' inside)"
    )
    parser.add_argument("--calibrate", action="store_true", help=f"run {' and '.join(CALIBRATION)} only")
    parser.add_argument("--n", type=int, default=N)
    parser.add_argument("--images", type=int, default=IMAGES_SEEN)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="print the table and run nothing")
    parser.add_argument("--pictures", type=Path, help="draw the curves into this folder and run nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        options.result.write_text(json.dumps(run(options.one, options.seed, options.images, options.n)))
        return
    if options.pictures:
        from benchmarks.efficiency_pictures import draw_all

        draw_all(of_size(load(options.out), options.n, options.images), options.pictures)
        return
    ended: list[bool] = []
    if not options.report:
        arms = CALIBRATION if options.calibrate else [arm.strip().replace(";", ",") for arm in options.arms.split(",")]
        unknown = [arm for arm in arms if arm not in ARMS]
        if unknown:
            parser.error(f"{unknown[0]!r} is no arm. The arms are: {'; '.join(ARMS)}.")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        done = {(run["arm"], run["seed"]) for run in of_size(load(options.out), options.n, options.images)}
        first = options.first_seed
        todo = [(arm, seed) for seed in range(first, first + options.seeds) for arm in arms if (arm, seed) not in done]
        lock, extra = Lock(), ["--images", str(options.images), "--n", str(options.n)]
        with ThreadPoolExecutor(options.workers) as pool:
            ended = list(pool.map(lambda job: _one(*job, options.out, lock, extra), todo))
    print(report(of_size(load(options.out), options.n, options.images)))
    if failed := ended.count(False):
        raise SystemExit(f"{failed} of {len(ended)} runs failed, as said above. The same command tries them again.")


if __name__ == "__main__":
    main()
