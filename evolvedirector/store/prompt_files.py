"""Read the prompts that a user lists in a file: plain text, JSON, JSON lines, CSV, TSV or YAML.

The suffix, in any case, names the form, and the content must agree: a file is read as what it is or refused, never as
lines of something else, because each of its lines would be bought as an image.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from evolvedirector.records import Prompt
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.store.errors import StoreError
from evolvedirector.store.paths import user_path
from evolvedirector.store.prompt_fields import (
    PROMPT_WORDS,
    checked_prompt,
    decoded_text,
    record_skill,
    record_text,
    shown,
)

MAX_PROMPT_FILE_BYTES = 256 * 2**20
_MAX_LISTED = 20
_FORMS = {
    ".txt": "one prompt per line",
    ".jsonl": "one JSON object per line",
    ".ndjson": "one JSON object per line",
    ".json": "a JSON list of prompts",
    ".csv": "columns with a header",
    ".tsv": "columns with a header",
    ".yaml": "a YAML list of prompts",
    ".yml": "a YAML list of prompts",
}
_ALLOWED = f"Allowed are {', '.join(_FORMS)}, each in its own form"
_JSON_LINES = ("JSON lines", ".jsonl")
_LINE_END = re.compile(r"\r\n|\n|\r")  # str.splitlines would also cut at U+2028 and form feeds, within a prompt
_OPTION = re.compile(r"(?:^|\s)(--[A-Za-z][\w-]*)")
_PAGE = re.compile(r"<(?:!doctype|\?xml|html)\b", re.IGNORECASE)


class _Item(NamedTuple):
    """One prompt as a file gives it, before it is checked."""

    where: str
    value: Any
    """A text, or a mapping with a prompt and perhaps a skill; an error says why there is none."""


def read_prompts(source: PromptSource | str | Path) -> Sequence[Prompt]:
    """List the prompts of a file or of a source object.

    Args:
        source: A prompt file, or what lists its prompts itself.
    """
    return read_prompt_file(source) if isinstance(source, str | Path) else source.prompts()


def read_prompt_file(path: str | PathLike[str]) -> list[Prompt]:
    """Read a prompt list; duplicates are kept for the caller to count.

    Args:
        path: `.txt` with one prompt per line; `.jsonl` or `.ndjson` with one object per line; `.json` with a list, with
            an object whose `prompts` is one, or with JSON lines; `.csv` or `.tsv` with a header; `.yaml` or `.yml` with
            a list or with `prompts:`. Records have `prompt` (or `text`, or `caption`) and optionally `skill`. A name
            without a suffix is read as `.txt`. In a text file, empty lines and lines that begin with `# ` or `//` are
            left out, and a line with options such as `--n blurry` is refused.

    Raises:
        UserError: If the path cannot be meant, see `user_path`.
        StoreError: If the file is missing, not UTF-8, in another form than its suffix says, empty, or an entry is
            unreadable or longer than `MAX_PROMPT_CHARACTERS`; all such entries are named.
    """
    path = user_path(path)
    form = _form_of(path)
    text = _text_of(path)
    prompts, problems, count = [], [], 0
    for item in _items(form, text, path):
        count += 1
        try:
            prompts.append(_prompt_of(item.value))
        except (ValueError, StoreError) as error:
            problems.append(f"{item.where}: {error}")
    if problems:
        more = f"\n... and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
        raise StoreError(
            f"{len(problems)} of {count} entries of '{path}' cannot be used. Correct or remove them.\n"
            + "\n".join(problems[:_MAX_LISTED])
            + more
        )
    if not prompts:
        raise StoreError(f"The prompt file '{path}' holds no prompt. At least one is needed. Write {_FORMS[form]}.")
    return prompts


def _form_of(path: Path) -> str:
    suffix = path.suffix.lower() or ".txt"
    if suffix not in _FORMS:
        raise StoreError(
            f"The prompt file '{path}' has the unknown suffix '{path.suffix}'. {_ALLOWED}. Convert it, or rename it to"
            " what it is."
        )
    return suffix


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PROMPT_FILE_BYTES + 1)
        if len(data) > MAX_PROMPT_FILE_BYTES:
            raise StoreError(f"it has more than {MAX_PROMPT_FILE_BYTES} bytes")
        return decoded_text(data)
    except (OSError, StoreError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StoreError(
            f"The prompt file '{path}' cannot be read: {reason}. {_ALLOWED}. Name an existing UTF-8 file."
        ) from error


def _items(form: str, text: str, path: Path) -> Iterable[_Item]:
    """List what a file gives, by its form."""
    if _PAGE.match(text.lstrip()):
        raise _other_form(path, form, "an HTML or XML page", None)
    if form == ".txt":
        return _lines(text, path)
    apparent = _form_of_text(text, [line.strip() for line in _LINE_END.split(text) if line.strip()])
    if apparent is not None and not _agree(form, apparent[1]):
        raise _other_form(path, form, *apparent)
    if form in (".csv", ".tsv"):
        return _rows(text, path, form)
    if form in (".yaml", ".yml"):
        return _listed(_yaml(text, path), path)
    if apparent is None and text.strip() and text.lstrip()[0] not in '{["':
        raise _other_form(path, form, "plain text", ".txt")
    if form != ".json" or apparent == _JSON_LINES:
        return _json_lines(text)
    document = _json(text or "[]")
    if isinstance(document, ValueError):
        raise StoreError(
            f"The prompt file '{path}' is not valid JSON: {document}. {_ALLOWED}. Correct it there."
        ) from document
    return _listed(document, path)


def _agree(form: str, apparent: str) -> bool:
    """Say whether a suffix may name a content; JSON is YAML too, and a table says itself how it is parted."""
    same = {
        ".ndjson": (".jsonl",),
        ".json": (".json", ".jsonl"),
        ".yml": (".yaml", ".json"),
        ".yaml": (".yaml", ".json"),
    }
    return apparent in same.get(form, (form,))


def _other_form(path: Path, form: str, what: str, suffix: str | None) -> StoreError:
    mend = f"Rename it to '{path.with_suffix(suffix).name}'" if suffix else "Write its prompts into such a file"
    return StoreError(
        f"The prompt file '{path}' is {what}, not {_FORMS[form]}. {_ALLOWED}. {mend}, or write {_FORMS[form]}."
    )


# ---- text


def _lines(text: str, path: Path) -> Iterator[_Item]:
    lines = [(number, line.strip()) for number, line in enumerate(_LINE_END.split(text), 1)]
    written = [line for _, line in lines if line]
    if other := _form_of_text(text, written):
        raise _other_form(path, ".txt", *other)
    for number, line in lines:
        if not line or line.startswith("//") or line == "#" or line.startswith(("# ", "#\t", "##")):
            continue
        yield _Item(f"line {number}", _plain(line))


def _plain(line: str) -> str | StoreError:
    """Return a line of a text file, or why it is none that can be drawn as it stands."""
    if option := _OPTION.search(line):
        return StoreError(
            f"it has the option '{option[1]}', and options are not read. Remove '{option[1]}' and what belongs to it."
        )
    if line.startswith("#"):
        return StoreError(
            "it begins with '#'. Write '# ' for a line to leave out; a prompt that begins so goes into .jsonl."
        )
    if isinstance(_json(line) if line.startswith("{") else None, dict):
        return StoreError("it is a JSON object among plain lines. Put such lines into a file of their own, .jsonl.")
    return line


def _form_of_text(text: str, written: list[str]) -> tuple[str, str] | None:
    """Name the other form that the content of a text file plainly has, and its suffix."""
    if not written:
        return None
    first = written[0]
    if first[0] in "{[":
        if isinstance(_json(first), dict):
            return ("JSON", ".json") if isinstance(_json(text), dict) and "prompts" in _json(text) else _JSON_LINES
        if first in ("{", "[") or not isinstance(_json(text), ValueError):
            return "JSON", ".json"
    plain = [line for line in written if not line.startswith("#")]
    if plain and (plain[0] == "---" or re.match(r"prompts\s*:\s*(\[.*)?$", plain[0])):
        return "YAML", ".yaml"
    if plain and all(line.startswith("- ") for line in plain):
        return "a YAML list", ".yaml"
    for delimiter, name, suffix in ((",", "CSV", ".csv"), (";", "CSV", ".csv"), ("\t", "TSV", ".tsv")):
        if _is_header(written, delimiter):
            return f"{name} with a header", suffix
    return None


def _is_header(written: list[str], delimiter: str) -> bool:
    """Say whether the first line names columns, and the next ones have as many."""
    try:
        first, *rows = list(csv.reader(written[:20], delimiter=delimiter))
    except csv.Error:
        return False
    names = [name.strip().lower() for name in first]
    return any(word in names for word in PROMPT_WORDS) and all(len(row) == len(names) for row in rows)


# ---- JSON and YAML


def _json(text: str) -> Any:
    """Read one JSON document; what is none is returned as the error that says why."""
    try:
        return json.loads(text)
    except RecursionError:
        return ValueError("it is nested too deeply")
    except ValueError as error:
        return error


def _json_lines(text: str) -> Iterator[_Item]:
    for number, line in enumerate(_LINE_END.split(text), 1):
        if not line.strip():
            continue
        value = _json(line.lstrip("\ufeff"))
        if not isinstance(value, dict | ValueError):
            value = ValueError('it is no object. Write a line such as {"prompt": "a red circle"}')
        yield _Item(f"line {number}", value)


def _yaml(text: str, path: Path) -> Any:
    try:
        return yaml.safe_load(text)  # the loader in C is faster, and crashes where brackets are nested deeply
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or (
            "it is nested too deeply" if isinstance(error, RecursionError) else str(error).split("\n")[0]
        )
        raise StoreError(
            f"The prompt file '{path}' is not valid YAML{where}: {reason}. {_ALLOWED}. Correct it there."
        ) from error


def _listed(document: Any, path: Path) -> Iterator[_Item]:
    """Go through a list of prompts, or the one under `prompts`; a single record is a list of one."""
    if isinstance(document, dict):
        if "prompts" not in document and any(word in document for word in PROMPT_WORDS):
            document = [document]
        else:
            document = document.get("prompts")
    if not isinstance(document, list):
        raise StoreError(
            f"The prompt file '{path}' holds no list of prompts. {_ALLOWED}. Write a list, or an object whose `prompts`"
            " is one."
        )
    for number, value in enumerate(document, 1):
        known = isinstance(value, str | dict)
        yield _Item(f"entry {number}", value if known else ValueError(f"{shown(value)} is no text"))


# ---- tables


def _rows(text: str, path: Path, form: str) -> Iterator[_Item]:
    """Go through a table; a row with more or fewer fields than the header has lost a quote, and is refused."""
    delimiter = "\t" if form == ".tsv" else _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    try:
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            if names is None:
                names = _header(row, path)
            elif len(row) != len(names):
                wrong = ValueError(f"it has {len(row)} fields, the header has {len(names)}. Quote texts with commas")
                yield _Item(f"line {reader.line_num}", wrong)
            else:
                yield _Item(f"line {reader.line_num}", dict(zip(names, row, strict=True)))
    except csv.Error as error:
        raise StoreError(
            f"The prompt file '{path}' cannot be read at line {reader.line_num}: {error}. {_ALLOWED}. Correct the"
            " quotes there."
        ) from error


def _delimiter(text: str) -> str:
    """Return what parts the columns of a .csv: spreadsheets of half the world write semicolons."""
    first = text.lstrip().split("\n")[0].lower()
    names = {sign: {name.strip().strip('"') for name in first.split(sign)} for sign in (",", ";")}
    return next((sign for sign, found in names.items() if found & set(PROMPT_WORDS)), ",")


def _header(row: list[str], path: Path) -> list[str]:
    names = [name.strip().lower() for name in row]
    named = [name for name in names if name]
    if not set(names) & set(PROMPT_WORDS) or len(set(named)) < len(named):
        raise StoreError(
            f"The table '{path}' begins with the columns {', '.join(map(shown, row))}. Allowed is a header with each"
            " name once and one of prompt, text and caption. Write 'prompt,skill' into its first line."
        )
    return names


def _prompt_of(value: Any) -> Prompt:
    """Make a prompt of a text or a record.

    Raises:
        ValueError: It has no prompt, or one that is no text.
    """
    if isinstance(value, Exception):
        raise value
    if isinstance(value, str):
        return checked_prompt(value)
    return checked_prompt(record_text(value), record_skill(value))
