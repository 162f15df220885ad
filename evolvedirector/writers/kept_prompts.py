"""What a writer was asked for one skill and what was kept of it: a file that a killed process leaves readable."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from evolvedirector.errors import UserError
from evolvedirector.store.durable import disk_full_named, make_folder, sync_folder

MAX_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the writer: what was kept of it.

    Args:
        writer: Fingerprint of who was asked, and how.
        texts: Kept, in their order.
        refused: How many texts were not, by cause.
    """

    writer: str
    texts: tuple[str, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)


class KeptPrompts:
    """Read and extend the file of one skill, one process at a time: a line of JSON for each answer.

    A line is on the disk before what it says is used. The last line of a process that was killed while it wrote is
    dropped, and that request is asked again; nothing else is.

    Args:
        path: The file; made when the first answer comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Answer]:
        """Return all answers without waiting for whoever writes.

        Raises:
            UserError: The file is damaged.
        """
        if not self.path.is_file():
            return []
        return self._parsed(self._content())[0]

    @contextmanager
    def opened(self) -> Iterator[OpenPrompts]:
        """Open the file for this process alone; another one waits.

        Raises:
            UserError: The file is damaged.
        """
        make_folder(self.path.absolute().parent)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            sync_folder(self.path.absolute().parent)
            content = self._content()
            answers, whole = self._parsed(content)
            if whole < len(content):
                file.truncate(whole)
            book = OpenPrompts(self.path, file, answers)
            if whole and content[whole - 1 : whole] != b"\n":
                book.write(b"\n")
            yield book

    def _content(self) -> bytes:
        if self.path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(
                f"The prompts in '{self.path}' have over {MAX_FILE_BYTES} bytes. Allowed is what a SkillWriter wrote. "
                "Name another folder."
            )
        return self.path.read_bytes()

    def _parsed(self, content: bytes) -> tuple[list[Answer], int]:
        """Return the answers and how many bytes of the file they take; a torn last line is none."""
        answers, start = list[Answer](), 0
        lines = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            if line:
                try:
                    answers.append(_answer(line))
                except ValueError as error:
                    if number == len(lines):
                        return answers, start
                    raise UserError(
                        f"Line {number} of '{self.path}' is damaged ({error}). Allowed are lines that a SkillWriter "
                        "wrote. Remove that line, and what it held is written anew."
                    ) from error
            start += len(line) + 1
        return answers, len(content)


@dataclass(slots=True)
class OpenPrompts:
    """The file of one skill while this process alone may write into it.

    Args:
        path: The file.
        file: Opened to append.
        answers: What it holds; grows.
    """

    path: Path
    file: BinaryIO
    answers: list[Answer]

    @property
    def texts(self) -> list[str]:
        """Every text that was kept, in its order."""
        return [text for answer in self.answers for text in answer.texts]

    def add(self, answer: Answer) -> None:
        """Keep an answer; it is on the disk when this returns."""
        self.write(json.dumps(asdict(answer), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self.answers.append(answer)

    def write(self, data: bytes) -> None:
        """Append bytes durably."""
        with disk_full_named(self.path):
            self.file.write(data)
            self.file.flush()
            os.fsync(self.file.fileno())


def _answer(line: bytes) -> Answer:
    """Read one line.

    Raises:
        ValueError: It is no answer.
    """
    found = json.loads(line.decode("utf-8", "surrogatepass"))
    match found:
        case {"writer": str(writer), "texts": list(texts), "refused": dict(refused)} if _are(texts, str):
            if _are(list(refused.values()), int):
                return Answer(writer, tuple(texts), refused)
    raise ValueError("no answer")


def _are(values: list[Any], kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)
