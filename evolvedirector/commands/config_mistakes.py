"""Find the mistake in YAML files and flags that a parser refused, and say it in one paragraph.

jsonargparse reports a wrong option somewhere inside a dump of every type it tried. Here the same files and flags are
read again, next to the signatures of the classes they name, and the first thing that does not fit is reported with its
file, its path and the nearest valid name. Nothing here decides whether a config is valid: it only explains a refusal.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser
from omegaconf.errors import OmegaConfBaseException

from evolvedirector.commands.config_sources import sources
from evolvedirector.commands.readable_errors import ConfigurationMistake, nearest_name
from evolvedirector.store.paths import user_path

_NODE_KEYS = ("class_path", "init_args", "dict_kwargs")


@dataclass
class Search:
    """The state of one search: which class each path has been given so far (a later file or flag may leave it out)."""

    root_names: set[str]
    classes: dict[str, type] = field(default_factory=dict)


def explain_mistake(args: list[str], root_classes: dict[str, type], root_names: set[str], refusal: Exception) -> str:
    """Return one paragraph for a refused command line.

    Args:
        args: The command line, first word included.
        root_classes: Class whose arguments stand directly below a root key (`trainer`).
        root_names: Every valid root key.
        refusal: What the parser said; used where the search finds nothing.
    """
    search = Search(root_names, dict(root_classes))
    try:
        trees = list(sources(args))
        for source, tree in trees:
            _walk_root(source, tree, search)
        for source, tree in trees:
            _check_class_is_named(source, tree, search)
    except ConfigurationMistake as mistake:
        return str(mistake)
    if isinstance(refusal, OmegaConfBaseException):
        path = str(refusal.full_key or "").partition(".")[2]
        return (
            f"`{path}` cannot be filled in: {str(refusal).splitlines()[0]}. Name an option that exists, as ${{a.b.c}}."
        )
    missing = re.search(r"the following arguments are required: ([^\n]+)", str(refusal))
    if missing:
        keys = [re.sub(r"^(fit|validate|test|predict)\.", "", key) for key in missing.group(1).split(", ")]
        place = ".".join(re.findall(r'Parser key "([^"]+)"', str(refusal)))
        named, where = " and ".join(f"`{key}`" for key in keys), f" for `{place}`" if place else ""
        return f"{named} must be given{where}, and no file or flag gives it. Add a -c file or flag that does."
    return condense(str(refusal))


def condense(message: str) -> str:
    """Keep what matters of a parser's message: no list of types it tried, no dump of the value."""
    lines = [re.sub(r"^[\s-]+", "", line).strip() for line in message.splitlines()]
    noise = (
        "Does not validate",
        "Subtypes:",
        "Errors:",
        "Given value",
        "Expected a <class 'NoneType'>",
        "Expected a <class 'list'>",
        "Expected a path",
        "Not a valid subclass",
        "Subclass types expect",
        "a class path (str)",
        "a dict with",
    )
    kept = [line for line in dict.fromkeys(lines) if line and not line.startswith(noise)]
    text = " ".join(kept) or lines[0]
    text = re.sub(r"Does not validate against any of the Union subtypes", "", text)
    text = re.sub(r"typing\.Literal\[([^]]*)]", r"one of \1", text).replace("Expected a one of", "Expected one of")
    return re.sub(r"<class '([\w.]+)'>", r"\1", text)


def readable_type(hint: Any) -> str:
    """Write a type hint as people do: `int | None`, `one of 'a', 'b'`, `list[float]`."""
    if hint in (None, NoneType):
        return "null"
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(dict.fromkeys(readable_type(part) for part in get_args(hint)))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(value) for value in get_args(hint))
    if isinstance(hint, type) and get_origin(hint) is None:
        return hint.__name__
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(hint))


def _walk_root(source: str, tree: dict[str, Any], search: Search) -> None:
    for key, value in tree.items():
        if key not in search.root_names:
            shown = f"--{_dotted(tree)}" if source == "command line" else key
            raise ConfigurationMistake(
                f"{source}: `{shown}` is not an option.{nearest_name(str(key), search.root_names)}"
            )
        if key in search.classes and isinstance(value, dict) and "class_path" not in value and key == "trainer":
            _check_arguments(source, key, search.classes[key], value, search)
        else:
            _walk(source, key, value, None, search)


def _check_class_is_named(source: str, tree: dict[str, Any], search: Search) -> None:
    """Refuse settings of a class that nobody names: most often a file that belongs on top of others, given alone."""
    for key in ("model", "data"):
        if key in search.root_names and key not in search.classes and "init_args" in (tree.get(key) or {}):
            raise ConfigurationMistake(
                f"{source}: `{key}.init_args` is given, but no file or flag gives `{key}.class_path`. This file goes "
                f"on top of others, which come before it. {_command_in(source)}"
            )


def _command_in(source: str) -> str:
    """Quote the command in the head of a config file."""
    path = user_path(source)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    command = next((line.partition(":")[2].strip() for line in lines if line.startswith("# Command:")), "")
    return f"Write `{command}`." if command else "Give those with -c first."


