"""The subjects of a sample or request: which words of its prompt are shown by which picture, and an edge picture."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from evolvedirector.errors import UserError

SUBJECTS = "subjects"
"""Role: JSON, a list of names as they stand in the prompt; `{"name": "cat", "begin": 12}` says which of several."""
SUBJECT_IMAGES = ("subject", "subject_2", "subject_3", "subject_4")
"""Roles: a picture of each subject by itself, in the order of the names."""
EDGE = "edge"
"""Role: the edges of the wanted picture, white on black."""
SOURCE_ROLES = (SUBJECTS, *SUBJECT_IMAGES, EDGE)
"""All of them."""


@dataclass(frozen=True, slots=True)
class NamedSubject:
    """A subject by its words.

    Args:
        name: As it stands in the prompt.
        begin: Character of the prompt at which it begins. None: where it first stands as whole words.
    """

    name: str
    begin: int | None = None


def read_subjects(value: Any, roles: Collection[str], of: str) -> tuple[NamedSubject, ...]:
    """Read the subjects of a sample or request.

    Args:
        value: Of the role `subjects`, decoded.
        roles: Of the sample or request.
        of: Names it, as the error begins.

    Raises:
        UserError: It is no list of names, has too many, or a picture is missing or too many.
    """
    listed = value if isinstance(value, list) else [None]
    found = [_read(entry) for entry in listed]
    named = [subject for subject in found if subject is not None]
    if len(named) < len(found) or not 1 <= len(named) <= len(SUBJECT_IMAGES):
        raise UserError(
            f"The subjects of {of} are {str(value)[:120]}. Allowed are 1 to {len(SUBJECT_IMAGES)} names in a list. "
            'Write ["cat", {"name": "dog", "begin": 12}], say.'
        )
    wanted = SUBJECT_IMAGES[: len(named)]
    given = [role for role in SUBJECT_IMAGES if role in roles]
    if given != list(wanted):
        raise UserError(
            f"{of} has {len(named)} subjects and the pictures {', '.join(given) or 'none'}. Allowed is one picture for "
            f"each. Give {', '.join(wanted)}, in the order of the names."
        )
    return tuple(named)


def _read(entry: Any) -> NamedSubject | None:
    if isinstance(entry, str) and entry.strip():
        return NamedSubject(entry)
    if not isinstance(entry, Mapping) or not entry.keys() <= {"name", "begin"}:
        return None
    name, begin = entry.get("name"), entry.get("begin")
    if not isinstance(name, str) or not name.strip() or not (begin is None or (type(begin) is int and begin >= 0)):
        return None
    return NamedSubject(name, begin)
