"""Bring the user's own data in: prompt lists, captioned pictures, foreign WebDataset tars become revision 1."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from evolvedirector.records import (
    MAX_PROMPT_CHARACTERS,
    UNLABELLED,
    FileRef,
    Prompt,
    RevisionChange,
    Sample,
    check_role,
)
from evolvedirector.store.dataset import DatasetStore
from evolvedirector.store.errors import StoreError
from evolvedirector.store.files import MEDIA_TYPES, checked_file
from evolvedirector.store.images import MAX_IMAGE_BYTES, check_image
from evolvedirector.store.tar_stream import stream_tars

GIVEN = "given"
"""Name of the teacher of images that the user brought."""
ROUND_ID = "import"
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_IMAGES_PER_WRITE = 64
_MAX_LISTED = 20


@dataclass
class ImportReport:
    """What an import did: for the user to read."""

    prompts: int = 0
    images: int = 0
    duplicates: int = 0
    held_out: int = 0
    problems: list[str] = field(default_factory=list)
    """What was skipped, with its place and reason."""
    revision_sha: str = ""


class CaptionedImage(NamedTuple):
    """One picture with its caption, from anywhere."""

    where: str
    caption: str
    image: bytes
    skill: str = UNLABELLED
    files: Mapping[str, FileRef] = MappingProxyType({})
    """Further files by role, each with its content: a mask, a source."""


def read_prompt_file(path: str | Path) -> list[Prompt]:
    """Read a prompt list; duplicates are kept for the caller to count.

    Args:
        path: A text file with one prompt per line, or a `.jsonl` file whose lines have `prompt` (or `text`) and
            optionally `skill`.

    Raises:
        StoreError: If the file is missing, empty or not UTF-8, or a line is unreadable or longer than
            `MAX_PROMPT_CHARACTERS`; all such lines are named.
    """
    path = Path(path)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"The prompt file '{path}' cannot be read: {error}. Name an existing UTF-8 text file with one prompt per"
            " line, or a .jsonl file."
        ) from error
    prompts, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text, skill = _parse_json_line(line) if path.suffix == ".jsonl" else (line.strip(), UNLABELLED)
            prompts.append(checked_prompt(text, skill))
        except (ValueError, StoreError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise StoreError(
            f"{len(problems)} of {len(lines)} lines of '{path}' cannot be used. Correct or remove them.\n"
            + "\n".join(problems[:_MAX_LISTED])
        )
    if not prompts:
        raise StoreError(f"The prompt file '{path}' holds no prompt. Write one per line.")
    return prompts


def checked_prompt(text: str, skill: str = UNLABELLED) -> Prompt:
    """Make a seed prompt, refusing an empty or over-long text."""
    text = " ".join(text.split())
    if not text:
        raise StoreError("The prompt is empty.")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise StoreError(f"The prompt has {len(text)} characters. At most {MAX_PROMPT_CHARACTERS} are allowed.")
    return Prompt.create(text, skill=skill)


def import_prompts(store: DatasetStore, prompts: Sequence[Prompt], held_out: Iterable[str] = ()) -> ImportReport:
    """Publish prompts as revision 1; their images are bought in the first rounds.

    Args:
        store: An open root without a revision.
        prompts: The seeds.
        held_out: Ids of prompts that must never enter.

    Raises:
        StoreError: If nothing is left to import or the root already has a revision.
    """
    report = ImportReport()
    kept = list(_new_prompts(prompts, set(held_out), report))
    if not kept:
        raise StoreError(
            f"There is no prompt to import: {report.duplicates} duplicates and {report.held_out} held-out prompts were"
            " skipped. Give at least one other prompt."
        )
    report.prompts = len(kept)
    return _publish(store, RevisionChange(prompts=tuple(kept)), report)


def import_images(store: DatasetStore, images: Iterable[CaptionedImage]) -> ImportReport:
    """Publish captioned pictures as revision 1; they are trained on as they are.

    Unreadable pictures and captions are listed in the report and skipped.

    Raises:
        StoreError: If none is usable or the root already has a revision.
    """
    _refuse_second_import(store)
    report = ImportReport()
    samples: list[Sample] = []
    seen: set[str] = set()
    waiting: list[tuple[Prompt, CaptionedImage]] = []

    def flush() -> None:
        names = store.blobs.put_many([item.image for _, item in waiting])
        files = iter(store.blobs.put_files([file for _, item in waiting for file in item.files.values()]))
        for (prompt, item), name in zip(waiting, names, strict=True):
            samples.append(Sample.create(prompt, name, GIVEN, {role: next(files) for role in item.files}))
        waiting.clear()

    for item in images:
        try:
            prompt = checked_prompt(item.caption, item.skill)
            check_image(item.image)
        except StoreError as error:
            report.problems.append(f"{item.where}: {error}")
            continue
        if prompt.id in seen:
            report.duplicates += 1
            continue
        seen.add(prompt.id)
        waiting.append((prompt, item))
        if len(waiting) == _IMAGES_PER_WRITE:
            flush()
    flush()
    if not samples:
        listed = "\n".join(report.problems[:_MAX_LISTED])
        raise StoreError(
            f"No captioned picture could be imported. Allowed are PNG, JPEG and WebP with a caption each.\n{listed}"
        )
    report.images = len(samples)
    return _publish(store, RevisionChange(samples=tuple(samples)), report)


def folder_images(pattern: str, problems: list[str]) -> Iterator[CaptionedImage]:
    """Read the pictures that a pattern such as `dir/**` matches, each with the caption in its `.txt` neighbour.

    Args:
        pattern: A glob; `**` goes through all folders below.
        problems: Pictures without a readable caption are noted here.

    Raises:
        StoreError: If the pattern matches no picture.
    """
    pattern = f"{pattern}/**" if Path(pattern).is_dir() else pattern
    paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    pictures = [path for path in paths if path.suffix.lower() in _PICTURES and path.is_file()]
    if not pictures:
        raise StoreError(
            f"The pattern '{pattern}' matches no picture. Name PNG, JPEG or WebP files, such as 'pictures/**', in"
            " quotes so that the shell leaves it alone."
        )
    for path in pictures:
        try:
            if path.stat().st_size > MAX_IMAGE_BYTES:
                raise StoreError(f"{path.stat().st_size} bytes are too large, at most {MAX_IMAGE_BYTES} are allowed.")
            if not path.with_suffix(".txt").exists():
                raise StoreError(f"it has no caption; write one into '{path.with_suffix('.txt').name}' beside it.")
            yield CaptionedImage(str(path), path.with_suffix(".txt").read_text("utf-8-sig"), path.read_bytes())
        except (OSError, UnicodeDecodeError, StoreError) as error:
            problems.append(f"{path}: {error}")


def tar_images(pattern: str, problems: list[str], roles: Sequence[str] = ()) -> Iterator[CaptionedImage]:
    """Stream the captioned pictures of local WebDataset tars, `x-{000..009}.tar`.

    The caption is the `txt` member, or `prompt`, `text` or `caption` of the `json` member, which may name a `skill`.

    Args:
        pattern: Local paths, with `{000..009}` expanded.
        problems: Samples that cannot be used are noted here.
        roles: Further files to keep of each sample, `mask` for a member `<key>.mask.png`; a sample without one of them
            is not imported. Empty: the picture alone.

    Raises:
        StoreError: If a tar cannot be read or a role cannot be used.
    """
    try:
        for role in roles:
            check_role(role)
    except ValueError as error:
        raise StoreError(str(error)) from error
    for sample in stream_tars(pattern):
        where = f"{sample['__url__']}:{sample['__key__']}"
        about = _json_object(sample.get("json", b"{}"))
        captions = [about.get(name) for name in ("prompt", "text", "caption")]
        caption = sample["txt"].decode("utf-8", "replace") if "txt" in sample else next(filter(None, captions), "")
        image = next((sample[name[1:]] for name in _PICTURES if name[1:] in sample), None)
        if image is None:
            problems.append(f"{where}: it has no png, jpg or webp member")
            continue
        try:
            files = {role: _file_of_role(sample, role) for role in roles}
        except StoreError as error:
            problems.append(f"{where}: {error}")
            continue
        yield CaptionedImage(where, str(caption), image, str(about.get("skill") or UNLABELLED), files)


def _file_of_role(sample: Mapping[str, Any], role: str) -> FileRef:
    """Check the one member of a role."""
    extensions = [extension for extension in (*MEDIA_TYPES, "jpeg") if f"{role}.{extension}" in sample]
    if len(extensions) != 1:
        raise StoreError(
            f"it has {len(extensions)} members '{role}.<extension>'; one is needed, as {', '.join(MEDIA_TYPES)}"
        )
    try:
        return checked_file(sample[f"{role}.{extensions[0]}"], extensions[0])
    except StoreError as error:
        raise StoreError(f"the role '{role}': {error}") from error


def _new_prompts(prompts: Sequence[Prompt], held_out: set[str], report: ImportReport) -> Iterator[Prompt]:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in held_out:
            report.held_out += 1
        elif prompt.id in seen:
            report.duplicates += 1
        else:
            seen.add(prompt.id)
            yield prompt


def _publish(store: DatasetStore, change: RevisionChange, report: ImportReport) -> ImportReport:
    _refuse_second_import(store)
    report.revision_sha = store.publish(None, ROUND_ID, change)
    return report


def _refuse_second_import(store: DatasetStore) -> None:
    if store.current() is not None:
        raise StoreError(
            f"'{store.root}' already holds revision {store.number(store.current() or '')}. An import makes revision 1"
            " of a new root. Name another folder."
        )


def _parse_json_line(line: str) -> tuple[str, str]:
    about = json.loads(line)
    text = about.get("prompt", about.get("text")) if isinstance(about, dict) else None
    if not isinstance(text, str):
        raise ValueError('it has no text under "prompt" or "text"')
    skill = about.get("skill") or UNLABELLED
    if not isinstance(skill, str):
        raise ValueError(f"the skill {skill!r} is no text")
    return text, skill


def _json_object(data: bytes) -> dict:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
