"""Compare ECLIPSE with projection, ridge regression, the text itself and a diffusion prior in the joint world.

Joint spaces 0 and 1 and prior seeds 0 to 4 were fixed before the first run. Every arm is tuned on validation, whose
kinds (a shape in a colour) no prior trains on, and measured once on test, whose kinds are others again. The gate comes
first: scenes decoded from their true embeddings must be read right in .93 of the cases, or no other figure is printed.

Run: python -m benchmarks.eclipse [--spaces 0,1] [--minutes 30] [--report]
Finished runs are written to benchmarks/results/eclipse.json, and an interrupted benchmark goes on; a joint space is
trained where it is missing. About an hour of one idle core.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from benchmarks.eclipse_plan import SPACE_SEEDS, Row, by_job, next_job, twin_of
from benchmarks.eclipse_table import GATE, report

if TYPE_CHECKING:
    from benchmarks.eclipse_run import Laboratory

RESULTS = Path(__file__).parent / "results" / "eclipse.json"
WORK = Path("runs/benchmark-eclipse")


def load(path: Path) -> list[Row]:
    """Return the finished runs of a results file; none where there is no file.

    Args:
        path: The file.
    """
    rows: list[Row] = json.loads(path.read_text("utf-8")) if path.exists() else []
    return rows


def keep(path: Path, rows: list[Row]) -> None:
    """Write the finished runs in one step: a kill leaves the old file or the new one.

    Args:
        path: The file.
        rows: All of them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    partial.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", "utf-8")
    os.replace(partial, path)


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", default=",".join(map(str, SPACE_SEEDS)), help="seeds of joint spaces, a part")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this long")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--report", action="store_true", help="print the tables of the finished runs, and run nothing")
    options = parser.parse_args()
    if not options.report:
        run([int(seed) for seed in options.spaces.split(",")], options.out, options.work, options.minutes)
    print(report(load(options.out)))


def run(spaces: list[int], out: Path, work: Path, minutes: float) -> None:
    """Run the jobs that are missing, in order.

    Args:
        spaces: Seeds of joint spaces.
        out: The results.
        work: Holds the joint spaces.
        minutes: No run begins after this long.
    """
    from benchmarks.eclipse_run import Laboratory, quiet

    quiet()
    begun = monotonic()
    laboratories: dict[int, Laboratory] = {}
    while (job := next_job(load(out), spaces)) is not None and monotonic() - begun < 60 * minutes:
        if (twin := twin_of(job, by_job(load(out)))) is not None:
            keep(out, [*load(out), {**job.key(), "figures": twin["figures"]}])
            continue
        if job.space not in laboratories:
            laboratories[job.space] = Laboratory(work / f"space-{job.space}", job.space)
        figures = laboratories[job.space].run(job)
        keep(out, [*load(out), {**job.key(), "figures": figures}])
        print(f"{json.dumps(job.key())}: accuracy {figures['accuracy']:.3f}", flush=True)
        if job.arm == "true" and figures["accuracy"] < GATE:
            spaces = [space for space in spaces if space != job.space]
            print(f"joint space {job.space} is below the gate of {GATE}: nothing else is run in it", flush=True)


if __name__ == "__main__":
    main()
