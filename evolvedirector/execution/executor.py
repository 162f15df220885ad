"""Who does the work of a round: the seam between its order of steps and the processes that carry them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Protocol

from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageAndPrompt, ImageReply, ImageRequest, Look, OrderedPair
from evolvedirector.records.part import requests_in_flight_of
from evolvedirector.teachers.teacher import Teacher

Phase = Literal["render", "judge", "teach", "train"]
Draw = Callable[[Sequence[ImageRequest]], list[bytes]]


class Crew(Protocol):
    """Carry out the work of a round; one process alone, or every rank its share."""

    unit: int
    """Requests per short unit of work; between units the round commits, reports and may stop."""
    chunk: int
    """Requests the student draws together; a unit is a multiple of it."""

    def unit_of(self, teacher: str | None) -> int:
        """Say how many requests a unit of a teacher has, of the judge when None: remote ones keep many in flight."""
        ...

    def enter(self, phase: Phase) -> None:
        """Make the tenant of the next phase resident and let the others go."""
        ...

    def render(self, requests: Sequence[ImageRequest]) -> list[bytes]:
        """Let the student draw encoded images, in order."""
        ...

    def teach(self, teacher: str, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Let a teacher draw, replies as they finish."""
        ...

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Let the judge compare pairs."""
        ...

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Let the judge check single images."""
        ...


class LocalCrew:
    """Do all the work in this process.

    Args:
        draw: Draws a multiple of `chunk` requests with the student, as encoded images.
        teachers: By name.
        judge: The training judge.
        chunk: Requests the student draws together.
        offload: Called with `True` when the student must leave the device for a phase, with `False` when it returns;
            None leaves it where it is.
        unit: Requests per unit of work.
    """

    def __init__(
        self,
        draw: Draw,
        teachers: Mapping[str, Teacher],
        judge: Judge,
        chunk: int = 1,
        offload: Callable[[bool], None] | None = None,
        unit: int = 32,
    ) -> None:
        self._draw = draw
        self._teachers = teachers
        self._judge = judge
        self._offload = offload
        self._away = False
        self.chunk = max(1, chunk)
        self.unit = -(-unit // self.chunk) * self.chunk

    def unit_of(self, teacher: str | None) -> int:
        """Return what the part asks for in `requests_in_flight`, or the common unit where it is larger.

        Args:
            teacher: By name; None is the judge.
        """
        return max(self.unit, requests_in_flight_of(self._part(teacher)))

    def is_remote(self, teacher: str | None) -> bool:
        """Say whether a part asks a service: then one process asks for all, within the limits of the one key.

        Args:
            teacher: By name; None is the judge.
        """
        return requests_in_flight_of(self._part(teacher)) > 0

    def _part(self, teacher: str | None) -> Teacher | Judge:
        return self._judge if teacher is None else self._teachers[teacher]

    def enter(self, phase: Phase) -> None:
        """Close the tenants of other phases; they load again when asked."""
        if phase != "teach":
            for teacher in self._teachers.values():
                teacher.close()
        if phase != "judge":
            self._judge.close()
        away = phase in ("teach", "judge")
        if self._offload is not None and away != self._away:
            self._offload(away)
        self._away = away

    def render(self, requests: Sequence[ImageRequest]) -> list[bytes]:
        """Draw in chunks of fixed size, the last padded by repetition: neighbours never change an image."""
        padding = -len(requests) % self.chunk
        padded = [*requests, *[requests[-1]] * padding] if requests else []
        return self._draw(padded)[: len(requests)] if padded else []

    def teach(self, teacher: str, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Ask one teacher; the others let go of their memory first: a phase has one tenant at a time."""
        for name, other in self._teachers.items():
            if name != teacher:
                other.close()
        return self._teachers[teacher].generate(requests)

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Ask the judge to compare."""
        return self._judge.look(pairs)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Ask the judge to check."""
        return self._judge.check(items)
