"""Put a page together: template, data, pictures and the plotting library, in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import uuid4

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from evolvedirector.report.compare import compare_runs
from evolvedirector.report.gather import gather
from evolvedirector.report.headline import duration, interval, money, percent
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.thumbnails import Thumbnails

_FOR_SCRIPTS = ("charts", "film", "pairs", "lineage", "runs")
"""Parts of a page that its script draws; the rest is written by the template."""

_UNFIT = (TypeError, ValueError, KeyError, AttributeError, UndefinedError)
"""What a `summary.json` that was changed by hand may raise."""


def build_report(run: RunFolder, thumbnails: Thumbnails | None = None, live: str | None = None) -> str:
    """Return the page of one run as HTML.

    Args:
        run: The run.
        thumbnails: Keeps small pictures from one page to the next. None: they are made again.
        live: What the page is compared with to see that it is old. None: the page never asks.
    """
    thumbnails = thumbnails or Thumbnails()
    try:
        return _render("report.html", gather(run, thumbnails), thumbnails.urls(), live)
    except _UNFIT:
        if not run.summary():
            raise
        # a summary.json that was changed by hand: everything else can still be told
        return _render("report.html", gather(run, thumbnails, use_summary=False), thumbnails.urls(), live)


def build_comparison(runs: list[RunFolder]) -> str:
    """Return the page that shows runs side by side.

    Args:
        runs: Two or more runs.
    """
    thumbnails = Thumbnails()
    thumbnails.start()
    try:
        return _render("comparison.html", compare_runs(runs, thumbnails), thumbnails.urls(), None)
    except _UNFIT:
        told = [place for place, run in enumerate(runs) if run.summary()]
        if not told:
            raise
        damaged = [place for place in told if not _can_be_shown(runs[place])] or told
        return _render("comparison.html", compare_runs(runs, thumbnails, damaged), thumbnails.urls(), None)


def _can_be_shown(run: RunFolder) -> bool:
    try:
        _render("report.html", gather(run, Thumbnails(0)), {}, None)
    except _UNFIT:
        return False
    return True


def write_page(path: Path, page: str) -> None:
    """Write a page in one step: a reader sees the old one or the new one, never a torn one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        partial.write_text(page, encoding="utf-8", errors="replace", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _render(template: str, page: dict[str, Any], pictures: dict[str, str], live: str | None) -> str:
    data = {name: page[name] for name in _FOR_SCRIPTS if name in page} | {"pictures": pictures}
    scripts = [_plotly(), _asset("report.js")]
    allowed = " ".join(_hash(script) for script in scripts)
    connect = " connect-src 'self';" if live is not None else ""
    # plotly sets style attributes and a style sheet of its own, so styles are allowed inline; scripts only by hash
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed};{connect} "
        "base-uri 'none'; form-action 'none'"
    )
    return _environment().get_template(template).render(
        page=page, policy=policy, live=live, style=Markup(_asset("report.css")),
        scripts=[Markup(script) for script in scripts], data=Markup(for_script(data)),
    )  # fmt: skip


def render_static(template: str, page: dict[str, Any]) -> str:
    """Return a page without scripts: its pictures stand in it as they are.

    Args:
        template: Its name; it extends `base.html`.
        page: What it shows; `built` and `artwork` are at its foot.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return (
        _environment()
        .get_template(template)
        .render(page=page, policy=policy, live=None, style=Markup(_asset("report.css")), scripts=[], data="")
    )


def for_script(value: Any) -> str:
    """Write a value as JSON that no text in it can end: `<`, `>` and `&` are escaped, as are line separators."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evolvedirector.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "money": money, "duration": duration}
    return environment


@cache
def _asset(name: str) -> str:
    return resources.files("evolvedirector.report").joinpath("page", name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """Return the drawing library that the installed plotly package brings."""
    return resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
