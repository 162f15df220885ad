"""What the benchmark of Toffee's model runs, fixed before its first run: seeds, arms, knobs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Row: TypeAlias = dict[str, Any]
"""A finished run: the fields of its job, and its figures."""
Pairs: TypeAlias = Literal["all", "generation", "editing"]
Source: TypeAlias = Literal["recipe", "models", "unrefined", "unfiltered"]

SEEDS = (0, 1, 2)
TRY_OUT_SEED = 1000
"""From here on seeds are for try-outs; their runs stand in no table of bars."""
STEPS = 1400
"""As the shipped recipe says."""
GUIDANCES = (0.0, 0.5, 1.0, 1.5, 3.0)
ATTENTIONS = (0.25, 0.5, 1.0, 1.5, 2.0)
"""Attention scales, at guidance 1."""
SUBJECTS_OF_KNOBS = 20
"""Of the held-out subjects: knobs are drawn with ten times."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train.

    Args:
        pairs: Which pairs it is trained on.
        share: Of the steps of the recipe.
        source: What the pairs are: those of the recipe, or model-made ones alone, as the builder makes them, without
            its refiner or without its filter.
        reference_dropout: None: as the recipe says.
    """

    pairs: Pairs = "all"
    share: float = 1.0
    source: Source = "recipe"
    reference_dropout: float | None = None


JOINT = "joint"
ARMS: dict[str, Arm] = {
    JOINT: Arm(),
    "generation alone, half the steps": Arm("generation", 0.5),
    "editing alone, half the steps": Arm("editing", 0.5),
    "generation alone, equal steps": Arm("generation"),
    "editing alone, equal steps": Arm("editing"),
    "no reference dropout": Arm(reference_dropout=0.0),
    "model-made pairs alone": Arm(source="models"),
    "model-made pairs alone, no refiner": Arm(source="unrefined"),
    "model-made pairs alone, no filter": Arm(source="unfiltered"),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One model that is trained and measured.

    Args:
        arm: One of `ARMS`.
        seed: Of weights, order and noise.
        steps: Of training.
    """

    arm: str
    seed: int
    steps: int

    def key(self) -> Row:
        """Return the fields that name it."""
        return asdict(self)


def planned(seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> list[Job]:
    """List all jobs: the joint model on every seed first, then arm by arm.

    Args:
        seeds: Of all of them.
        steps: Of the recipe.
    """
    return [Job(name, seed, max(1, round(arm.share * steps))) for name, arm in ARMS.items() for seed in seeds]


def next_job(rows: Sequence[Row], jobs: Sequence[Job]) -> Job | None:
    """Return the first job that was not run; None: all were.

    Args:
        rows: What was run.
        jobs: What is to be run.
    """
    done = {(row["arm"], row["seed"], row["steps"]) for row in rows}
    return next((job for job in jobs if (job.arm, job.seed, job.steps) not in done), None)
