"""Gaps in the world of coloured shapes: colours, relations and numbers that a student never saw."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from evolvedirector.errors import UserError
from evolvedirector.judges import TransformersJudge
from evolvedirector.records import Prompt
from evolvedirector.worlds.shapes import (
    HeldOutPrompts,
    MiniatureJudge,
    MiniatureTeacher,
    MiniatureWriter,
    World,
    parse,
    phrase,
    skill_of,
)
from evolvedirector.worlds.shapes.gold import MiniatureGold
from evolvedirector.worlds.shapes.grammar import NUMBERS, shuffled
from evolvedirector.worlds.shapes.scene import Scene

HELD_OUT_PER_SKILL = 256
"""At most; a fifth of the combinations of each skill. Many, so that a rare gap has prompts to be measured on."""


@dataclass(frozen=True)
class ShapesGap:
    """Name a world of shapes, and the words in it that the pretraining leaves out.

    Only words are a gap: combinations of known words compose (a student that never saw 3 of 24 kinds draws them .95
    right).

    Args:
        name: Its name in tables: the share of an even set that falls into the gap, roughly.
        world: Everything that the writer may write.
        colours: Colours that the student never saw.
        relations: Relations that it never saw.
        counts: Numbers of equal things that it never saw.
        image_size_px: Side of the images; more than four things need more than 32.
        patch_size: Side of the student's patches, in pixels.
        pretraining_images: Images of the pretraining.
        pretraining_steps: Batches of the pretraining.
        has_vlm: Whether the packaged vision-language model knows all the words.
    """

    name: str
    world: World
    colours: frozenset[str] = frozenset()
    relations: frozenset[str] = frozenset()
    counts: frozenset[int] = frozenset()
    image_size_px: int = 32
    patch_size: int = 8
    pretraining_images: int = 1_800
    pretraining_steps: int = 2_400
    has_vlm: bool = True

    @property
    def skills(self) -> tuple[str, ...]:
        """List the skills that an even set is spread over."""
        return self.world.skills

    def words(self) -> list[str]:
        """List the hidden words as prompts have them."""
        of_number = {number: word for word, number in NUMBERS.items()}
        return [*sorted(self.colours), *sorted(self.relations), *(of_number[count] for count in sorted(self.counts))]

    def hides(self, text: str) -> bool:
        """Say whether a prompt needs a word that the student never saw."""
        return self._hidden(parse(text))

    def held_out(self) -> HeldOutPrompts:
        """Return the prompts that the figures are measured on, hidden words and known ones."""
        return self._held_out

    def open_prompts(self, skill: str, seed: int, gap: bool | None) -> list[Prompt]:
        """List the prompts of a skill that may be trained on, in an order drawn by seed."""
        scenes = [scene for scene in shuffled(self.world, skill, seed) if not self._held_out.holds(scene)]
        wanted = [scene for scene in scenes if gap is None or self._hidden(scene) == gap]
        return [Prompt.create(phrase(scene), skill=skill_of(scene)) for scene in wanted]

    def teacher(self) -> MiniatureTeacher:
        """Return the teacher that errs in nothing."""
        return MiniatureTeacher(self.world, layout="tidy")

    def judge(self, error_rate: float = 0.0, seed: int = 0) -> MiniatureJudge:
        """Return the exact reader, or one of which a share of the looks is wrong."""
        return MiniatureJudge(self.world, error_rate=error_rate, seed=seed)

    def vlm(self) -> TransformersJudge:
        """Return the packaged vision-language model as judge."""
        if not self.has_vlm:
            raise UserError(f"The packaged model does not know the words of world {self.name!r}. Choose another arm.")
        return TransformersJudge("package:worlds/shapes/vlm", image_size_px=32, batch_size=32)

    def writer(self) -> MiniatureWriter:
        """Return the writer, which never writes a held-out combination."""
        return MiniatureWriter(self.world, self.held_out())

    def gold(self) -> MiniatureGold:
        """Return images of which is known what they show."""
        return MiniatureGold(self.world)

    @cached_property
    def _held_out(self) -> HeldOutPrompts:
        return HeldOutPrompts(self.world, per_skill=HELD_OUT_PER_SKILL)

    def _hidden(self, scene: Scene) -> bool:
        return scene.relation in self.relations or any(
            thing.colour in self.colours or thing.count in self.counts for thing in scene.things
        )
