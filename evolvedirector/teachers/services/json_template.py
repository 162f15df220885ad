"""JSON made from a template and read by a path: values are put in whole, text is never glued to text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from evolvedirector.errors import UserError

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """Return a template with each `{name}` replaced by its value, numbers as numbers.

    A placeholder is a whole string: a prompt can hold quotes and braces, and glued into a longer text it could end it.

    Args:
        template: JSON as Python has it.
        values: by placeholder.
    """
    if isinstance(template, Mapping):
        return {key: fill(part, values) for key, part in template.items()}
    if isinstance(template, list | tuple):
        return [fill(part, values) for part in template]
    found = _PLACEHOLDER.fullmatch(template) if isinstance(template, str) else None
    return template if found is None else values[found[1]]


def check_template(template: Any, allowed: Iterable[str], where: str) -> None:
    """Refuse placeholders that are unknown or stand inside of a longer text.

    Args:
        template: JSON as Python has it.
        allowed: placeholders there are.
        where: name of the argument, for the message.

    Raises:
        UserError: names the string.
    """
    names = sorted(allowed)
    for text in _strings(template):
        found = _PLACEHOLDER.findall(text)
        if not found:
            continue
        if _PLACEHOLDER.fullmatch(text) is None:
            raise UserError(
                f"{where} holds {text!r}. Allowed is a placeholder as a whole string. "
                f'Write "{{{found[0]}}}" alone; other words belong into a field of their own.'
            )
        if found[0] not in names:
            raise UserError(
                f"{where} holds {text!r}. Allowed are {', '.join(f'{{{name}}}' for name in names)}. Write one of these."
            )


def names_in(template: Any) -> set[str]:
    """Return the placeholders of a template."""
    return {name for text in _strings(template) for name in _PLACEHOLDER.findall(text)}


def value_at(document: Any, path: str) -> Any:
    """Read `data.0.url` from parsed JSON; None where the path leads nowhere.

    Args:
        document: parsed JSON.
        path: keys and positions, separated by dots.
    """
    for step in path.split("."):
        if isinstance(document, Mapping):
            document = document.get(step)
        elif isinstance(document, list) and step.isascii() and step.isdigit() and int(step) < len(document):
            document = document[int(step)]
        else:
            return None
    return document


def _strings(template: Any) -> Iterable[str]:
    if isinstance(template, str):
        yield template
    elif isinstance(template, Mapping):
        for part in template.values():
            yield from _strings(part)
    elif isinstance(template, list | tuple):
        for part in template:
            yield from _strings(part)


def check_extra(extra: Mapping[str, Any], ours: Iterable[str]) -> None:
    """Refuse further fields of a request that its class sets itself.

    Args:
        extra: fields a user adds.
        ours: those that belong to the class.

    Raises:
        UserError: names the first one.
    """
    for name in ours:
        if name in extra:
            raise UserError(
                f"extra holds {name!r}, which this class sets itself. Allowed are other fields. Leave it out of extra."
            )
