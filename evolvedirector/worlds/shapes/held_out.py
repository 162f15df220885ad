"""Prompts that no operation may touch: what headline figures are measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from evolvedirector.errors import UserError
from evolvedirector.records import Prompt, normalise_prompt, seed_of
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.worlds.shapes.grammar import parse, phrase, scenes, shuffled, skill_of
from evolvedirector.worlds.shapes.scene import Scene
from evolvedirector.worlds.shapes.world import World

Combination = tuple[tuple[str, str], ...]


def _combinations(world: World, skill: str, seed: int) -> dict[Combination, list[Scene]]:
    """Group a skill's scenes by the kinds they combine, in an order drawn by seed."""
    groups: dict[Combination, list[Scene]] = {}
    for scene in shuffled(world, skill, seed_of("held-out", seed)):
        groups.setdefault(scene.combination, []).append(scene)
    return groups


class HeldOutPrompts:
    """List held-out prompts of whole combinations: a student cannot know them from their mirror image.

    A combination is the set of (shape, colour) kinds that a scene names, whatever its order, number or relation:
    holding out "a red circle and a blue square" also holds out "a blue square and a red circle", and holding out
    "two green stars" every number of green stars. It counts within its skill: the kinds themselves are learned from
    the other skills and combinations, so what is measured is putting known words together in a new way. For
    `single_object` a combination is one of few scenes (12 in the smallest world), so the share bounds what is lost:
    what is then measured is a colour on a shape that was never seen *alone* in it.

    Args:
        world: the words.
        per_skill: prompts listed per skill; fewer where the held-out combinations have no more texts.
        seed: which combinations.
        max_share: largest share of a skill's combinations to hold out, over 0 and at most 0.5; one is held out at
            least.

    Raises:
        UserError: nothing to hold out, or a share outside of these limits.
    """

    def __init__(
        self,
        world: World = World(),  # noqa: B008 - frozen
        per_skill: int = 16,
        seed: int = 0,
        max_share: float = 0.2,
    ) -> None:
        if per_skill < 1:
            raise UserError(f"per_skill={per_skill}. Allowed is 1 or more. Write 16, or leave held_out out.")
        if not 0.0 < max_share <= 0.5:
            raise UserError(f"max_share={max_share}. Allowed is over 0 and at most 0.5. Write 0.2.")
        self.world = world
        self.per_skill = per_skill
        self.seed = seed
        self.max_share = max_share
        self._held: dict[str, dict[Combination, list[Scene]]] = {}
        for skill in world.skills:
            groups = _combinations(world, skill, seed)
            count = min(per_skill, max(1, int(len(groups) * max_share)))
            if len(groups) < 2:
                raise UserError(f"{skill} has one combination only. Allowed to hold out are two. Add a word.")
            self._held[skill] = dict(list(groups.items())[:count])

    def holds(self, scene: Scene) -> bool:
        """Tell whether a scene belongs to a held-out combination of its skill.

        Args:
            scene: any scene; one without a skill is never held out.
        """
        return scene.combination in self._held.get(skill_of(scene), {})

    def prompts(self) -> Sequence[Prompt]:
        """List the held-out prompts, as evenly over the combinations of each skill as they go."""
        listed: list[Prompt] = []
        for skill, groups in self._held.items():
            # one scene of each combination, then a second of each, ...
            turns = zip_longest(*groups.values())
            chosen = [scene for turn in turns for scene in turn if scene is not None][: self.per_skill]
            listed.extend(Prompt.create(phrase(scene), skill=skill) for scene in chosen)
        return listed


class OpenPrompts:
    """List all other prompts of the skills that have few held-out ones: of those, training may have met any.

    Two held-out single objects are one share of 0, 1/2 or 1. Beside them, what is drawn of all kinds of such a skill
    says how well it is known, and the two together how much of that is put together anew.

    Args:
        world: the words.
        held_out: what is not listed.
        fewest: held-out prompts from which on a skill speaks for itself and is left out here.

    Raises:
        UserError: `fewest` is below 1.
    """

    def __init__(
        self,
        world: World = World(),  # noqa: B008 - frozen
        held_out: HeldOutPrompts | None = None,
        fewest: int = 12,
    ) -> None:
        if fewest < 1:
            raise UserError(f"fewest={fewest}. Allowed is 1 or more. Write 12.")
        self.world = world
        self.held_out = held_out or HeldOutPrompts(world)
        self.fewest = fewest

    def prompts(self) -> Sequence[Prompt]:
        """List them, skill by skill."""
        counts = Counter(prompt.skill for prompt in self.held_out.prompts())
        small = [skill for skill in self.world.skills if counts[skill] < self.fewest]
        return [
            Prompt.create(phrase(scene), skill=skill)
            for skill in small
            for scene in scenes(self.world, skill)
            if not self.held_out.holds(scene)
        ]


@dataclass(frozen=True, slots=True)
class _Listed:
    """Say whether a scene is listed; no closure, so that a writer with one can cross to another process."""

    scenes: frozenset[Scene] = frozenset()
    texts: frozenset[str] = frozenset()

    def __call__(self, scene: Scene) -> bool:
        return scene in self.scenes or normalise_prompt(phrase(scene)) in self.texts


def excluder(held_out: PromptSource | None) -> Callable[[Scene], bool]:
    """Return what tells whether a scene is held out: by whole combinations where the source knows them, else by text.

    Args:
        held_out: None holds nothing out.
    """
    if held_out is None:
        return _Listed()
    if isinstance(held_out, HeldOutPrompts):
        return held_out.holds
    texts = {normalise_prompt(prompt.text) for prompt in held_out.prompts()}
    known = set()
    for text in texts:
        try:
            known.add(parse(text))
        except ValueError:
            continue  # another world's prompt cannot be written here anyway
    return _Listed(frozenset(known), frozenset(texts))
