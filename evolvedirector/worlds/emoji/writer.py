"""A prompt writer for the emoji world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest

import numpy as np

from evolvedirector.records import WriteReply, WriteRequest, normalise_prompt, seed_of
from evolvedirector.worlds.emoji.scene import EmojiScene
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary

WRITER_VERSION = 1
"""Part of the fingerprint; raised when the same settings write other texts."""


class EmojiWriter:
    """Write prompts of a vocabulary; held-out combinations are never written.

    Expansion stays near the parent: its concept on other backgrounds and, in turn, other concepts of its group (of
    its subgroup first). Mutation goes to another group.
    """

    def __init__(self, vocabulary: EmojiVocabulary | None = None) -> None:
        """Choose the vocabulary.

        Args:
            vocabulary: What is written about. None: the default two dozen concepts.

        Raises:
            AssetError: The assets are missing.
        """
        self.vocabulary = vocabulary or EmojiVocabulary()
        self._scenes = self.vocabulary.scenes(held_out=False)

    @property
    def fingerprint(self) -> str:
        """Name the vocabulary."""
        return f"emoji-writer-{WRITER_VERSION}/{self.vocabulary.fingerprint}"

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        """Yield, per request, as many different prompts as asked for, fewer where there are no more."""
        for request in requests:
            yield self._reply(request)

    def _reply(self, request: WriteRequest) -> WriteReply:
        parent = self.vocabulary.parse(request.parent) if request.parent is not None else None
        if request.parent is not None and parent is None:
            return WriteReply(request.request_id, refusal=f"not in the vocabulary: {request.parent[:80]!r}")
        draw = np.random.default_rng(seed_of("emoji writer", request.operation, request.parent or "", request.seed))
        scenes = [self._scenes[row] for row in draw.permutation(len(self._scenes))]
        if request.operation == "expansion" and parent is not None:
            scenes = self._near(parent, scenes)
        else:
            scenes = self._elsewhere(parent if request.operation == "mutation" else None, request.skill, scenes)
            scenes = [scene for _, scene in sorted(_turns(scenes), key=lambda ranked: ranked[0])]
        avoid = normalise_prompt(request.parent or "")
        written: dict[str, str] = {}
        for text, scene in self._worded(scenes, draw):
            if normalise_prompt(text) != avoid and len(written) < request.count:
                written.setdefault(text, self.vocabulary.skill_of(scene))
        if not written:
            return WriteReply(request.request_id, refusal=f"no prompt left for the skill {request.skill!r}")
        return WriteReply(request.request_id, tuple(written), tuple(written.values()))

    def _near(self, parent: EmojiScene, scenes: list[EmojiScene]) -> list[EmojiScene]:
        """List the parent's concept on other backgrounds in turn with other concepts of its group."""
        concept = self.vocabulary[parent.label]
        same = [scene for scene in scenes if scene.label == parent.label and scene != parent]
        group = [
            (turn, self.vocabulary[scene.label].subgroup != concept.subgroup, scene)
            for turn, scene in _turns(scenes)
            if scene.label != parent.label and self.vocabulary.skill_of(scene) == concept.skill
        ]
        group.sort(key=lambda ranked: ranked[:2])
        pairs = zip_longest(same, (scene for _, _, scene in group))
        return [scene for scene in chain.from_iterable(pairs) if scene is not None]

    def _elsewhere(self, parent: EmojiScene | None, skill: str | None, scenes: list[EmojiScene]) -> list[EmojiScene]:
        """List the scenes of the skill asked for, or those outside the parent's, or all."""
        if skill is not None:
            return [scene for scene in scenes if self.vocabulary.skill_of(scene) == skill]
        if parent is None:
            return scenes
        left = self.vocabulary.skill_of(parent)
        return [scene for scene in scenes if self.vocabulary.skill_of(scene) != left]

    def _worded(self, scenes: list[EmojiScene], draw: np.random.Generator) -> Iterator[tuple[str, EmojiScene]]:
        """Give each scene one wording by lot, and the other wordings once every scene had its turn."""
        wordings = [(scene, list(draw.permutation(self.vocabulary.texts(scene)))) for scene in scenes]
        for turn in range(max((len(texts) for _, texts in wordings), default=0)):
            yield from ((str(texts[turn]), scene) for scene, texts in wordings if turn < len(texts))


def _turns(scenes: Sequence[EmojiScene]) -> list[tuple[int, EmojiScene]]:
    """Count which turn of its concept each scene is, so that each concept can come once before any comes twice."""
    seen: dict[str, int] = {}
    numbered = []
    for scene in scenes:
        seen[scene.label] = seen.get(scene.label, 0) + 1
        numbered.append((seen[scene.label], scene))
    return numbered
