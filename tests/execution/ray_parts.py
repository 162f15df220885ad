"""Parts that note in a folder who asked them what, and that end their process once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Asked:
    request_id: str


@dataclass(frozen=True)
class Told:
    request_id: str
    process: int


class Noting:
    """Answers each request, after noting it; dies at one, or fails at one."""

    fingerprint = "noting"

    def __init__(self, folder: Path, dies_at: str = "", fails_at: str = "", always: bool = False) -> None:
        self.folder, self.dies_at, self.fails_at, self.always = folder, dies_at, fails_at, always
        self.model: object = None

    def answer(self, requests: Sequence[Asked]) -> Iterator[Told]:
        self.model = self.model or threading.Lock()  # stands for weights: it cannot be pickled
        for request in requests:
            with open(self.folder / f"{os.getpid()}.asked", "a") as file:
                print(request.request_id, file=file)
            if request.request_id == self.dies_at and self._first_time():
                os._exit(1)
            if request.request_id == self.fails_at:
                raise ValueError(f"{self.fails_at} cannot be answered")
            time.sleep(0.01)
            yield Told(request.request_id, os.getpid())

    def close(self) -> None:
        self.model = None

    def _first_time(self) -> bool:
        if self.always:
            return True
        try:
            (self.folder / "died").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Unloadable(Noting):
    """Cannot be made anew elsewhere, as where a package is missing."""

    def __setstate__(self, state: dict[str, object]) -> None:
        raise ModuleNotFoundError("No module named 'vllm'")


class Paid(Noting):
    """The same, as a service that is paid for each answer."""

    requests_in_flight = 4


def asked_in(folder: Path) -> list[str]:
    return [line for path in folder.glob("*.asked") for line in path.read_text().split()]
