"""All the work of a round in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.execution.executor import InStep, Phase, Tenants
from evolvedirector.records.part import Part, close_parts, requests_in_flight_of

_STUDENT_AWAY: Mapping[Phase, bool] = {
    **{"render": False, "judge": True, "teach": True, "score": True, "embed": True, "train": False}
}
"""Phases in which others may need the student's device memory; a writer leaves the student where it is."""


class LocalExecutor:
    """Ask parts in this process, one phase at a time.

    Args:
        tenants: The round's parts by phase and name.
        offload: Called with `True` when the student must leave the device for a phase, with `False` when it returns;
            None leaves it where it is.
        unit: Requests per unit of work.
    """

    def __init__(self, tenants: Tenants, offload: Callable[[bool], None] | None = None, unit: int = 32) -> None:
        self.tenants = tenants
        self._offload = offload
        self._unit = unit
        self._away = False
        self._phase: Phase | None = None

    def unit_of(self, part: Part) -> int:
        """Return the common unit; whole chunks of a student, and as much as a service wants to be handed at once.

        Args:
            part: Who is asked.
        """
        if isinstance(part, InStep):
            return -(-self._unit // part.chunk) * part.chunk
        return max(self._unit, requests_in_flight_of(part))

    def enter(self, phase: Phase) -> None:
        """Close the tenants of other phases, which load again when asked, and move the student out of the way."""
        if phase == self._phase:
            return
        self._phase = phase
        close_parts(*(part for other, parts in self.tenants.items() if other != phase for part in parts.values()))
        away = _STUDENT_AWAY.get(phase, self._away)
        if self._offload is not None and away != self._away:
            self._offload(away)
        self._away = away

    def ask(self, part: Part, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        """Ask a part; others of its phase let go of their memory first: there is one tenant at a time.

        Args:
            part: Who is asked.
            method: What it is asked to do.
            requests: A student takes them in chunks of fixed size, the last one padded by repetition: neighbours never
                change an image.
        """
        phase, _ = self.place_of(part)
        self.enter(phase)
        close_parts(*(other for other in self.tenants[phase].values() if other is not part))
        try:
            if not isinstance(part, InStep):
                yield from getattr(part, method)(requests)
            elif requests:
                padding = [requests[-1]] * (-len(requests) % part.chunk)
                yield from list(getattr(part, method)([*requests, *padding]))[: len(requests)]
        except Exception:
            close_parts(part)  # it may have failed for want of the memory that it still holds
            raise

    def place_of(self, part: Part) -> tuple[Phase, str]:
        """Return the phase and the name of a part.

        Raises:
            UserError: It takes no part in this round.
        """
        for phase, parts in self.tenants.items():
            for name, own in parts.items():
                if own is part:
                    return phase, name
        known = [f"{phase} {name}" for phase, parts in self.tenants.items() for name in parts]
        raise UserError(
            f"{type(part).__name__} takes no part in this round. Allowed are {', '.join(known)}. Ask one of these, or "
            "hand the part to the executor under its phase."
        )
