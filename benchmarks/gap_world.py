"""Worlds with a gap that nobody has listed: words that a pretrained student never saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.gap_emoji import EmojiGap
from benchmarks.gap_shapes import ShapesGap
from evolvedirector.judges.health.gold import GoldSource
from evolvedirector.judges.judge import Judge
from evolvedirector.records import Prompt, seed_of
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.teachers.teacher import Teacher
from evolvedirector.worlds.shapes import World
from evolvedirector.worlds.shapes.prompts import repetition
from evolvedirector.writers.prompt_writer import PromptWriter


class GapWorld(Protocol):
    """Say what a run needs of a world: its words, who draws, looks and writes, and how its base is pretrained."""

    @property
    def name(self) -> str:
        """Name it in tables; the last word is p, the share of an even set that falls into the gap, roughly."""
        ...

    @property
    def image_size_px(self) -> int:
        """Return the side of the images."""
        ...

    @property
    def patch_size(self) -> int:
        """Return the side of the student's patches, in pixels."""
        ...

    @property
    def pretraining_images(self) -> int:
        """Return how many images the base is pretrained on."""
        ...

    @property
    def pretraining_steps(self) -> int:
        """Return how many batches the base is pretrained for."""
        ...

    @property
    def has_vlm(self) -> bool:
        """Tell whether the packaged vision-language model knows the world's words."""
        ...

    @property
    def skills(self) -> Sequence[str]:
        """List the skills that an even set is spread over."""
        ...

    def words(self) -> list[str]:
        """List the hidden words as prompts have them."""
        ...

    def hides(self, text: str) -> bool:
        """Say whether a prompt needs a word that the student never saw."""
        ...

    def held_out(self) -> PromptSource:
        """Return the prompts that the figures are measured on, hidden words and known ones."""
        ...

    def open_prompts(self, skill: str, seed: int, gap: bool | None) -> list[Prompt]:
        """List the prompts of a skill that may be trained on, in an order drawn by seed.

        Args:
            skill: One of `skills`.
            seed: Same seed, same order.
            gap: True: only those that need a hidden word. False: none of them. None: all.
        """
        ...

    def teacher(self) -> Teacher:
        """Return the teacher that errs in nothing."""
        ...

    def judge(self, error_rate: float = 0.0, seed: int = 0) -> Judge:
        """Return the exact reader, or one of which a share of the looks is wrong.

        Args:
            error_rate: Share of wrong looks; 0 is exact.
            seed: Which looks.
        """
        ...

    def vlm(self) -> Judge:
        """Return the packaged vision-language model as judge.

        Raises:
            UserError: It does not know the words of this world.
        """
        ...

    def writer(self) -> PromptWriter:
        """Return the writer, which never writes a held-out combination."""
        ...

    def gold(self) -> GoldSource:
        """Return images of which is known what they show."""
        ...


def share(world: GapWorld) -> float:
    """Return p, the share of an even set that falls into the gap: the mean over skills of the hidden share."""
    shares = [len(world.open_prompts(s, 0, True)) / len(world.open_prompts(s, 0, None)) for s in world.skills]
    return sum(shares) / len(shares)


_FOUR_BY_SIX = World(("circle", "square", "triangle", "star"), ("red", "green", "blue", "yellow", "purple", "orange"))
_LARGE = World(("circle", "square", "triangle", "star", "cross", "heart"), _FOUR_BY_SIX.colours, max_count=9)
_LISTED: tuple[GapWorld, ...] = (
    ShapesGap("1/3", _FOUR_BY_SIX, colours=frozenset({"purple"}), relations=frozenset({"above"})),
    ShapesGap("1/10", _FOUR_BY_SIX, relations=frozenset({"above"}), counts=frozenset({3})),
    ShapesGap("1/20", _FOUR_BY_SIX, relations=frozenset({"above"})),
    ShapesGap("1/50", _LARGE, counts=frozenset({7}), image_size_px=64, has_vlm=False),
    EmojiGap("emoji 1/7", hidden=frozenset({"butterfly", "key"})),
)
WORLDS: Mapping[str, GapWorld] = {world.name: world for world in _LISTED}


@dataclass(frozen=True)
class GapPrompts:
    """List prompts spread evenly over the skills, each skill in an order drawn by seed.

    A skill that has no text left begins again: the same text with an id, and so an image, of its own.

    Args:
        world: The words, and those that are hidden.
        count: How many.
        seed: Which.
        gap: True: only prompts that need a hidden word. False: none of them. None: as they come.
    """

    world: GapWorld
    count: int
    seed: int
    gap: bool | None = None

    def prompts(self) -> Sequence[Prompt]:
        """List them; the first n of a longer list are the shorter list."""
        sources: list[Iterator[Prompt]] = []
        for skill in self.world.skills:
            listed = self.world.open_prompts(skill, seed_of("gap prompts", self.seed), self.gap)
            if listed:
                sources.append(_endless(listed))
        return [next(sources[place % len(sources)]) for place in range(self.count)]


def _endless(listed: Sequence[Prompt]) -> Iterator[Prompt]:
    number = 0
    while True:
        for prompt in listed:
            yield repetition(prompt, number)
        number += 1
