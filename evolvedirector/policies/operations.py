"""The four operations of EvolveDirector, which either policy can be run without, for ablations."""

from __future__ import annotations

from collections.abc import Set
from typing import Literal, TypeAlias, get_args

from evolvedirector.errors import UserError

Operation: TypeAlias = Literal["discrimination", "expansion", "deletion", "mutation"]


def checked_operations(without: Set[Operation]) -> tuple[Operation, ...]:
    """Return the operations to leave out in a fixed order, so that their text can stand in a fingerprint.

    Args:
        without: Operations to leave out.

    Raises:
        UserError: One of them is none of the four.
    """
    unknown = sorted(set(without) - set(get_args(Operation)))
    if unknown:
        allowed = ", ".join(get_args(Operation))
        raise UserError(f"without names {unknown[0]!r}. Allowed: {allowed}. Write `without: [deletion]`, say.")
    return tuple(operation for operation in get_args(Operation) if operation in without)