def _walk(source: str, path: str, value: Any, hint: Any, search: Search) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _walk(source, f"{path}[{index}]", item, None, search)
    elif isinstance(value, str) and (path in ("model", "data") or path.endswith(".class_path")):
        search.classes[path] = _import_class(source, path, value)
    elif isinstance(value, dict):
        if "class_path" in value:
            search.classes[path] = _import_class(source, f"{path}.class_path", str(value["class_path"]))
        owner = search.classes.get(path)
        if owner is not None:
            _walk_node(source, path, owner, value, search)
            return
        group = next((part for part in _alternatives(hint) if is_dataclass(part)), None)
        if isinstance(group, type):
            _check_arguments(source, path, group, value, search)
            return
        values = next((get_args(part)[1] for part in _alternatives(hint) if get_origin(part) in (dict, Mapping)), None)
        if any(is_dataclass(part) for part in _alternatives(values)):
            for key, item in value.items():
                _walk(source, f"{path}.{key}", item, values, search)
            return
    if hint is not None:
        _check_type(source, path, value, hint)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types that a hint allows: the parts of a union, or itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _walk_node(source: str, path: str, owner: type, node: dict[str, Any], search: Search) -> None:
    flags = source == "command line"
    for key in node:
        if key not in _NODE_KEYS and not flags:
            raise ConfigurationMistake(
                f"{source}: `{path}.{key}` is not an option. Beside class_path stands only init_args."
                f"{nearest_name(key, _NODE_KEYS[:2])}"
            )
    arguments = node.get("init_args") or {}
    if isinstance(arguments, dict):
        _check_arguments(source, f"{path}.init_args", owner, arguments, search)
    if flags:
        rest = {key: value for key, value in node.items() if key not in _NODE_KEYS}
        _check_arguments(source, path, owner, rest, search)


def _check_arguments(source: str, path: str, owner: type, arguments: dict[str, Any], search: Search) -> None:
    parameters = dict(list(inspect.signature(owner.__init__).parameters.items())[1:])  # type: ignore[misc]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    try:
        hints = get_type_hints(owner.__init__)  # type: ignore[misc]
    except (NameError, TypeError):
        hints = {}
    for key, value in arguments.items():
        if key.removesuffix("+") not in parameters and not open_ended:
            shown = f"--{path}.{key}" if source == "command line" else f"{path}.{key}"
            raise ConfigurationMistake(
                f"{source}: `{shown}` is not an option of {owner.__name__}.{nearest_name(str(key), parameters)}"
            )
        _walk(source, f"{path}.{key}", value, hints.get(key.removesuffix("+")), search)


def _check_type(source: str, path: str, value: Any, hint: Any) -> None:
    if "${" in str(value):
        return  # an interpolation: its value is known only after merging
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=hint)
        parser.parse_object({"value": value})
    except ArgumentError as error:
        if isinstance(value, dict | list):
            detail = condense(str(error)).replace('Parser key "value":', "").strip()
            raise ConfigurationMistake(f"{source}: `{path}` does not fit {readable_type(hint)}: {detail}") from error
        raise ConfigurationMistake(
            f"{source}: `{path}` is {value!r}. It takes {readable_type(hint)}. Write a value of that type."
        ) from error
    except (ValueError, TypeError):
        return  # a hint that this small parser cannot hold; the real one decides


def _import_class(source: str, path: str, class_path: str) -> type:
    """Import a class by its path; a short name is left to the parser."""
    module_name, dot, name = class_path.rpartition(".")
    if not dot:
        raise ConfigurationMistake(
            f"{source}: `{path}` is `{class_path}`. A class is named with its module. Write a.b.{name}."
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        missing = getattr(error, "name", None) or module_name
        if not (module_name == missing or module_name.startswith(f"{missing}.")):
            raise ConfigurationMistake(
                f"{source}: `{path}` names `{class_path}`, whose module needs `{missing}`, which is not installed."
            ) from error
        raise ConfigurationMistake(
            f"{source}: `{path}` names `{class_path}`, but there is no module `{missing}`."
            f"{nearest_name(class_path, _near_modules(module_name, name))}"
        ) from error
    found = getattr(module, name, None)
    if found is None:
        classes = [f"{module_name}.{key}" for key, value in vars(module).items() if inspect.isclass(value)]
        near = difflib.get_close_matches(class_path, classes, n=1, cutoff=0.5)
        raise ConfigurationMistake(
            f"{source}: `{path}` names `{class_path}`, which does not exist.{nearest_name(class_path, near)}"
        )
    return found


def _near_modules(module_name: str, name: str) -> list[str]:
    """List class paths with the same class name below the nearest package that does exist."""
    parent, _, _ = module_name.rpartition(".")
    while parent:
        try:
            package = importlib.import_module(parent)
        except ImportError:
            parent, _, _ = parent.rpartition(".")
            continue
        return [f"{parent}.{key}" for key, value in vars(package).items() if inspect.isclass(value)]
    return []


def _dotted(tree: Any) -> str:
    parts = []
    while isinstance(tree, dict) and len(tree) == 1:
        key, tree = next(iter(tree.items()))
        parts.append(str(key))
    return ".".join(parts)
