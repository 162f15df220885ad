"""Measure a subject-driven model on emoji subjects that were held out whole, beside all of its ends.

Pairs are built and models trained as `configs/method/toffee.yaml` and its builders say; the suite is the recipe's own.
Seeds 0, 1 and 2 were fixed before the first run; try-outs use seeds from 1000 on and stand in no bar. Arms: the joint
model, generation and editing alone at half the steps (equal total) and at equal steps, no reference dropout, and
model-made pairs alone with refiner and filter on and off. The joint model is measured over guidance and attention, too.

Needs `pip install evolvedirector[emoji]` and `evolvedirector assets emoji`.

Run: python -m benchmarks.toffee [--seeds 0,1,2] [--arms joint] [--steps 1400] [--minutes 60] [--report]
Finished runs are written to benchmarks/results/toffee.json; an interrupted benchmark goes on, a run from its last
checkpoint. One run takes about a quarter of an hour of one core; 27 are planned.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from benchmarks.eclipse import keep, load
from benchmarks.toffee_plan import ARMS, SEEDS, STEPS, TRY_OUT_SEED, Job, next_job, planned
from benchmarks.toffee_table import report

RESULTS = Path(__file__).parent / "results" / "toffee.json"
WORK = Path("runs/benchmark-toffee")


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="a part of them, or try-outs from 1000 on")
    parser.add_argument("--arms", default=";".join(ARMS), help="a part of them, with ; between")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the joint model; other numbers for try-outs alone")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this long")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--report", action="store_true", help="print the tables of the finished runs, and run nothing")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if unknown := [arm for arm in options.arms.split(";") if arm not in ARMS]:
        parser.error(f"--arms names {unknown[0]!r}. Allowed are {'; '.join(ARMS)}.")
    if options.steps != STEPS and min(seeds) < TRY_OUT_SEED:
        parser.error(f"--steps is {options.steps}. Allowed are {STEPS} for seeds below {TRY_OUT_SEED}.")
    if not options.report:
        jobs = [job for job in planned(seeds, options.steps) if job.arm in options.arms.split(";")]
        run(jobs, options.out, options.work, options.minutes)
    print(report(load(options.out), seeds))


def run(jobs: Sequence[Job], out: Path, work: Path, minutes: float = float("inf")) -> None:
    """Run the jobs that are missing, in order.

    Args:
        jobs: What is to be run.
        out: The results.
        work: Holds pairs and runs.
        minutes: No run begins after this long.
    """
    from benchmarks.eclipse_run import quiet
    from benchmarks.toffee_run import Laboratory

    quiet()
    begun, laboratory = monotonic(), Laboratory(work)
    while (job := next_job(load(out), jobs)) is not None and monotonic() - begun < 60 * minutes:
        figures = laboratory.run(job)
        keep(out, [*load(out), {**job.key(), "figures": figures}])
        seconds = figures["train_s"]
        said = "in pieces" if seconds is None else f"in {seconds:.0f} s of a core"
        print(f"{json.dumps(job.key())}: trained {said}", flush=True)


if __name__ == "__main__":
    main()
