"""How suites of one class are told apart: in keys of figures, and where they keep what they bought."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.evaluation.suite import Outcome, Suite

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,100}")


def repeated_suites(suites: Mapping[str, Suite], before: Iterable[Mapping[str, Suite]] = ()) -> frozenset[str]:
    """Name the suites whose class has stood in the run before: the first of a class has its keys, these others.

    Args:
        suites: Of one callback, by name.
        before: Of the callbacks before it.

    Raises:
        UserError: A name stands in two callbacks, or one of these is no name for a folder.
    """
    earlier = list(before)
    for name in suites:
        if any(name in others for others in earlier):
            raise UserError(
                f"suites.{name} stands in two callbacks, whose figures would have the same names. Allowed is each name "
                f"once. Write another one there, as `{name}_2`."
            )
    seen = [suite for others in earlier for suite in others.values()]
    repeated = set()
    for name, suite in suites.items():
        if any(isinstance(suite, type(other)) or isinstance(other, type(suite)) for other in seen):
            repeated.add(name)
            if not _PLAIN.fullmatch(name):
                raise UserError(
                    f"suites.{name!r} is the second {type(suite).__name__} of the run, so that its name tells keys and "
                    "a folder apart. Allowed are letters, digits, '_' and '-'. Write `second`, say."
                )
        seen.append(suite)
    return frozenset(repeated)


def folders_of(root: Path, name: str, repeated: bool) -> tuple[Path, Path | None]:
    """Return where a suite keeps what it bought, and where the first of its class does; None where it is that one.

    Args:
        root: Folder of the run.
        name: Of the suite.
        repeated: Whether its class has stood before.
    """
    first = root / "evaluation"
    return (first / "suites" / name, first) if repeated else (first, None)


def summary_of(name: str, outcome: Outcome, repeated: bool) -> dict[str, Any]:
    """Return what a suite adds to `summary.json`; with its name before each key where its class has stood before.

    Args:
        name: Of the suite.
        outcome: Its last figures.
        repeated: Whether its class has stood before.
    """
    return {f"{name}/{key}" if repeated else key: value for key, value in outcome.summary.items()}


def logged_of(name: str, outcome: Outcome, repeated: bool) -> dict[str, float | None]:
    """Return what a suite tells the loggers, under whole names.

    Args:
        name: Of the suite.
        outcome: Its figures.
        repeated: Whether its class has stood before.
    """
    if outcome.logged is None:
        return {f"{name}/{row}": figure.value for row, figure in outcome.rows.items()}
    return {f"{name}/{key}" if repeated else key: value for key, value in outcome.logged.items()}
