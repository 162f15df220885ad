"""Replicas of one part as Ray actors: requests in batches, replies as they finish, what is lost asked of another."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evolvedirector.errors import RunError
from evolvedirector.execution.pool import MOST_LOST
from evolvedirector.records.part import Part, requests_in_flight_of

if TYPE_CHECKING:
    from evolvedirector.execution.ray_placement import RayPlacement

_log = logging.getLogger(__name__)


class _Replica:
    """What an actor runs: the part, its models loaded at the first request."""

    def __init__(self, pickled: bytes) -> None:
        from ray import cloudpickle

        self._part = cloudpickle.loads(pickled)

    def ready(self) -> bool:
        return True

    def ask(self, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        yield from getattr(self._part, method)(requests)


@dataclass(slots=True, eq=False)
class _Batch:
    """Requests that a replica was handed; what has come back of them is counted."""

    actor: Any
    replies: Any
    requests: Sequence[Any]
    received: int = 0


class RayPool:
    """Keep the replicas of a part and ask them.

    Args:
        place: Of the part, for messages.
        part: Pickled here, without its models.
        placement: Of each replica.
        start_timeout_s: How long to wait for the first one.
    """

    def __init__(self, place: str, part: Part, placement: RayPlacement, start_timeout_s: float) -> None:
        from ray import cloudpickle

        self._place = place
        self._pickled: bytes = cloudpickle.dumps(part)
        self._placement = placement
        self._start_timeout_s = start_timeout_s
        self._is_paid = requests_in_flight_of(part) > 0
        self._starting: dict[Any, Any] = {}
        """Actors by the reference that is there once they run."""
        self._actors: list[Any] = []

    @property
    def unit(self) -> int:
        """Requests that keep every replica busy."""
        placement = self._placement
        return placement.replicas * placement.batch_size * placement.max_in_flight

    def ask(self, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        """Ask the replicas; yield replies as they finish.

        A replica that is lost is replaced. What it had open is asked again, unless the part asks a service: that may
        have answered, and be paid for, so these requests stay without a reply and the ledger counts them as lost.

        Args:
            method: Of the part.
            requests: In any number.

        Raises:
            RunError: No replica starts, or one after the other is lost.
            Exception: What the part raised; everything that was finished is handed on before.
        """
        size = self._placement.batch_size
        waiting = deque(requests[start : start + size] for start in range(0, len(requests), size))
        working: list[_Batch] = []
        error: Exception | None = None
        lost_in_a_row = 0
        try:
            while working or (waiting and error is None):
                try:
                    if error is None:
                        self._hand_out(method, waiting, working)
                except RunError as failed:  # what works still answers
                    error = failed
                for batch in self._stirring(working):
                    reply, failure, ended = _next_of(batch)
                    if ended:
                        working.remove(batch)
                    if failure is None and not ended:
                        batch.received += 1
                        lost_in_a_row = 0
                        yield reply
                    elif failure is not None and _is_loss(failure):
                        lost_in_a_row += batch.actor in self._actors
                        self._replace(batch.actor)
                        if not self._is_paid:  # replies may come in any order: all of the batch again, doubles are none
                            waiting.append(batch.requests)
                        if lost_in_a_row >= MOST_LOST:
                            error = _lost_for_good(self._place, failure)
                    elif failure is not None:
                        error = error or failure
            if error is not None:
                raise error
        finally:
            self._drop(working)

    def close(self) -> None:
        """End the replicas."""
        import ray

        for actor in [*self._actors, *self._starting.values()]:
            ray.kill(actor)
        self._actors.clear()
        self._starting.clear()

    def _hand_out(self, method: str, waiting: deque[Sequence[Any]], working: list[_Batch]) -> None:
        """Give the least busy replica the next batch, until each has as many as it may."""
        self._start()
        while waiting:
            busy = {actor: sum(batch.actor is actor for batch in working) for actor in self._actors}
            actor = min(busy, key=lambda actor: busy[actor], default=None)
            if actor is None or busy[actor] >= self._placement.max_in_flight:
                return
            requests = waiting.popleft()
            replies = actor.ask.options(num_returns="streaming").remote(method, list(requests))
            working.append(_Batch(actor, replies, requests))

    def _start(self) -> None:
        """Start what is missing; wait for the first replica, and take in others once they run."""
        import ray
        from ray.exceptions import RayError

        placement = self._placement
        remote = ray.remote(_Replica).options(
            num_cpus=placement.cpus, num_gpus=placement.gpus, resources=dict(placement.resources or {})
        )
        while len(self._actors) + len(self._starting) < placement.replicas:
            actor: Any = remote.remote(self._pickled)
            self._starting[actor.ready.remote()] = actor
        deadline = time.monotonic() + self._start_timeout_s
        while self._starting:
            ready, _ = ray.wait(list(self._starting), num_returns=1, timeout=0 if self._actors else 1.0)
            for reference in ready:
                actor = self._starting.pop(reference)
                try:
                    ray.get(reference)  # raises what kept it from starting
                except RayError as error:
                    raise RunError(
                        f"A replica of {self._place} could not start ({' '.join(str(error).split())[-300:]}). Every "
                        "node needs the same packages, files and variables as this one. Mend that, and give the same "
                        "command again."
                    ) from error
                self._actors.append(actor)
            if self._actors and not ready:
                return
            if not self._actors and time.monotonic() > deadline:
                raise RunError(
                    f"No replica of {self._place} started within {self._start_timeout_s:g} s. The cluster has "
                    f"{_resources(ray.cluster_resources())}; each replica needs {placement.cpus:g} CPU and "
                    f"{placement.gpus:g} GPU. Add nodes, or ask for less under `placements`."
                )

    def _stirring(self, working: list[_Batch]) -> list[_Batch]:
        """Wait until some batches have a reply, an end or an error."""
        import ray

        by_replies = {batch.replies: batch for batch in working}
        if not by_replies:
            return []
        ready, _ = ray.wait(list(by_replies), num_returns=1, timeout=1.0)
        return [by_replies[replies] for replies in ready]

    def _replace(self, actor: Any) -> None:
        """Forget a lost replica; the next round of handing out starts another one."""
        import ray

        if actor in self._actors:
            self._actors.remove(actor)
            ray.kill(actor)
            _log.warning("A replica of %s was lost; another one is started.", self._place)

    def _drop(self, working: list[_Batch]) -> None:
        """Cancel what nobody waits for any more: what was not begun is never begun."""
        import ray

        for batch in working:
            ray.cancel(batch.replies)


def _next_of(batch: _Batch) -> tuple[Any, Exception | None, bool]:
    """Return the next reply of a batch, or its error, and whether nothing more comes."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(next(batch.replies)), None, False
    except StopIteration:
        return None, None, True
    except RayTaskError as error:
        cause = error.cause
        return None, cause if isinstance(cause, Exception) else error, True
    except Exception as error:
        return None, error, True


def _is_loss(error: Exception) -> bool:
    """Whether the replica or its node went, and not the part that failed."""
    from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError

    return isinstance(error, RayActorError | NodeDiedError | WorkerCrashedError | ObjectLostError)


def _lost_for_good(place: str, error: Exception) -> RunError:
    return RunError(
        f"{MOST_LOST} replicas of {place} were lost one after the other, without a reply between "
        f"({' '.join(str(error).split())[:200]}). A node may lack memory for it. See `ray logs`, or lower `batch_size` "
        "and raise `cpus` or `gpus` under `placements`."
    )


def _resources(found: dict[str, float]) -> str:
    return f"{found.get('CPU', 0):g} CPU and {found.get('GPU', 0):g} GPU"
