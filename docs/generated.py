"""Fill in what pages show of other files (recipes, the command line), so that the two cannot differ.

A page asks with a line `<!-- generated: recipes -->`. The site builder calls the functions named `on_...`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_SHIM = "https://unpkg.com/iframe-worker/shim"
_FIELDS = ("Trains", "Model", "Strategy", "Logs", "When", "Hardware", "Downloads", "Command", "Use", "Learning rate")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace every marker of a page by what it names.

    Args:
        markdown: The page as it was written.

    Raises:
        KeyError: A marker names nothing that can be generated.
    """
    filled = _MARKER.sub(lambda found: _SOURCES[found.group(1)](), markdown)
    # the site holds no code: a link into it becomes the file's name
    return re.sub(r"\[([^\]]+)\]\(\.\./([a-z_/]+\.py)\)", r"\1 (\2)", filled)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Load a script of our own where the theme would fetch one from the network, to make search work from disk.

    Args:
        output: The page as HTML.
        page: Says where the page lies.
    """
    return output.replace(_SHIM, "../" * page.url.count("/") + "file_search.js")


def on_post_template(output_content: str, **_: Any) -> str:
    """Do the same for the page that servers show for what does not exist.

    Args:
        output_content: What the template became.
    """
    return output_content.replace(_SHIM, "file_search.js")


def header_fields(text: str) -> dict[str, str]:
    """Read the comment that a recipe begins with: its named fields, and the remaining sentences under `Notes`.

    Args:
        text: The recipe.
    """
    fields: dict[str, list[str]] = {}
    name = "Notes"
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        begins = re.match(rf"# ({'|'.join(_FIELDS)}): ", line)
        name = begins.group(1) if begins else name if line.startswith("#  ") else "Notes"
        said = line[begins.end() :] if begins else line[1:].strip()
        first, split, downloads = said.partition(" Downloads: ")
        fields.setdefault(name, []).append(first)
        if split:
            name = "Downloads"
            fields.setdefault(name, []).append(downloads)
    return {name: " ".join(parts) for name, parts in fields.items()}


def recipes() -> str:
    """Describe every recipe by its own header."""
    from evolvedirector.configs import path as configs
    from evolvedirector.configs import recipe_files

    folder = configs()
    paths = sorted(recipe_files(), key=lambda path: (path.parent != folder, path))
    return "\n\n".join(
        _recipe(f"configs/{path.relative_to(folder).as_posix()}", path.read_text("utf-8")) for path in paths
    )


def _recipe(name: str, text: str) -> str:
    fields = header_fields(text)
    command = fields.pop("Command", fields.pop("Use", ""))
    lines = [f"- **{field}**: {said}" for field, said in fields.items() if field != "Notes"]
    if "Notes" in fields:
        lines.append(f"- {fields['Notes']}")
    return "\n".join([f"### {name}", "", *lines, "", "```text", _wrapped(command), "```"])


def _wrapped(command: str) -> str:
    """Break a long command before its flags, as a shell reads it."""
    return command.replace("  ", " ").replace(" --model", " \\\n    --model").replace(" --data ", " \\\n    --data ")


def main_path() -> str:
    """Count the files that the page on architecture links, and their lines, beside what they were before the rooms."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    files = list(dict.fromkeys(path for _, path in code_links(page)))
    lines = sum(len((ROOT / path).read_text("utf-8").splitlines()) for path in files)
    return (
        "| | files | lines |\n|---|---|---|\n| before the rooms | 36 | 6,100 |\n"
        f"| now | {len(files)} | {lines:,} |\n| aim | 12 | 3,000 |"
    )


def code_links(page: str) -> list[tuple[str, str]]:
    """List (name, file) of every link of a page into the code.

    Args:
        page: As it was written.
    """
    found = re.findall(r"\[([^\]]+)\]\(\.\./([a-z_/]+\.py)\)", page)
    return [(name, path) for names, path in found for name in re.findall(r"`(\w+)`", names)]


def words() -> str:
    """Show the help of the command line."""
    from evolvedirector.cli import HELP

    return f"```text\n{HELP}\n```"


_SOURCES: Mapping[str, Callable[[], str]] = {"recipes": recipes, "words": words, "main_path": main_path}
