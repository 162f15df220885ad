"""A judge that notes in a folder who asked it what, and that can end its process: for workers of a queue folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from evolvedirector.errors import UserError
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair


class NotingJudge:
    """Says of each image that it shows its prompt, after noting the question.

    Args:
        folder: Of the notes.
        dies_at: Item at which the process ends, the first time.
        always: It ends every time.
        refuses_at: Item at which what was written is refused.
        seconds: That an answer takes.
    """

    def __init__(
        self, folder: str, dies_at: str = "", always: bool = False, refuses_at: str = "", seconds: float = 0.01
    ) -> None:
        self.folder, self.dies_at, self.always, self.refuses_at = Path(folder), dies_at, always, refuses_at
        self.seconds = seconds

    @property
    def fingerprint(self) -> str:
        return "noting judge"

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        for item in items:
            with open(self.folder / f"{os.getpid()}.asked", "a") as file:
                print(item.item_id, file=file)
            if item.item_id == self.dies_at and (self.always or not (self.folder / "died").exists()):
                (self.folder / "died").touch()
                os._exit(1)
            if item.item_id == self.refuses_at:
                raise UserError(f"{item.item_id} cannot be asked. Write another.")
            time.sleep(self.seconds)
            yield Look(item.item_id, 1.0, reason=item.prompt)

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        raise NotImplementedError

    def close(self) -> None:
        pass


class PaidJudge(NotingJudge):
    """The same, as a service that is paid for each answer."""

    requests_in_flight = 4
