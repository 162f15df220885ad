"""Bring the user's own data in: prompt lists, captioned pictures, foreign WebDataset tars become revision 1."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from evolvedirector.records import (
    UNLABELLED,
    FileRef,
    Prompt,
    RevisionChange,
    Sample,
    check_role,
)
from evolvedirector.store.captions import CAPTION_SUFFIXES, CaptionFiles, caption_beside
from evolvedirector.store.dataset import DatasetStore
from evolvedirector.store.errors import StoreError
from evolvedirector.store.files import MEDIA_TYPES, checked_file
from evolvedirector.store.images import MAX_IMAGE_BYTES
from evolvedirector.store.left_out import first_lines
from evolvedirector.store.paths import matching_files
from evolvedirector.store.pictures import kept_picture, picture_extensions, refuse_large
from evolvedirector.store.prompt_fields import checked_prompt
from evolvedirector.store.prompt_files import read_prompt_file
from evolvedirector.store.tar_stream import TarSample, read_span, tar_caption, tar_samples

GIVEN = "given"
"""Name of the teacher of images that the user brought."""
ROUND_ID = "import"
_IMAGES_PER_WRITE = 64
_IF_THERE = "?"
"""Behind a role's name: of the samples that have it."""

__all__ = [
    "GIVEN",
    "CaptionedImage",
    "ImportReport",
    "checked_prompt",
    "folder_images",
    "import_images",
    "import_prompts",
    "read_prompt_file",
    "tar_images",
]


@dataclass
class ImportReport:
    """What an import did: for the user to read."""

    prompts: int = 0
    images: int = 0
    duplicates: int = 0
    """Of prompts; of pictures, those whose bytes and caption were there already (they are also among the problems)."""
    held_out: int = 0
    problems: list[str] = field(default_factory=list)
    """What was left out, with its place and reason."""
    notes: list[str] = field(default_factory=list)
    """What was taken, but not in every respect as it was given."""
    revision_sha: str = ""


class CaptionedImage(NamedTuple):
    """One picture with its caption, from anywhere."""

    where: str
    caption: str
    image: bytes
    skill: str = UNLABELLED
    files: Mapping[str, FileRef] = MappingProxyType({})
    """Further files by role, each with its content: a mask, a source."""
    extension: str = ""
    """Of its name, without the dot, for forms whose bytes do not tell what they are."""


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


def import_images(
    store: DatasetStore, images: Iterable[CaptionedImage], problems: list[str] | None = None
) -> ImportReport:
    """Publish captioned pictures as revision 1; they are trained on as they are.

    Unreadable pictures and captions are listed in the report and left out. See `kept_samples`.

    Args:
        store: An open root without a revision.
        images: Consumed one by one.
        problems: The list in which the reader of `images` notes what it leaves out, so that all of it stands in one
            list, the report's. None: a list of its own.

    Raises:
        StoreError: If none is usable, with the reasons, or the root already has a revision.
    """
    _refuse_second_import(store)
    report = ImportReport(problems=[] if problems is None else problems)
    samples = kept_samples(store, images, report)
    if not samples:
        what_now = f"Correct what is named here.\n{first_lines(report.problems)}" if report.problems else "Give one."
        raise StoreError(
            "No captioned picture could be imported. Allowed are pictures in a form that Pillow reads, with a caption"
            f" each. {what_now}"
        )
    report.images = len(samples)
    return _publish(store, RevisionChange(samples=tuple(samples)), report)


