"""What was seen in an image of the emoji world, and the seam behind which whatever sees it stands."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from evolvedirector.worlds.emoji_scenes.regions import Box

UNKNOWN = "unknown"
"""The word for an object that is none of the vocabulary's."""
SAME_SCORE = 1e-4
"""Two concepts whose scores differ by less are drawn alike; different pictures differ by more than a hundred times."""


@dataclass(frozen=True, slots=True)
class SeenEmoji:
    """One object found in an image."""

    label: str
    """The likeliest concept, or `unknown`."""
    score: float
    """How well the likeliest concept fits, at most 1."""
    scores: tuple[float, ...]
    """How well each concept fits, in the vocabulary's order."""
    x: float
    """Centre from the left, in shortest image sides."""
    y: float
    """Centre from the top, in shortest image sides."""
    box_px: Box
    """In the image as it was read: larger ones are reduced first."""


@dataclass(frozen=True, slots=True)
class EmojiSceneReading:
    """Everything found in one image."""

    objects: tuple[SeenEmoji, ...]
    background: tuple[float, float, float]
    """Colour, 0 to 1."""

    def count(self, label: str) -> int:
        """Count the objects that were read as this concept."""
        return sum(seen.label == label for seen in self.objects)

    def named_after(self, wanted: Collection[str], labels: Sequence[str]) -> EmojiSceneReading:
        """Give objects that may go by several names the one that is asked for.

        Some styles draw one picture for several concepts (an astronaut and a man astronaut). It shows either; without
        a prompt there is no telling which was meant.

        Args:
            wanted: Concepts of the prompt.
            labels: Names of the concepts in the order of the scores.
        """
        places = [(label, labels.index(label)) for label in wanted]
        objects = []
        for seen in self.objects:
            alike = [label for label, place in places if seen.scores[place] >= seen.score - SAME_SCORE]
            known = seen.label != UNKNOWN and seen.label not in wanted and alike
            objects.append(replace(seen, label=alike[0]) if known else seen)
        return replace(self, objects=tuple(objects))


@runtime_checkable
class EmojiReader(Protocol):
    """Read images without a prompt: which concepts lie where."""

    @property
    def labels(self) -> tuple[str, ...]:
        """List the concepts that can be told apart."""
        ...

    @property
    def fingerprint(self) -> str:
        """Name the method, its numbers and the artwork."""
        ...

    def read(self, images: Sequence[bytes]) -> list[EmojiSceneReading | None]:
        """Read encoded images; None for bytes that are no image."""
        ...

    def close(self) -> None:
        """Free memory; the next call loads again."""
        ...
