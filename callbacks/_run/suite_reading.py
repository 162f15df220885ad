"""One reading of a suite on all ranks: who reads which images, what is made of it, and what broke it off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from evolvedirector.evaluation.suite import Drawn, Outcome, Readings, Sitting, Suite
from evolvedirector.execution.ranks import from_all_ranks, on_rank_zero, own_rank

Result = TypeVar("Result")
Value = TypeVar("Value")


def tried(work: Callable[[], Result], forgives: bool = True) -> tuple[Result | None, str]:
    """Return what came of some work, and why it broke off: empty if it did not.

    Args:
        work: Is called once.
        forgives: False lets errors through.
    """
    if not forgives:
        return work(), ""
    try:
        return work(), ""
    except Exception as error:
        return None, repr(error)


def read_by_ranks(
    read: Callable[[Mapping[str, bytes]], Mapping[str, Value]], own: Mapping[str, bytes], alone: bool
) -> tuple[dict[str, Value], str]:
    """Let images be read, each rank those that it drew, or rank 0 all of them; every rank calls it and gets the whole.

    Args:
        read: Images by key -> what was read of each, by key.
        own: What this rank drew.
        alone: Whether one process reads for all, since it asks a service or buys.

    Returns:
        What was read, and why a reader broke off; empty if none did.
    """
    if alone:
        everything = from_all_ranks(own)
        found, error = on_rank_zero(lambda: tried(lambda: read(everything)))
        return dict(found or {}), error
    parts = from_all_ranks({own_rank(): tried(lambda: read(own))})
    error = next((said for _, said in parts.values() if said), "")
    return {key: value for of_rank, _ in parts.values() for key, value in (of_rank or {}).items()}, error


def outcome_of(suite: Suite, images: Mapping[str, bytes], sitting: Sitting) -> tuple[Outcome | None, str]:
    """Let a suite read and make figures; every rank calls it, and gets the same answer.

    Args:
        suite: Reads each rank's images there, or all of them on rank 0.
        images: Drawn on this rank, by request id.
        sitting: Of this reading.

    Returns:
        The figures, or None and the reason of the first rank that broke off.
    """
    asked = sitting.asked

    def read(of: Mapping[str, bytes]) -> Readings:
        return suite.read([Drawn(key, asked[key][1], of[key]) for key in asked if key in of], sitting)

    found, error = read_by_ranks(read, images, suite.reads_alone)
    if error:
        return None, error
    return on_rank_zero(lambda: tried(lambda: suite.figures(found, sitting)))
