"""The seam behind which a prompt becomes yes-or-no questions about an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

MAX_QUESTIONS = 12
"""Per prompt; each is a question to a model."""


@dataclass(frozen=True, slots=True)
class PromptQuestion:
    """One thing that an image must show; the answer is yes where it does."""

    kind: str
    """What is asked about: `object`, `colour`, `count`, `relation`, `style`, `text` or `detail`."""
    text: str


@runtime_checkable
class QuestionWriter(Protocol):
    """Split prompts into questions that are all answered by yes exactly where an image shows the prompt."""

    @property
    def fingerprint(self) -> str:
        """Name everything that changes the questions."""
        ...

    def questions(self, prompts: Sequence[str]) -> Iterator[tuple[PromptQuestion, ...]]:
        """Yield, per prompt in order, one question or more; the same prompt gives the same questions."""
        ...

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def close(self) -> Any:
        """Free memory and connections; the next call loads again."""
        ...
