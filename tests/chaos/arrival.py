"""A request that is paid for, and the job it may begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos import pictures
from tests.chaos.exchange import Request, as_html


@dataclass
class Job:
    """One thing that was asked for and is being made."""

    id: str
    prompt: str
    image: bytes
    fault: str
    width_px: int
    height_px: int
    polls_left: int


@dataclass
class Arrival:
    """One request that is paid for, as the script sees it."""

    request: Request
    fault: str
    prompt: str
    seed: int
    width_px: int
    height_px: int
    server: Any = field(repr=False)

    @property
    def image(self) -> bytes:
        """The picture asked for, or what the fault puts in its place."""
        if self.fault == "torn_image":
            whole = self.server.draw(self.prompt, self.seed, self.width_px, self.height_px)
            return whole[: len(whole) // 2]
        special: dict[str, Callable[[], bytes]] = {
            "bomb_header": pictures.bomb_header,
            "bomb_uniform": pictures.bomb_uniform,
            "html_image": lambda: as_html().body,
            "black": lambda: pictures.black(self.width_px, self.height_px),
            "blurred": lambda: pictures.blurred(self.width_px, self.height_px),
            "empty": lambda: b"",
        }
        make = special.get(self.fault)
        return make() if make else self.server.draw(self.prompt, self.seed, self.width_px, self.height_px)
