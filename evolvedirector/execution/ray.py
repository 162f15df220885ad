"""A round's work on a Ray cluster, as far as its parts are placed there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evolvedirector.execution.executor import Executor, Phase
from evolvedirector.execution.ray_pool import RayPool
from evolvedirector.records.part import Part, requests_in_flight_of


class RayExecutor:
    """Carry requests to replicas on a cluster, and all others to another executor.

    Args:
        inner: Carries what is not placed on the cluster.
        place_of: Returns phase and name of a part.
        pool_of: Returns the replicas of a part, which outlive a round; None where it is not placed on the cluster.
    """

    def __init__(
        self,
        inner: Executor,
        place_of: Callable[[Part], tuple[Phase, str]],
        pool_of: Callable[[tuple[Phase, str], Part], RayPool | None],
    ) -> None:
        self._inner = inner
        self._place_of = place_of
        self._pool_of = pool_of

    def unit_of(self, part: Part) -> int:
        """Return what keeps all replicas of a part busy; of a service no more, since all of a unit is reserved at once.

        Args:
            part: Who is asked.
        """
        pool = self._pool_of(self._place_of(part), part)
        if pool is None:
            return self._inner.unit_of(part)
        return pool.unit if requests_in_flight_of(part) else max(pool.unit, self._inner.unit_of(part))

    def enter(self, phase: Phase) -> None:
        """Begin a phase here; replicas keep their models."""
        self._inner.enter(phase)

    def ask(self, part: Part, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        """Ask the replicas of a part, or whoever has it.

        Args:
            part: Who is asked.
            method: Of the part.
            requests: A unit of work, or less.
        """
        pool = self._pool_of(self._place_of(part), part)
        if pool is None:
            yield from self._inner.ask(part, method, requests)
        else:
            yield from pool.ask(method, requests)
