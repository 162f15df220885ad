"""The film strips: how the image of one fixed prompt changed while the student learned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from evolvedirector.records import digest
from evolvedirector.report.pairs import clipped
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.thumbnails import Thumbnails

MAX_STRIPS = 24
MAX_FRAMES = 16
MAX_IMAGE_BYTES = 16 * 2**20
_STEP = re.compile(r"step-(\d{1,12})\.png")


def film_of(run: RunFolder, thumbnails: Thumbnails) -> list[dict[str, Any]]:
    """Read the single images that `PreviewCallback` kept: one strip per prompt, in order of training steps.

    Args:
        run: The run; steps that it has left behind are left out.
        thumbnails: Takes small copies.

    Returns:
        Strips with `prompt`, `frames` ([step, picture]) and the `teacher`'s picture; at most 16 frames, first and last
        included.
    """
    strips = []
    own_folders = [path.parent for path in (run.path / "previews" / "frames").glob("*/prompt.txt")]
    for own in sorted(own_folders, key=lambda path: (path.stat().st_mtime, path.name))[-MAX_STRIPS:]:
        steps = sorted((int(found[1]), path) for path in own.iterdir() if (found := _STEP.fullmatch(path.name)))
        steps = [(step, path) for step, path in steps if step <= run.last_step(path)]
        frames = [[step, _picture(thumbnails, path)] for step, path in _spread(steps, MAX_FRAMES)]
        frames = [frame for frame in frames if frame[1] is not None]
        if frames:
            prompt = (own / "prompt.txt").read_text(encoding="utf-8", errors="replace")
            strips.append({"prompt": clipped(prompt), "frames": frames, "teacher": _teacher(thumbnails, own)})
    return strips


def _spread(items: list[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    if len(items) <= most:
        return items
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def _teacher(thumbnails: Thumbnails, own: Path) -> str | None:
    path = own / "teacher.png"
    return _picture(thumbnails, path) if path.is_file() else None


def _picture(thumbnails: Thumbnails, path: Path) -> str | None:
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    return thumbnails.add(digest(data), lambda: data)
