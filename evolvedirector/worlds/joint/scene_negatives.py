"""Hard negatives of a scene: the same sentence with one attribute swapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from evolvedirector.errors import UserError
from evolvedirector.worlds.joint.world import JOINT_WORLD
from evolvedirector.worlds.shapes.grammar import parse, phrase
from evolvedirector.worlds.shapes.scene import OPPOSITE, Scene, Thing
from evolvedirector.worlds.shapes.world import World


class SceneNegatives:
    """Name the sentences that differ from a prompt of the shapes world in one attribute.

    One colour, one shape or one number is another; two things exchange their colours or shapes; a relation is turned
    around. Those that no scene can have (a kind named twice) are left out.

    Args:
        world: The words.
    """

    def __init__(self, world: World = JOINT_WORLD) -> None:
        self.world = world

    @property
    def fingerprint(self) -> str:
        """Name words and rule."""
        return f"scene-negatives-1/{'-'.join((*self.world.shapes, *self.world.colours))}/{self.world.max_count}"

    def negatives(self, text: str) -> Sequence[str]:
        """List the negatives of a text, each once.

        Args:
            text: A prompt of the world.

        Raises:
            UserError: A text outside of the grammar.
        """
        scene = parse(text)
        others: dict[object, str] = {_meaning(scene): ""}
        for other in self._others(scene):
            others.setdefault(_meaning(other), phrase(other))
        return list(others.values())[1:]

    def _others(self, scene: Scene) -> Iterator[Scene]:
        for number, thing in enumerate(scene.things):
            for colour in self.world.colours:
                yield from _with(scene, {number: replace(thing, colour=colour)})
            for shape in self.world.shapes:
                yield from _with(scene, {number: replace(thing, shape=shape)})
            if scene.total == thing.count and thing.count > 1:
                for count in range(2, self.world.max_count + 1):
                    yield from _with(scene, {number: replace(thing, count=count)})
        for first in range(len(scene.things)):
            for second in range(first):
                one, two = scene.things[first], scene.things[second]
                yield from _with(
                    scene, {first: replace(one, colour=two.colour), second: replace(two, colour=one.colour)}
                )
                yield from _with(scene, {first: replace(one, shape=two.shape), second: replace(two, shape=one.shape)})
        if scene.relation is not None:
            yield Scene(scene.things, OPPOSITE[scene.relation])


def _meaning(scene: Scene) -> tuple[object, str | None]:
    """Without a relation, the order of the things says nothing."""
    return scene.things if scene.relation is not None else frozenset(scene.things), scene.relation


def _with(scene: Scene, changed: dict[int, Thing]) -> Iterator[Scene]:
    try:
        yield Scene(tuple(changed.get(n, thing) for n, thing in enumerate(scene.things)), scene.relation)
    except UserError:  # the change names a kind twice
        return