def kept_samples(store: DatasetStore, images: Iterable[CaptionedImage], report: ImportReport) -> list[Sample]:
    """Keep the bytes of captioned pictures, and return the samples that name them.

    Several pictures may have one caption: the first is the sample of its prompt, each further one a variant, named by
    its content. The text and skill of a prompt are those of its first picture. The same bytes (further files included)
    with the same caption are one sample.

    Args:
        store: Where the bytes are kept; nothing is published.
        images: Consumed one by one.
        report: Takes what is left out, duplicates and notes.
    """
    samples: list[Sample] = []
    prompts: dict[str, Prompt] = {}
    places: dict[str, str] = {}
    waiting: list[CaptionedImage] = []
    for given in images:
        try:
            asked, item = usable_image(given)
        except StoreError as error:
            report.problems.append(f"{given.where}: {error}")
            continue
        further = asked.id in prompts
        prompt = prompts.setdefault(asked.id, asked)
        sample = Sample.create(prompt, hashlib.sha256(item.image).hexdigest(), GIVEN, item.files)
        if sample.key in places:
            report.duplicates += 1
            report.problems.append(f"{item.where}: the same picture with the same caption as {places[sample.key]}")
            continue
        places[sample.key] = item.where
        if asked.skill not in (prompt.skill, UNLABELLED):
            report.notes.append(f"{item.where}: counted under '{prompt.skill}', as its caption is, not '{asked.skill}'")
        variant = sample.key.rpartition("-")[2] if further else ""
        samples.append(Sample.create(prompt, sample.image_sha256, GIVEN, item.files, variant))
        waiting.append(item)
        if len(waiting) == _IMAGES_PER_WRITE:
            _flush(store, waiting)
    _flush(store, waiting)
    return samples


def usable_image(item: CaptionedImage) -> tuple[Prompt, CaptionedImage]:
    """Check one picture and its caption; the picture comes back in a form that a shard can hold.

    Raises:
        StoreError: With the reason for which it cannot be used.
    """
    prompt = checked_prompt(item.caption, item.skill)
    return prompt, item._replace(image=kept_picture(item.image, item.extension))


def _flush(store: DatasetStore, waiting: list[CaptionedImage]) -> None:
    store.blobs.put_many([item.image for item in waiting])
    store.blobs.put_files([file for item in waiting for file in item.files.values()])
    waiting.clear()


