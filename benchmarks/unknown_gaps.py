"""Measure what looking is worth: a pretrained student with a gap that nobody listed, and every simple rival.

A student is pretrained on everything but some words; then each arm spends its teacher calls, and fine-tunes on half
replay, half what it bought, at equal images seen and the same schedule. The figure is the number of calls until
held-out prompts of the gap are drawn right. Seeds and budgets are fixed here, before any run.

Run: python -m benchmarks.unknown_gaps [--worlds 1/3,1/20] [--arms "static even;screening"] [--budgets 6,12]
Each finished run is written to --out, so an interrupted grid continues; `--report` prints the tables of what is there
and says what is not, with `--pictures FOLDER` the picture too. World "emoji 1/7" needs `evolvedirector assets emoji`.
Two single-thread processes work side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks.gap_arms import ARMS
from benchmarks.gap_plan import BUDGETS, SEEDS, Job, claim, finished
from benchmarks.gap_table import report
from benchmarks.gap_world import WORLDS

RESULTS = Path(__file__).parent / "results" / "unknown_gaps.json"
WORK = Path("runs") / "unknown_gaps"


def load(path: Path) -> list[dict[str, Any]]:
    """Read the finished runs."""
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def add(result: dict[str, Any], path: Path) -> None:
    """Add a finished run, at once: whoever is interrupted in it loses this one at most."""
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps([*load(path), result], indent=1) + "\n", "utf-8")
    os.replace(partial, path)


def _one(job: Job, out: Path, work: Path, lock: Lock) -> bool:
    """Do one run in a process of its own, and say whether it finished."""
    command = [sys.executable, "-m", "benchmarks.unknown_gaps", "--one", json.dumps(job), "--work", str(work)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f"{job} failed:\n{done.stderr[-3000:]}", flush=True)
        return False
    result = json.loads(done.stdout.splitlines()[-1])
    with lock:
        add(result, out)
    said = f"gap {result['gap']:.2f}, the rest {result['known']:.2f}, {result['looks']} looks"
    print(f"p {job[0]}, {job[1]}, {job[2]} calls, seed {job[3]}: {said}, {result['seconds']} s", flush=True)
    return True


def main() -> None:
    """Run the grid, or print the tables of what was run.

    Raises:
        SystemExit: With 1, where runs failed.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claim", action="store_true", help="the part behind the claim: p = 1/3, five arms, 8 seeds")
    parser.add_argument("--worlds", default="1/3,1/10,1/20")
    parser.add_argument("--arms", default="", help="names, separated by ';'; all but the ablations without it")
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=WORK, help="where pretrained bases are kept")
    parser.add_argument("--report", action="store_true", help="print the tables of the finished runs")
    parser.add_argument("--pictures", type=Path, help="with --report: a folder for the picture")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    budgets, seeds = ([int(word) for word in text.split(",")] for text in (options.budgets, options.seeds))
    if options.report:
        _report(load(options.out), seeds, options.pictures)
        return
    if options.one:
        from benchmarks.gap_run import pretrained, run  # heavy, and a report needs none of it

        world, arm, calls, seed = json.loads(options.one)
        result: Any = pretrained(WORLDS[world], seed, options.work) if arm == "base" else None
        print(json.dumps(str(result) if result else run(world, arm, calls, seed, options.work)))
        return
    jobs = [job for job in claim() if job[3] in seeds]
    if not options.claim:
        arms = options.arms.split(";") if options.arms else [name for name, arm in ARMS.items() if not arm.ablation]
        worlds = options.worlds.split(",")
        if unknown := [name for name in worlds if name not in WORLDS] + [name for name in arms if name not in ARMS]:
            parser.error(f"{unknown} unknown. Worlds: {', '.join(WORLDS)}. Arms: {'; '.join(ARMS)}.")
        jobs = _grid(worlds, arms, budgets, seeds)
    jobs = [job for job in jobs if job not in finished(load(options.out))]
    lock = Lock()
    with ThreadPoolExecutor(2) as pool:
        bases = sorted({(job[0], job[3]) for job in jobs})
        list(pool.map(lambda base: _base(*base, options.work), bases))
        ended = list(pool.map(lambda job: _one(job, options.out, options.work, lock), jobs))
    _report(load(options.out), seeds)
    if failed := ended.count(False):
        raise SystemExit(f"{failed} of {len(jobs)} runs failed, as said above. The same command tries them again.")


def _grid(worlds: Sequence[str], arms: Sequence[str], budgets: Sequence[int], seeds: Sequence[int]) -> list[Job]:
    """List the runs of a grid; an arm that a world cannot hold is left out, and said so."""
    pairs = [(world, arm) for world in worlds for arm in arms]
    for world, arm in pairs:
        if not ARMS[arm].runs_in(WORLDS[world]):
            print(f"p {world}, {arm}: left out, the packaged model does not know this world's words", flush=True)
    held = {pair for pair in pairs if ARMS[pair[1]].runs_in(WORLDS[pair[0]])}
    return [(w, a, calls, s) for w in worlds for s in seeds for a in arms for calls in budgets if (w, a) in held]


def _report(runs: Sequence[dict[str, Any]], seeds: Sequence[int], pictures: Path | None = None) -> None:
    """Print the tables, and draw the picture where a folder is named."""
    print(report(runs, list(ARMS), seeds))
    drawn = [run for run in runs if run["seed"] in seeds]
    if pictures is not None and drawn:
        from benchmarks.gap_pictures import draw_gap  # matplotlib: no table needs it

        draw_gap(drawn, pictures / "unknown_gaps.png")


def _base(world: str, seed: int, work: Path) -> None:
    """Pretrain in a process of its own, so that no two runs make one base."""
    command = [sys.executable, "-m", "benchmarks.unknown_gaps", "--work", str(work)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run([*command, "--one", json.dumps([world, "base", 0, seed])], env=environment, check=True)


if __name__ == "__main__":
    main()
