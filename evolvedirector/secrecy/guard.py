"""No key in a config: its texts are compared with what the environment keeps secret, before anything is written."""

from __future__ import annotations

import dataclasses
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evolvedirector.errors import UserError

LEAST_CHARACTERS = 8
"""Shorter values (`true`, `0`) would match words that are no secrets."""
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
KEY_SHAPES = re.compile(
    r"(?i)\bsk-[a-z0-9_-]{16,}|\bhf_[a-z0-9]{16,}|\bgh[opsu]_[a-z0-9]{20,}|\bgithub_pat_\w{20,}|\bAKIA[0-9A-Z]{12,}"
    r"|\bAIza[\w-]{30,}|\bxox[abp]-[\w-]{10,}|\bbearer\s+[\w.~+/=-]{12,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
"""Well-known shapes of keys, and passwords in URLs."""
_NO_SETTINGS = frozenset(
    ("torch", "numpy", "aiohttp", "asyncio", "threading", "lightning", "transformers", "diffusers")
)
"""Packages whose objects hold weights and connections, no settings of ours."""
_named: set[str] = set()
"""Variables that a `*_env` setting of this process named: secrets from then on, whatever they are called."""


@dataclass(frozen=True, slots=True)
class SecretFound:
    """Say where a secret stands and what it is called, never what it is.

    Args:
        path: Place in the config, as `trainer.callbacks[0].init_args.url`.
        variable: Name of the environment variable with this value; empty for what only has the shape of a key.
    """

    path: str
    variable: str


def secret_values(named: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what must stand nowhere: the names of variables by their values, as they are and as a URL spells them.

    Args:
        named: Variables that count whatever they are called, from now on; those that `*_env` settings name.
        environment: None: that of this process.
    """
    found: dict[str, str] = {}
    _named.update(named)
    for name, value in sorted((os.environ if environment is None else environment).items()):
        value = value.strip()
        if value.startswith("/") and os.path.exists(value):
            continue  # the place of a key file; its name is no secret, and folders contain one another
        if len(value) >= LEAST_CHARACTERS and (name in _named or _SECRET_NAME.search(name)):
            for spelt in (value, urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value)):
                found.setdefault(spelt, name)
    return found


def named_variables(tree: Any) -> set[str]:
    """List the environment variables that the `*_env` settings of a config name.

    Args:
        tree: Parsed config: mappings, lists, plain values.
    """
    if isinstance(tree, Mapping):
        own = {value for key, value in tree.items() if str(key).endswith("_env") and isinstance(value, str)}
        return own.union(*(named_variables(value) for value in tree.values()))
    if isinstance(tree, list | tuple):
        return set().union(*(named_variables(value) for value in tree))
    return set()


def find_secrets(tree: Any, secrets: Mapping[str, str], path: str = "") -> Iterator[SecretFound]:
    """Yield each place of a tree whose text is a secret or holds one (a header, a URL); keys are texts too.

    Args:
        tree: Mappings, lists, plain values.
        secrets: Names of variables by value.
        path: Where the tree itself stands.
    """
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if (variable := _variable_in(str(key), secrets)) is not None:
                yield SecretFound(f"a key of {path or 'the top level'}", variable)
            else:
                yield from find_secrets(value, secrets, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list | tuple | set | frozenset):
        for index, value in enumerate(tree):
            yield from find_secrets(value, secrets, f"{path}[{index}]")
    elif (variable := _variable_in(str(tree), secrets)) is not None:
        yield SecretFound(path, variable)


def refuse_secrets(tree: Any, source: str = "the config", secrets: Mapping[str, str] | None = None) -> None:
    """Refuse a config that holds a secret of the environment: it would be saved, logged and passed on.

    Args:
        tree: Parsed config.
        source: Where it comes from, for the message.
        secrets: Names of variables by value. None: those of the environment, with the ones the config names.

    Raises:
        UserError: With every place and the variable's name; never the value.
    """
    known = secret_values(named_variables(tree)) if secrets is None else secrets
    found = list(dict.fromkeys(find_secrets(tree, known)))
    if found:
        raise UserError(refusal(found, source))


def refusal(found: Iterable[SecretFound], source: str) -> str:
    """Say in one paragraph where secrets stand and what to write in their place.

    Args:
        found: At least one.
        source: Where they were found.
    """
    listed = list(found)
    places = ", ".join(
        f"`{item.path}` ({f'the value of {item.variable}' if item.variable else 'it looks like a key'})"
        for item in listed
    )
    name = listed[0].variable
    other = f" If {name} is no secret, give that variable another name." if name else ""
    return (
        f"{source} holds a secret: {places}. A config is saved, logged and passed on, so it names environment "
        f"variables and never holds what is in them. Write `api_key_env: {name or 'MY_SERVICE_KEY'}` where a part "
        f"takes the name of a key, and remove the value.{other}"
    )


def redacted(text: str, secrets: Mapping[str, str] | None = None) -> str:
    """Return a text with each secret replaced by the name of its variable, and without what has the shape of a key.

    Args:
        text: A message for people.
        secrets: Names of variables by value. None: those of the environment, with the ones that configs named.
    """
    known = secret_values() if secrets is None else secrets
    for value in sorted(known, key=len, reverse=True):  # a secret that is part of another one goes second
        text = text.replace(value, f"(value of {known[value]})")
    return KEY_SHAPES.sub("(hidden)", text)


def settings_of(part: object) -> Any:
    """Return the plain settings of a part that was built in Python, as a tree like that of its config.

    Only text counts, in attributes, mappings and sequences of the part and of the parts it holds.

    Args:
        part: Any object.
    """
    return _settings(part, set())


def _settings(part: object, seen: set[int]) -> Any:
    if isinstance(part, str):
        return part
    if part is None or isinstance(part, type) or id(part) in seen:
        return None
    seen.add(id(part))
    if isinstance(part, Mapping):
        return {str(key): _settings(value, seen) for key, value in part.items()}
    if isinstance(part, list | tuple | set | frozenset):
        return [_settings(value, seen) for value in part]
    if type(part).__module__.partition(".")[0] in _NO_SETTINGS:
        return None
    names = list(getattr(part, "__dict__", ()))
    if dataclasses.is_dataclass(part):
        names = [field.name for field in dataclasses.fields(part)]  # they may have slots
    return {name: _settings(getattr(part, name, None), seen) for name in names}


def _variable_in(text: str, secrets: Mapping[str, str]) -> str | None:
    """Return the variable whose value a text holds, empty for the shape of a key; None where it holds neither."""
    found = next((name for value, name in secrets.items() if value in text), None)
    return "" if found is None and KEY_SHAPES.search(text) else found
