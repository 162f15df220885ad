"""Pictures of subjects and edges from the command line, as the files of a request."""

from __future__ import annotations

import json
from collections.abc import Sequence

from evolvedirector.errors import UserError
from evolvedirector.records import FileRef
from evolvedirector.records.prompt_subjects import EDGE, SUBJECT_IMAGES, SUBJECTS
from evolvedirector.store.errors import StoreError
from evolvedirector.store.files import MAX_FILE_BYTES, checked_file
from evolvedirector.store.images import sniff_format
from evolvedirector.store.paths import user_path


def subject_files(subjects: Sequence[str], edge: str | None) -> dict[str, FileRef]:
    """Return the files of a request, each with its content.

    Args:
        subjects: Each a name in the prompt, an equals sign and the path of a picture.
        edge: Path of a picture of edges. None: there is none.

    Raises:
        UserError: A word has no name or no picture, there are too many, or a picture cannot be read.
    """
    if len(subjects) > len(SUBJECT_IMAGES):
        raise UserError(
            f"There are {len(subjects)} subjects. Allowed are up to {len(SUBJECT_IMAGES)}. Leave some --subject out."
        )
    names, files = [], {}
    for role, word in zip(SUBJECT_IMAGES, subjects, strict=False):
        name, _, path = word.partition("=")
        if not name.strip() or not path:
            raise UserError(f"--subject is {word!r}. Allowed is NAME=PICTURE. Write --subject cat=cat.png, say.")
        names.append(name.strip())
        files[role] = _picture(path)
    if names:
        files[SUBJECTS] = FileRef.of(json.dumps(names).encode("utf-8"), "application/json")
    if edge is not None:
        files[EDGE] = _picture(edge)
    return files


def _picture(given: str) -> FileRef:
    path = user_path(given)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)  # a device or pipe does not say its size
        if len(content) > MAX_FILE_BYTES:
            raise StoreError(f"It has over {MAX_FILE_BYTES} bytes.")
        return checked_file(content, sniff_format(content))
    except (OSError, StoreError) as error:
        raise UserError(
            f"The picture '{path}' cannot be used: {' '.join(str(error).split())[:200]} Allowed is a png, jpg or webp. "
            "Name one."
        ) from error
