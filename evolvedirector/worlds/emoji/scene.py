"""What a prompt of the emoji world asks for."""

from __future__ import annotations

from dataclasses import dataclass

from evolvedirector.errors import UserError
from evolvedirector.worlds.shapes.scene import MAX_OBJECTS, RELATIONS

MAX_THINGS = 3


@dataclass(frozen=True, slots=True)
class EmojiThing:
    """Some equal objects: a concept's label, `count` times."""

    label: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class EmojiScene:
    """Objects, for two of them how they lie, and a background where one is named.

    Args:
        things: One to three concepts, each once, at most nine objects in all.
        relation: Where the first lies as seen from the second, for exactly two single objects; None: anywhere.
        background: Name of a background; None: any.

    Raises:
        UserError: No or too many things, a concept named twice, or a relation that does not fit.
    """

    things: tuple[EmojiThing, ...]
    relation: str | None = None
    background: str | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be drawn without doubt."""
        if not 1 <= len(self.things) <= MAX_THINGS:
            raise UserError(f"A scene of {len(self.things)} things. Allowed are 1 to {MAX_THINGS}. Name fewer.")
        if len({thing.label for thing in self.things}) != len(self.things):
            raise UserError("A scene names one concept twice. Allowed is each once. Write a number.")
        if min(thing.count for thing in self.things) < 1 or self.total > MAX_OBJECTS:
            raise UserError(f"A scene of {self.total} objects. Allowed are 1 to {MAX_OBJECTS}. Ask for fewer.")
        if self.relation is not None and (self.relation not in RELATIONS or len(self.things) != 2 or self.total != 2):
            raise UserError(
                f"Relation {self.relation!r} over {self.total} objects. Allowed is one of {', '.join(RELATIONS)} "
                "between two single objects. Write 'a fox left of a pizza'."
            )

    @classmethod
    def single(cls, label: str, background: str | None = None) -> EmojiScene:
        """Make a scene of one object."""
        return cls((EmojiThing(label),), background=background)

    @property
    def label(self) -> str:
        """Label of the first thing: all there is to a scene of one object."""
        return self.things[0].label

    @property
    def total(self) -> int:
        """Number of objects in all."""
        return sum(thing.count for thing in self.things)

    @property
    def objects(self) -> tuple[str, ...]:
        """Labels of the objects, one per object, in the order of the things."""
        return tuple(thing.label for thing in self.things for _ in range(thing.count))
