"""A judge of composed emoji scenes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.records import AtomAnswer, FaithfulnessLook, ImageAndPrompt, Look, OrderedPair
from evolvedirector.worlds.emoji.scene import EmojiScene
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.emoji_scenes.atoms import answer_emoji, emoji_atoms, emoji_faithfulness
from evolvedirector.worlds.emoji_scenes.reading import EmojiReader, EmojiSceneReading
from evolvedirector.worlds.emoji_scenes.template_reader import EmojiTemplateReader

JUDGE_VERSION = "2"
_STEEPNESS = 12.0
"""Of the comparison: two faithful images that differ a little in clarity stay near one half."""


class EmojiSceneJudge:
    """Judge images by reading them: which concepts, how many, how they lie, on which background.

    The reader decides of which kind the judge is, so that a run is not graded by what trained it:
    `EmojiTemplateReader` compares pixels, `EmojiFeatureReader` features of a classifier of photographs.
    """

    def __init__(self, vocabulary: EmojiVocabulary | None = None, reader: EmojiReader | None = None) -> None:
        """Choose vocabulary and reader.

        Args:
            vocabulary: What prompts are about. None: the default two dozen concepts.
            reader: Reads images; it must know the vocabulary's concepts. None: templates.

        Raises:
            UserError: The reader does not know a concept.
            AssetError: The assets are missing.
        """
        self.vocabulary = vocabulary or EmojiVocabulary()
        self.reader: EmojiReader = reader or EmojiTemplateReader(self.vocabulary)
        self._labels = self.reader.labels
        unread = sorted({concept.label for concept in self.vocabulary.concepts} - set(self._labels))
        if unread:
            raise UserError(
                f"The reader does not know {unread[0]!r} and {len(unread) - 1} more concepts of the vocabulary. "
                "Allowed is a reader of the same vocabulary. Give both the same one."
            )

    @property
    def fingerprint(self) -> str:
        """Name the judge's version and its reader."""
        return f"emoji-scene-judge-{JUDGE_VERSION}/{self.reader.fingerprint}"

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair in its one order, the probability that the first image fits better.

        Args:
            pairs: Encoded images; faithfulness decides first, clarity between equals.
        """
        for pair in pairs:
            try:
                grades = [self._grade(image, pair.prompt) for image in (pair.first, pair.second)]
            except ValueError as error:
                yield Look(pair.item_id, 0.5, 0.0, str(error))
                continue
            probability = float(1.0 / (1.0 + np.exp(-_STEEPNESS * (grades[0] - grades[1]))))
            yield Look(pair.item_id, probability)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the probability that the image shows the prompt; over 0.5 exactly where it does.

        Args:
            items: Encoded images with their prompts.
        """
        for item in items:
            try:
                scene, reading = self._see(item.image, item.prompt)
            except ValueError as error:
                yield Look(item.item_id, 0.5, 0.0, str(error))
                continue
            seen = ", ".join(f"{o.label} ({o.score:.2f})" for o in reading.objects) or "nothing"
            yield Look(item.item_id, emoji_faithfulness(scene, reading, self._labels), reason=f"seen: {seen}")

    def ask_atoms(self, items: Sequence[ImageAndPrompt]) -> Iterator[FaithfulnessLook]:
        """Yield, per item, one answer per concept, number, relation and background of its prompt.

        Args:
            items: Encoded images with their prompts.
        """
        for item in items:
            try:
                scene, reading = self._see(item.image, item.prompt)
            except ValueError as error:
                yield FaithfulnessLook(item.item_id, (), str(error))
                continue
            answers = tuple(
                AtomAnswer(atom.kind, atom.question, answer_emoji(atom, reading, self._labels))
                for atom in emoji_atoms(scene)
            )
            yield FaithfulnessLook(item.item_id, answers)

    def close(self) -> None:
        """Free the reader's memory; the next call builds it again."""
        self.reader.close()

    def _see(self, image: bytes, prompt: str) -> tuple[EmojiScene, EmojiSceneReading]:
        scene = self.vocabulary.require(prompt)
        (reading,) = self.reader.read([image])
        if reading is None:
            raise UserError(f"{len(image)} bytes are no image that can be read. Allowed are PNG, JPEG and WebP.")
        return scene, reading.named_after(scene.objects, self._labels)

    def _grade(self, image: bytes, prompt: str) -> float:
        return emoji_faithfulness(*self._see(image, prompt), self._labels)
