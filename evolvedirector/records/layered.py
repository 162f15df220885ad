"""A large mapping with few changes on top: the next state of a dataset without a copy of the last one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import TypeVar

Value = TypeVar("Value")


class OrderedPairs(Mapping[str, Value]):
    """A mapping that makes its values when asked: going through them asks for whole blocks, not for one at a time."""

    @abstractmethod
    def pairs(self) -> Iterator[tuple[str, Value]]:
        """Yield keys and values in the order in which they entered."""

    def items(self) -> ItemsView[str, Value]:
        """Return a view of keys and values."""
        return _Items(self)

    def values(self) -> ValuesView[Value]:
        """Return a view of the values."""
        return _Values(self)


class _Items(ItemsView[str, Value]):
    def __init__(self, mapping: OrderedPairs[Value]) -> None:
        super().__init__(mapping)
        self._pairs = mapping.pairs

    def __iter__(self) -> Iterator[tuple[str, Value]]:
        return self._pairs()


class _Values(ValuesView[Value]):
    def __init__(self, mapping: OrderedPairs[Value]) -> None:
        super().__init__(mapping)
        self._pairs = mapping.pairs

    def __iter__(self) -> Iterator[Value]:
        return (value for _, value in self._pairs())


class Layered(OrderedPairs[Value]):
    """Changes on top of a mapping that stays as it is; in the order that a changed copy would have."""

    def __init__(
        self,
        base: Mapping[str, Value],
        changed: Mapping[str, Value],
        added: Mapping[str, Value],
        removed: frozenset[str] = frozenset(),
    ) -> None:
        """Lay changes on a mapping; see `with_changes`.

        Args:
            base: Below.
            changed: New values of keys of the base.
            added: Keys that come behind those of the base.
            removed: Keys of the base that count no longer; one may come again among those added.
        """
        self.base = base
        self.changed = changed
        self.added = added
        self.removed = removed

    def __len__(self) -> int:
        return len(self.base) - len(self.removed) + len(self.added)

    def __contains__(self, key: object) -> bool:
        return key in self.added or (key not in self.removed and key in self.base)

    def __getitem__(self, key: str) -> Value:
        if key in self.added:
            return self.added[key]
        if key in self.changed:
            return self.changed[key]
        if key in self.removed:
            raise KeyError(key)
        return self.base[key]

    def __iter__(self) -> Iterator[str]:
        if self.removed:
            yield from (key for key in self.base if key not in self.removed)
        else:
            yield from self.base
        yield from self.added

    def pairs(self) -> Iterator[tuple[str, Value]]:
        """Yield keys and values in the order in which they entered."""
        for key, value in self.base.items():
            if key not in self.removed:
                yield key, self.changed.get(key, value)
        yield from self.added.items()

    @property
    def changes(self) -> int:
        """Count what lies on top."""
        return len(self.changed) + len(self.added) + len(self.removed)

    def with_changes(self, changes: Mapping[str, Value | None]) -> Layered[Value]:
        """Return it with further changes; see the function of that name."""
        changed, added, removed = dict(self.changed), dict(self.added), set(self.removed)
        for key, value in changes.items():
            in_base = key not in removed and key in self.base
            if value is None:
                if in_base:
                    removed.add(key)
                changed.pop(key, None)
                added.pop(key, None)
            elif in_base:
                changed[key] = value
            else:
                added[key] = value
        return Layered(self.base, changed, added, frozenset(removed))


def with_changes(mapping: Mapping[str, Value], changes: Mapping[str, Value | None]) -> Mapping[str, Value]:
    """Return a mapping with changes; the old one stays as it is.

    A dict is copied. Anything else is large and lies in a file: the changes are laid on top, so that their number
    counts and not its own.

    Args:
        mapping: Of before.
        changes: New values by key: in place where the key is there, else at the end. None: the key goes.
    """
    if isinstance(mapping, Layered):
        return mapping.with_changes(changes)
    if not isinstance(mapping, dict):
        return Layered(mapping, {}, {}).with_changes(changes)
    copy: dict[str, Value] = dict(mapping)
    for key, value in changes.items():
        if value is None:
            copy.pop(key, None)
        else:
            copy[key] = value
    return copy
