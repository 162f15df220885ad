"""What the benchmark of ECLIPSE runs, fixed before its first run: seeds, sizes, arms, what is tuned over. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from statistics import fmean
from typing import Any, Literal, TypeAlias

Row: TypeAlias = dict[str, Any]
"""A finished run: the fields of its job, and its figures."""

SPACE_SEEDS = (0, 1)
PRIOR_SEEDS = (0, 1, 2, 3, 4)
TUNING_SEED = 100
SIZES = (200, 1000, 5000)
"""Pairs that a prior is trained on."""
RATES = (1e-3, 3e-3)
LAMBDAS = (0.0, 25.6, 100.0, 300.0, 1000.0, 3000.0)
"""Of the curve, at 200 pairs; the sum over 128 dimensions, tau .07, norms about 16."""
TUNED_LAMBDAS = (10.0, 25.6, 100.0, 300.0, 1000.0)
GUIDANCES = (1.0, 1.5, 2.0, 3.0, 4.0)
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Of the ridge regression."""
TRAINED = ("projection", "eclipse", "diffusion")
CLOSED = ("true", "text", "ridge")
"""Arms that are not trained: the true embedding, the text's own, and a linear map in closed form."""
STEPS, BATCH = 400, 64
EVALUATED = 360
"""Scenes of each split, 60 per skill."""

Part: TypeAlias = Literal["tuning", "final", "curve"]


@dataclass(frozen=True, slots=True)
class Job:
    """One prior that is trained, or one arm in closed form.

    Args:
        part: `tuning` is measured on validation, the rest on test.
        space: Seed of the joint space.
        arm: One of `TRAINED` or `CLOSED`.
        pairs: Trained on; 0 where nothing is.
        seed: Of the prior; 0 where nothing is trained.
        rate: Learning rate.
        weight: lambda.
        choice: Penalty of the ridge, or guidance of diffusion. None: all of them are tried (tuning), or it has none.
    """

    part: Part
    space: int
    arm: str
    pairs: int = 0
    seed: int = 0
    rate: float = 0.0
    weight: float = 0.0
    choice: float | None = None

    def key(self) -> Row:
        """Return the fields that name it."""
        return asdict(self)


Runs: TypeAlias = Mapping[Job, Row]


def by_job(rows: Sequence[Row]) -> dict[Job, Row]:
    """Return the finished runs by their jobs.

    Args:
        rows: What was run.
    """
    names = [field.name for field in fields(Job)]
    return {Job(**{name: row[name] for name in names}): row for row in rows}


def chosen(runs: Runs, space: int, arm: str, pairs: int) -> Row | None:
    """Return the tuning run with the best validation accuracy; None while one is missing.

    Args:
        runs: What was run.
        space: Seed of the space.
        arm: Whose.
        pairs: How many.
    """
    jobs = list(tuning_of(space, arm, pairs))
    if not jobs or not all(job in runs for job in jobs):
        return None
    return max((runs[job] for job in jobs), key=lambda row: float(row["figures"]["accuracy"]))


def tuning_of(space: int, arm: str, pairs: int) -> Iterator[Job]:
    """Yield the tuning runs of an arm: each over the rates, ECLIPSE over lambda as well, anew for each size.

    Args:
        space: Seed of the space.
        arm: Whose.
        pairs: How many.
    """
    if arm == "ridge":
        yield Job("tuning", space, arm, pairs)
    elif arm in TRAINED:
        for rate in RATES:
            for weight in TUNED_LAMBDAS if arm == "eclipse" else (0.0,):
                yield Job("tuning", space, arm, pairs, TUNING_SEED, rate, weight)


def final_of(space: int, arm: str, pairs: int, best: Row) -> Iterator[Job]:
    """Yield the runs on test of an arm, as it was tuned.

    Args:
        space: Seed of the space.
        arm: Whose.
        pairs: How many.
        best: What `chosen` returned.
    """
    choice = best["figures"].get("choice")
    for seed in PRIOR_SEEDS if arm in TRAINED else (0,):
        yield Job("final", space, arm, pairs, seed, float(best["rate"]), float(best["weight"]), choice)


def curve_of(space: int, best: Row) -> Iterator[Job]:
    """Yield the runs of the lambda curve at the fewest pairs, at the rate of projection.

    Args:
        space: Seed of the space.
        best: What `chosen` returned for projection.
    """
    for weight in LAMBDAS:
        for seed in PRIOR_SEEDS:
            yield Job("curve", space, "eclipse", SIZES[0], seed, float(best["rate"]), weight)


def twin_of(job: Job, runs: Runs) -> Row | None:
    """Return the final run that a run of the curve repeats: projection where lambda is 0, or ECLIPSE as it was tuned.

    With lambda 0 ECLIPSE is projection bit for bit (a test of `EclipseObjective` holds it to that).

    Args:
        job: Any.
        runs: What was run.
    """
    if job.part != "curve":
        return None
    return runs.get(replace(job, part="final", arm="eclipse" if job.weight else "projection"))


def next_job(rows: Sequence[Row], spaces: Sequence[int] = SPACE_SEEDS) -> Job | None:
    """Return what is to be run next: sizes in order, within one the arms, then the curve; None: all is done.

    Args:
        rows: What was run.
        spaces: Seeds of the spaces that are to be run here.
    """
    runs = by_job(rows)
    return next((job for job in _planned(runs, spaces) if job not in runs), None)


def _planned(runs: Runs, spaces: Sequence[int]) -> Iterator[Job]:
    """Yield the jobs in order; what depends on a tuning that is missing comes after it."""
    for space in spaces:
        yield Job("final", space, "true")
        yield Job("final", space, "text")
    for pairs in SIZES:
        for space in spaces:
            for arm in ("ridge", "projection", "eclipse"):
                yield from _arm(runs, space, arm, pairs)
        if pairs == SIZES[0]:
            for space in spaces:
                best = chosen(runs, space, "projection", pairs)
                if best is not None:
                    yield from curve_of(space, best)
        for space in spaces:
            yield from _arm(runs, space, "diffusion", pairs)


def _arm(runs: Runs, space: int, arm: str, pairs: int) -> Iterator[Job]:
    yield from tuning_of(space, arm, pairs)
    best = chosen(runs, space, arm, pairs)
    if best is not None:
        yield from final_of(space, arm, pairs, best)


def mean_over_seeds(rows: Sequence[Row], figure: str) -> float | None:
    """Return the mean of a figure; None without rows.

    Args:
        rows: Of one arm.
        figure: Its name.
    """
    return fmean(float(row["figures"][figure]) for row in rows) if rows else None
