"""A gap in the world of composed emoji scenes: concepts whose artwork a student never saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair, Prompt, seed_of
from evolvedirector.worlds.emoji import EmojiTeacher
from evolvedirector.worlds.emoji.grammar import scene_text
from evolvedirector.worlds.emoji.scene import EmojiScene
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.emoji_scenes import EmojiGold, EmojiSceneHeldOut, EmojiSceneJudge, EmojiSceneWriter
from evolvedirector.worlds.emoji_scenes.world import EmojiWorld

HELD_OUT_PER_SKILL = 256
"""At most; a fifth of the combinations of each skill."""
SKILLS = ("two_objects", "background", "position")
"""`EmojiWorld` holds concepts out of standing alone and of numbers whole: that would be a gap beside the gap."""


@dataclass(frozen=True)
class EmojiGap:
    """Name a world of composed emoji scenes, and the concepts that the pretraining leaves out.

    Artwork is drawn in one style, so that a concept is one picture; it is needed only when prompts are asked for.

    Args:
        name: Its name in tables; ends in the share of an even set that falls into the gap, roughly.
        hidden: Labels of the concepts that the student never saw.
        concepts: Concepts in all.
        image_size_px: Side of the images.
        patch_size: Side of the student's patches, in pixels.
        pretraining_images: Images of the pretraining.
        pretraining_steps: Batches of the pretraining.
    """

    name: str
    hidden: frozenset[str]
    concepts: int | list[str] = 24
    image_size_px: int = 48
    patch_size: int = 12
    pretraining_images: int = 3_600
    pretraining_steps: int = 3_600
    has_vlm: bool = False

    @cached_property
    def world(self) -> EmojiWorld:
        """Return everything that the writer may write.

        Raises:
            AssetError: The artwork is missing.
        """
        return EmojiWorld(EmojiVocabulary(concepts=self.concepts), skills=list(SKILLS))

    @property
    def skills(self) -> tuple[str, ...]:
        """List the skills that an even set is spread over."""
        return SKILLS

    def words(self) -> list[str]:
        """List the hidden words as prompts have them."""
        return sorted(self.hidden)

    def hides(self, text: str) -> bool:
        """Say whether a prompt needs a concept that the student never saw."""
        return self._hidden(self.world.vocabulary.require(text))

    def held_out(self) -> EmojiSceneHeldOut:
        """Return the prompts that the figures are measured on, hidden concepts and known ones."""
        return EmojiSceneHeldOut(self.world, per_skill=HELD_OUT_PER_SKILL)

    def open_prompts(self, skill: str, seed: int, gap: bool | None) -> list[Prompt]:
        """List the prompts of a skill that may be trained on, in an order drawn by seed."""
        scenes = self.world.shuffled(skill, seed)
        wanted = [scene for scene in scenes if gap is None or self._hidden(scene) == gap]
        return [Prompt.create(scene_text(scene), skill=skill) for scene in wanted]

    def teacher(self) -> EmojiTeacher:
        """Return the teacher that errs in nothing."""
        return EmojiTeacher("noto", self.world.vocabulary)

    def judge(self, error_rate: float = 0.0, seed: int = 0) -> Judge:
        """Return the reader that compares with templates, or one of which a share of the looks is wrong."""
        return ErringJudge(self._reader, error_rate, seed) if error_rate else self._reader

    def vlm(self) -> Judge:
        """Refuse: the packaged vision-language model knows coloured shapes only."""
        raise UserError(f"The packaged model does not know the concepts of world {self.name!r}. Choose another arm.")

    def writer(self) -> EmojiSceneWriter:
        """Return the writer, which never writes a held-out combination."""
        return EmojiSceneWriter(self.world)

    def gold(self) -> EmojiGold:
        """Return images of which is known what they show."""
        return EmojiGold(self.world, image_size_px=self.image_size_px)

    @cached_property
    def _reader(self) -> EmojiSceneJudge:
        return EmojiSceneJudge(self.world.vocabulary)  # drawing its templates takes longer than a round's looks

    def _hidden(self, scene: EmojiScene) -> bool:
        return any(thing.label in self.hidden for thing in scene.things)


class ErringJudge:
    """Turn a share of another judge's looks into their opposite, as `MiniatureJudge` does with its own.

    Each draw depends on the content of the question alone: the same question has the same answer after a resume.

    Args:
        judge: Who looks.
        error_rate: Probability that an answer is turned into its opposite.
        seed: Another seed errs elsewhere.
    """

    def __init__(self, judge: Judge, error_rate: float, seed: int = 0) -> None:
        self.judge = judge
        self.error_rate = error_rate
        self.seed = seed

    @property
    def fingerprint(self) -> str:
        """Name the judge, and how it is spoiled."""
        return f"erring-1-{self.error_rate}-{self.seed}/{self.judge.fingerprint}"

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield one look per pair in its one order."""
        for pair in pairs:
            (look,) = self.judge.look([pair])
            yield self._spoiled(look, ("pair", pair.first, pair.second, pair.prompt))

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield one look per image."""
        for item in items:
            (look,) = self.judge.check([item])
            yield self._spoiled(look, ("check", item.image, item.prompt))

    def close(self) -> None:
        """Free the judge's memory."""
        self.judge.close()

    def _spoiled(self, look: Look, content: tuple[str | bytes, ...]) -> Look:
        draw = np.random.default_rng(seed_of("erring look", self.fingerprint, *content)).random()
        return replace(look, probability=1.0 - look.probability) if draw < self.error_rate else look
