"""Old names that still load for one release, each with a warning that prints the new line.

One table, `renamed.yaml`, serves Python (`import` finds old modules, packages find old classes), YAML and checkpoints
(class paths are imported, arguments of configs are rewritten while they are read) and `docs/upgrading.md`.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_ROOT = "evolvedirector"


@functools.cache
def table() -> dict[str, Any]:
    """Read the table: `modules`, `classes`, `models`, `arguments` and `without_class`, as the file describes them."""
    import yaml

    read: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return read


def new_name(dotted: str) -> str | None:
    """Return where a module or class is now; None for a name that did not change.

    Args:
        dotted: A full import name, such as `evolvedirector.miniature.MiniatureJudge`.
    """
    name = dotted.removeprefix(f"{_ROOT}.")
    for renamed in (table()["classes"], table()["modules"]):
        if name in renamed:
            return f"{_ROOT}.{renamed[name]}"
    module, _, last = name.rpartition(".")
    moved = table()["modules"].get(module)
    return f"{_ROOT}.{moved}.{last}" if moved else None


def old_attribute(module: str, name: str) -> Any:
    """Find what a module once held under this name; the body of a module's `__getattr__`.

    Args:
        module: Full name of the module that is asked.
        name: What is asked of it.

    Raises:
        AttributeError: It never held that.
    """
    new = None if name.startswith("__") else new_name(f"{module}.{name}")
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    holder, _, attribute = new.rpartition(".")
    try:
        found = getattr(importlib.import_module(holder), attribute)
    except AttributeError:
        raise AttributeError(f"module {module!r} has no attribute {name!r}") from None
    # a module that became a package of the same name: what lies inside of it may be asked of the package for good
    stays = attribute == name and holder.startswith(f"{module}.")
    if not isinstance(found, ModuleType) and not stays:
        warn(f"{module}.{name}", new)
    return found


def warn(old: str, new: str) -> None:
    """Say that a name is old, and the line to write.

    Args:
        old: As it was written.
        new: What to write instead.
    """
    warnings.warn(f"{old} is an old name, which the next release drops. Write {new}.", FutureWarning, stacklevel=4)


def renew(tree: Any, place: str = "") -> Any:
    """Rewrite old class paths, arguments and model names of a config; each one that was found is warned of.

    Args:
        tree: A config as it was read, or a part of one.
        place: Dotted place of the part in the whole; empty for the whole.
    """
    if isinstance(tree, list):
        return [renew(item, f"{place}[{index}]") for index, item in enumerate(tree)]
    if isinstance(tree, str) and tree in table()["models"]:
        warn(tree, table()["models"][tree])
        return table()["models"][tree]
    if not isinstance(tree, dict):
        return tree
    tree = {key: renew(value, f"{place}.{key}" if place else str(key)) for key, value in tree.items()}
    written = tree.get("class_path")
    if isinstance(written, str) and (new := new_name(written)) is not None:
        warn(f"class_path: {written}", f"class_path: {new}")
        tree["class_path"] = new
    rules = table()["arguments"].get(str(tree.get("class_path", "")).removeprefix(f"{_ROOT}."))
    if rules is None and "class_path" not in tree:  # a file that changes some arguments of a class that another names
        rules = table()["without_class"].get(place)
    if rules and isinstance(tree.get("init_args"), dict):
        tree["init_args"] = _renew_arguments(tree["init_args"], rules)
    return tree


def renew_flags(words: Sequence[str]) -> list[str]:
    """Rewrite old arguments in flags such as `--model.init_args.transformer.init_args.depth=4`.

    Args:
        words: A command line.
    """
    renewed = []
    for word in words:
        for place, rules in table()["without_class"].items():
            for old, new in rules.items():
                start = f"--{place}.init_args.{old}"
                if (isinstance(new, str) and word.startswith((f"{start}.", f"{start}="))) or word == start:
                    changed = f"--{place}.init_args.{new}{word[len(start) :]}"
                    warn(word, changed)
                    word = changed
        renewed.append(word)
    return renewed


def _renew_arguments(arguments: dict[str, Any], rules: dict[str, Any]) -> dict[str, Any]:
    """Put each old argument where it is now.

    Args:
        arguments: Of one class.
        rules: Old argument to its new dotted place, or to `{unless: default, adds: {argument: word}}` for a switch that
            became a word of a list, or to `{unless: default, sets: {place: value}}`.
    """
    kept = {key: value for key, value in arguments.items() if key not in rules}
    for old, new in rules.items():
        if old not in arguments:
            continue
        value = arguments[old]
        if isinstance(new, str):
            if value is None and "." in new:
                continue  # the default, written out
            warn(f"{old}: ...", _line(new, "..."))
            _place(kept, new.split("."), value)
            continue
        if value == new["unless"]:
            continue
        for argument, word in new.get("adds", {}).items():
            warn(f"{old}: {value}", f"`{argument}: [{word}]`")
            kept[argument] = [*kept.get(argument, []), word]
        for argument, constant in new.get("sets", {}).items():
            warn(f"{old}: {value}", _line(argument, constant))
            _place(kept, argument.split("."), constant)
    return kept


def _line(place: str, value: Any) -> str:
    """Write a dotted place as YAML in one line: `pace: {early_share: ...}`."""
    return f"`{place.replace('.', ': {')}: {value}{'}' * place.count('.')}`"


def _place(tree: dict[str, Any], path: Iterable[str], value: Any) -> None:
    *folders, last = path
    for folder in folders:
        tree = tree.setdefault(folder, {})
    if isinstance(value, dict) and isinstance(tree.get(last), dict):
        tree[last] |= value
    else:
        tree[last] = value


class OldModules(MetaPathFinder):
    """Find modules under their old names: behind all other finders, so that it is asked only where nothing is."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a module that hands on what is asked of it."""
        if not fullname.startswith(f"{_ROOT}."):
            return None
        modules = table()["modules"]
        name = fullname.removeprefix(f"{_ROOT}.")
        if name not in modules:
            return None
        return ModuleSpec(fullname, _Handing(), is_package=any(old.startswith(f"{name}.") for old in modules))


class _Handing(Loader):
    """Fill a module under an old name: every attribute comes from the new module, with a warning."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        asked: Callable[[str], Any] = functools.partial(old_attribute, module.__name__)
        module.__dict__["__getattr__"] = asked


def install() -> None:
    """Let old module names be imported; calling it twice changes nothing."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules())
