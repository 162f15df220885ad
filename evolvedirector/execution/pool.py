"""Parts that work elsewhere, and the executor that carries requests to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from evolvedirector.execution.executor import Executor, Phase
from evolvedirector.records.part import Part, requests_in_flight_of

MOST_LOST = 3
"""Workers lost in a row, without a reply between, after which a part is taken to be what ends them."""
OF_PAIRS = "pairs."
"""Begins the names of parts that make subject pairs, each of which is its place: `pairs.builder.draft`."""
_PREFIX: Mapping[str, str] = {"teach": "teachers.", "score": "rewards."}


def place_key(place: tuple[Phase, str]) -> str | None:
    """Return the place where a part is written: `judge`, `writer`, `teachers.NAME`, `rewards.NAME`, `pairs.PART`.

    Args:
        place: Phase and name. A student works nowhere else: None.
    """
    phase, name = place
    if name.startswith(OF_PAIRS):
        return name
    return None if phase in ("render", "measure") else _PREFIX.get(phase, "") + name


class Pool(Protocol):
    """Everybody who works for one part elsewhere."""

    @property
    def unit(self) -> int:
        """Return how many requests keep all of them busy."""
        ...

    def ask(self, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        """Ask them; yield replies as they finish. What is lost with a worker stays without a reply."""
        ...


class PoolExecutor:
    """Carry requests to pools elsewhere, and all others to another executor.

    Args:
        inner: Carries what has no pool.
        place_of: Returns phase and name of a part.
        pool_of: Returns the pool of a part, which outlives a round; None where it has none.
    """

    def __init__(
        self,
        inner: Executor,
        place_of: Callable[[Part], tuple[Phase, str]],
        pool_of: Callable[[tuple[Phase, str], Part], Pool | None],
    ) -> None:
        self._inner = inner
        self._place_of = place_of
        self._pool_of = pool_of

    def unit_of(self, part: Part) -> int:
        """Return what keeps a whole pool busy; of a service no more, since all of a unit is reserved at once.

        Args:
            part: Who is asked.
        """
        pool = self._pool_of(self._place_of(part), part)
        if pool is None:
            return self._inner.unit_of(part)
        return pool.unit if requests_in_flight_of(part) else max(pool.unit, self._inner.unit_of(part))

    def enter(self, phase: Phase) -> None:
        """Begin a phase here; a pool keeps its models."""
        self._inner.enter(phase)

    def ask(self, part: Part, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        """Ask the pool of a part, or whoever has it.

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
