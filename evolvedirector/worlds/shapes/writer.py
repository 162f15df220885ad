"""A writer that knows the grammar: every text it proposes can be drawn and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from evolvedirector.records import WriteReply, WriteRequest, digest, seed_of
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.worlds.shapes.grammar import parse, phrase, shuffled, skill_of
from evolvedirector.worlds.shapes.held_out import excluder
from evolvedirector.worlds.shapes.scene import Scene
from evolvedirector.worlds.shapes.world import World

WRITER_VERSION = 1
"""Part of the fingerprint; raised when the same settings write other texts."""


class MiniatureWriter:
    """Write prompts of the miniature world.

    Expansion keeps the structure of the parent (its skill and relation) and changes nouns, colours and counts;
    mutation has another structure than the parent; `seed` writes anything of the skill asked for. A skill in the
    request wins over both. The same request has the same reply.

    Args:
        world: the words.
        held_out: prompts never proposed, by whole combinations when it is `HeldOutPrompts`; None: all may be.
    """

    def __init__(
        self,
        world: World = World(),  # noqa: B008 - frozen
        held_out: PromptSource | None = None,
    ) -> None:
        self.world = world
        self.held_out = held_out
        self._is_held_out = excluder(held_out)

    @property
    def fingerprint(self) -> str:
        """Name the words, and the prompts that are never written."""
        held_out = [] if self.held_out is None else [prompt.text for prompt in self.held_out.prompts()]
        return f"miniature-writer-{WRITER_VERSION}/{digest(repr(self.world), *held_out)}"

    def _skills(self, request: WriteRequest, parent: Scene | None) -> list[str]:
        """List the skills that the texts take turns in."""
        if request.skill is not None:
            return [request.skill]
        if request.operation == "expansion" and parent is not None:
            return [skill_of(parent)]
        others = [skill for skill in self.world.skills if parent is None or skill != skill_of(parent)]
        # a world of one skill has no other structure: something new of the same one is the nearest thing
        others = others or list(self.world.skills)
        order = np.random.default_rng(seed_of("skills", request.seed)).permutation(len(others))
        return [others[index] for index in order]

    def _candidates(self, skill: str, request: WriteRequest, parent: Scene | None) -> Iterator[Scene]:
        keep = None
        if request.operation == "expansion" and parent is not None and skill == skill_of(parent):
            keep = parent.relation
        for scene in shuffled(self.world, skill, request.seed):
            if scene != parent and not self._is_held_out(scene) and (keep is None or scene.relation == keep):
                yield scene

    def _reply(self, request: WriteRequest) -> WriteReply:
        try:
            parent = None if request.parent is None else parse(request.parent)
        except ValueError as error:
            return WriteReply(request.request_id, refusal=str(error))
        if request.operation == "expansion" and parent is None:
            return WriteReply(request.request_id, refusal="expansion without a parent; ask for a seed or a mutation")
        skills = self._skills(request, parent)
        unknown = [skill for skill in skills if skill not in self.world.skills]
        if unknown:
            known = ", ".join(self.world.skills)
            return WriteReply(request.request_id, refusal=f"{unknown[0]!r} is no skill of this world ({known})")
        sources = [(skill, self._candidates(skill, request, parent)) for skill in skills]
        written: list[tuple[str, str]] = []
        while sources and len(written) < request.count:
            still: list[tuple[str, Iterator[Scene]]] = []
            for skill, source in sources:
                scene = next(source, None)
                if scene is not None:
                    written.append((phrase(scene), skill))
                    still.append((skill, source))
            sources = still
        written = written[: request.count]
        if not written:
            return WriteReply(request.request_id, refusal="nothing left to write that is not held out")
        texts, kinds = zip(*written, strict=True)
        return WriteReply(request.request_id, texts, kinds)

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        """Yield one reply per request: distinct texts, never the parent; fewer than asked where no more exist.

        Args:
            requests: a parent outside of the grammar, or a skill outside of the world, is refused.
        """
        for request in requests:
            yield self._reply(request)
