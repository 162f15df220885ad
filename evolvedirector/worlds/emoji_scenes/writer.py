"""A prompt writer for composed emoji scenes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest

import numpy as np

from evolvedirector.records import WriteReply, WriteRequest, digest, seed_of
from evolvedirector.worlds.emoji.grammar import scene_text
from evolvedirector.worlds.emoji.scene import EmojiScene
from evolvedirector.worlds.emoji_scenes.world import EmojiWorld

WRITER_VERSION = 1
"""Part of the fingerprint; raised when the same settings write other texts."""


class EmojiSceneWriter:
    """Write prompts of an emoji world; held-out combinations are never written.

    Expansion keeps the structure of the parent: in turn a scene that shares a concept with it, and any other of its
    skill. Mutation has another structure. A skill in the request wins over both. The same request has the same reply.
    """

    def __init__(self, world: EmojiWorld | None = None) -> None:
        """Choose the world.

        Args:
            world: What is written about. None: the default two dozen concepts.

        Raises:
            AssetError: The assets are missing.
        """
        self.world = world or EmojiWorld()

    @property
    def fingerprint(self) -> str:
        """Name the world, which decides what may be written."""
        return f"emoji-scene-writer-{WRITER_VERSION}/{digest(repr(self.world))}"

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        """Yield, per request, as many different prompts as asked for, fewer where there are no more."""
        for request in requests:
            yield self._reply(request)

    def _reply(self, request: WriteRequest) -> WriteReply:
        try:
            parent = None if request.parent is None else self.world.vocabulary.require(request.parent)
        except ValueError as error:
            return WriteReply(request.request_id, refusal=str(error))
        if request.operation == "expansion" and parent is None:
            return WriteReply(request.request_id, refusal="expansion without a parent; ask for a seed or a mutation")
        skills = self._skills(request, parent)
        unknown = [skill for skill in skills if skill not in self.world.skills]
        if unknown:
            known = ", ".join(self.world.skills)
            return WriteReply(request.request_id, refusal=f"{unknown[0]!r} is no skill of this world ({known})")
        sources = [self._labelled(skill, request, parent) for skill in skills]
        written: dict[EmojiScene, str] = {}
        for scene, skill in chain.from_iterable(zip_longest(*sources, fillvalue=(None, ""))):
            if len(written) >= request.count:
                break
            if scene is not None and scene != parent:
                written.setdefault(scene, skill)
        if not written:
            return WriteReply(request.request_id, refusal="nothing left to write that is not held out")
        return WriteReply(request.request_id, tuple(map(scene_text, written)), tuple(written.values()))

    def _skills(self, request: WriteRequest, parent: EmojiScene | None) -> list[str]:
        """List the skills that the texts take turns in."""
        if request.skill is not None:
            return [request.skill]
        if request.operation == "expansion" and parent is not None:
            return [self.world.skill_of(parent)]
        others = [skill for skill in self.world.skills if parent is None or skill != self.world.skill_of(parent)]
        others = others or list(self.world.skills)
        order = np.random.default_rng(seed_of("emoji skills", request.seed)).permutation(len(others))
        return [others[index] for index in order]

    def _labelled(
        self, skill: str, request: WriteRequest, parent: EmojiScene | None
    ) -> Iterator[tuple[EmojiScene | None, str]]:
        anything: Iterator[EmojiScene | None] = self.world.shuffled(skill, request.seed)
        if request.operation == "expansion" and parent is not None and skill == self.world.skill_of(parent):
            near = self.world.near(parent, request.seed)
            anything = chain.from_iterable(zip_longest(near, anything))
        yield from ((scene, skill) for scene in anything)
