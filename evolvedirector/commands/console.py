"""What reaches the screen of a run: everything once, in sentences, nothing that another line says already."""

from __future__ import annotations

import logging
import os
import re
import shutil
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

QUIET_LINES = (
    (r"litlogger|litmodels", "an advertisement"),
    (r"^(GPU|TPU|HPU|IPU) available: ", "the opening line of a run names its devices"),
    (r"^LOCAL_RANK: \d+ - CUDA_VISIBLE_DEVICES", "likewise"),
    (r"^(\[rank: \d+\] )?Seed set to ", "the seed stands in config.yaml"),
    (r"^`Trainer.fit` stopped: `max_(steps|epochs)=", "the closing line of a run says so"),
    (r"^Restor(ing|ed all) states from the checkpoint", "`Going on from ...` says so"),
)
"""Lines of Lightning that are left out, each with its reason."""
QUIET_WARNINGS = (
    (r".*LeafSpec.*", FutureWarning, "Lightning 2.6 walks pytrees with a class that torch 2.13 deprecates"),
)
"""Warnings of other packages that nobody here can act on, each with its reason; all others are shown."""
_LIGHTNING_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")
_PATTERN = re.compile("|".join(f"(?:{pattern})" for pattern, _ in QUIET_LINES))


def plain_console(width: int | None = None) -> Console:
    """Return a console that shows names as they are: brackets are no markup and `:smile:` is no picture.

    Skills, folders and names of judges come from users; each table of a command is printed through here.

    Args:
        width: In columns. None: the terminal's, or all that a line needs where there is none.
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, width=width)


@contextmanager
def readable_console() -> Iterator[None]:
    """Leave out the lines listed above and print warnings as sentences; EVOLVEDIRECTOR_DEBUG=1 shows all as it is.

    Only how a warning is printed changes, not whether: filters, `-W error` and recording work as ever.
    """
    if os.environ.get("EVOLVEDIRECTOR_DEBUG") == "1":
        yield
        return
    handlers = [handler for name in _LIGHTNING_LOGGERS for handler in logging.getLogger(name).handlers]
    for handler in handlers:
        handler.addFilter(_is_news)
    written = warnings.formatwarning
    warnings.formatwarning = format_warning
    filters = list(warnings.filters)
    for pattern, category, _ in QUIET_WARNINGS:
        warnings.filterwarnings("ignore", pattern, category)
    try:
        yield
    finally:
        warnings.formatwarning = written
        warnings.filters[:] = filters  # type: ignore[index]
        for handler in handlers:
            handler.removeFilter(_is_news)


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Write a warning as a wrapped sentence; one that is not a plain `UserWarning` names its kind and its package.

    Args:
        message: What it says.
        category: Its kind.
        filename: Where it was raised.
        lineno: The line there.
        line: Source of that line; not shown.
    """
    package = re.search(r"site-packages[/\\](\w+)", filename)
    kind = "" if category is UserWarning else f" ({category.__name__}{f' of {package.group(1)}' if package else ''})"
    width = max(60, min(120, shutil.get_terminal_size((120, 24)).columns))
    text = f"Warning{kind}: {' '.join(str(message).split())}"
    return "\n".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)) + "\n"


def _is_news(record: logging.LogRecord) -> bool:
    return _PATTERN.search(record.getMessage()) is None