@contextmanager
def new_root(root: Path) -> Iterator[DatasetStore]:
    """Open a root for an import; whatever it made goes again if nothing is published.

    Args:
        root: Folder of the dataset; made where there is none.

    Raises:
        StoreError: If it cannot be a root, see `DatasetStore`.
    """
    root = Path(root).absolute()
    try:
        before = set(os.listdir(root)) if root.is_dir() else set()
        made = [folder for folder in (root, *root.parents) if not folder.exists()]
    except OSError as error:
        raise StoreError(
            f"The folder '{root}' may not be opened: {error.strerror}. A dataset root is a folder that this user may"
            " write. Name another one."
        ) from error
    try:
        with DatasetStore(root, create=True) as store:
            try:
                yield store
            finally:
                if "format.json" not in before and store.current() is None:
                    _remove_all_but(before, root)
    finally:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _remove_all_but(names: set[str], folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name not in names:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def folder_images(pattern: str, problems: list[str]) -> Iterator[CaptionedImage]:
    """Read the pictures of a folder or a pattern such as `dir/**`, each with the caption in its `.txt` or `.json`.

    Args:
        pattern: A folder, a file or a pattern; see `matching_files`. Files are listed at once, and read one by one.
        problems: Pictures without a readable caption are noted here, and files that belong to no picture.

    Raises:
        StoreError: If nothing matches.
    """
    files = matching_files(pattern, problems)
    if not files:
        raise StoreError(
            f"The pattern '{pattern}' matches no picture. Name a folder, or files such as 'pictures/**', in quotes so"
            " that the shell leaves it alone."
        )
    return _captioned_files(files, problems)


def _captioned_files(files: Sequence[Path], problems: list[str]) -> Iterator[CaptionedImage]:
    captions, stems = CaptionFiles(), set()
    others: list[Path] = []
    for path in files:
        if path.suffix[1:].lower() not in picture_extensions():
            others.append(path)
            continue
        stems.add(path.with_suffix(""))
        try:
            text, skill = caption_beside(captions.beside(path))
            refuse_large(path.name, path.stat().st_size)
            image = path.read_bytes()
        except (OSError, StoreError) as error:
            problems.append(f"{path}: {error}")
            continue
        yield CaptionedImage(str(path), text, image, skill, extension=path.suffix[1:])
    for path in others:
        if path.suffix.lower() not in CAPTION_SUFFIXES:
            problems.append(f"{path}: not supported: '{path.suffix}' is neither a picture that is read nor a caption")
        elif path.with_suffix("") not in stems:
            problems.append(f"{path}: there is no picture of this name beside it")


def tar_images(
    pattern: str, problems: list[str], roles: Sequence[str] = (), notes: list[str] | None = None
) -> Iterator[CaptionedImage]:
    """Read the captioned pictures of local WebDataset tars, `x-{000..009}.tar`.

    The caption is the `txt` member, or `prompt`, `text` or `caption` of the `json` member, which may name a `skill`.

    Args:
        pattern: Local paths, see `matching_files`.
        problems: Samples that cannot be used are noted here, members that belong to no sample, and damage.
        roles: Further files to keep of each sample, `mask` for a member `<key>.mask.png`; a sample without one of them
            is not imported. `edge?` is kept of the samples that have it. Empty: the picture alone.
        notes: Further files of the samples that no role asks for are counted here. None: nowhere.

    Raises:
        StoreError: If nothing matches or a role cannot be used.
    """
    try:
        for role in roles:
            check_role(role.removesuffix(_IF_THERE))
    except ValueError as error:
        raise StoreError(str(error)) from error
    tars = matching_files(pattern, problems)
    if not tars:
        raise StoreError(
            f"The pattern '{pattern}' matches no tar. Name a tar, a folder of tars, or tars such as"
            " 'x-{000..009}.tar', in quotes so that the shell leaves it alone."
        )
    return _captioned_samples(tars, problems, roles, [] if notes is None else notes)


def _captioned_samples(
    tars: Sequence[Path], problems: list[str], roles: Sequence[str], notes: list[str]
) -> Iterator[CaptionedImage]:
    for path in tars:
        unused: Counter[str] = Counter()
        for sample in tar_samples(str(path), problems):
            try:
                image = tar_image(sample, roles)
            except (OSError, StoreError) as error:
                problems.append(f"{sample.where}: {error}")
                continue
            unused.update(sample.parts.keys() - {image.extension, "txt", "json"})
            yield image
        for role in roles:
            begin = f"{role.removesuffix(_IF_THERE)}."
            unused = Counter({name: count for name, count in unused.items() if not name.startswith(begin)})
        if unused:
            listed = ", ".join(f"{name} ({count})" for name, count in unused.most_common())
            notes.append(f"{path}: further files of its samples are not imported, as no role names them: {listed}")


def tar_image(sample: TarSample, roles: Sequence[str] = ()) -> CaptionedImage:
    """Read one sample of a tar.

    Raises:
        StoreError: If it has no picture or no caption, or lacks a role.
    """
    picture = sample.picture
    if picture is None:
        raise StoreError("it has no picture in a form that is read, such as png, jpg or webp")
    text, skill = tar_caption(sample)
    wanted = [role for role in roles if not role.endswith(_IF_THERE)]
    wanted += [name for role in roles if (name := role.removesuffix(_IF_THERE)) != role and _has(sample, name)]
    files = {role: _file_of_role(sample, role) for role in wanted}
    image = read_span(picture[1], MAX_IMAGE_BYTES)
    return CaptionedImage(sample.where, text, image, skill, files, picture[0])


def _has(sample: TarSample, role: str) -> bool:
    return any(name.rpartition(".")[0] == role for name in sample.parts)


def _file_of_role(sample: TarSample, role: str) -> FileRef:
    """Check the one member of a role."""
    extensions = [extension for extension in (*MEDIA_TYPES, "jpeg") if f"{role}.{extension}" in sample.parts]
    if len(extensions) != 1:
        raise StoreError(
            f"it has {len(extensions)} members '{role}.<extension>'; one is needed, as {', '.join(MEDIA_TYPES)}"
        )
    try:
        return checked_file(read_span(sample.parts[f"{role}.{extensions[0]}"], MAX_IMAGE_BYTES), extensions[0])
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
