"""What a prompt of the miniature world asks for."""

from __future__ import annotations

from dataclasses import dataclass

from evolvedirector.errors import UserError

RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
MAX_OBJECTS = 9


@dataclass(frozen=True, slots=True)
class Thing:
    """Some equal objects: a shape in a colour, `count` times."""

    shape: str
    colour: str
    count: int = 1

    @property
    def kind(self) -> tuple[str, str]:
        """Shape and colour, whatever the number."""
        return self.shape, self.colour


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects, and for two of them how they lie: what text, artist, reader and judge share.

    Args:
        things: one to three kinds of object, each kind once, at most nine objects in all.
        relation: where the first lies as seen from the second, for exactly two single objects; None: anywhere.

    Raises:
        UserError: no or too many things, a kind named twice, or a relation that does not fit.
    """

    things: tuple[Thing, ...]
    relation: str | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be drawn without doubt."""
        if not 1 <= len(self.things) <= 3:
            raise UserError(f"A scene of {len(self.things)} things. Allowed are 1 to 3. Name fewer things.")
        if len({thing.kind for thing in self.things}) != len(self.things):
            raise UserError("A scene names the same shape and colour twice. Allowed is each once. Write a number.")
        if min(thing.count for thing in self.things) < 1 or self.total > MAX_OBJECTS:
            raise UserError(f"A scene of {self.total} objects. Allowed are 1 to {MAX_OBJECTS}. Ask for fewer.")
        if self.relation is not None and (self.relation not in RELATIONS or len(self.things) != 2 or self.total != 2):
            raise UserError(
                f"Relation {self.relation!r} over {self.total} objects. Allowed is one of {', '.join(RELATIONS)} "
                "between two single objects. Write 'a red circle left of a blue square'."
            )

    @property
    def total(self) -> int:
        """Number of objects in all."""
        return sum(thing.count for thing in self.things)

    @property
    def combination(self) -> tuple[tuple[str, str], ...]:
        """The kinds in a fixed order: what is held out as a whole, whatever order, number or relation names them."""
        return tuple(sorted(thing.kind for thing in self.things))
