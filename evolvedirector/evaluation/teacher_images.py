"""Teacher images for evaluation: each is bought once per run folder, and counted apart from evolution's budget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from evolvedirector.records import ImageReply, ImageRequest, digest
from evolvedirector.store.blobs import Blobs
from evolvedirector.store.durable import make_folder, write_durably
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import check_image
from evolvedirector.teachers.teacher import Teacher

_MAX_RECORD_BYTES = 65_536
_MAX_REASON_CHARACTERS = 2000
_UNIT_REQUESTS = 8
"""Questions asked at once: as many are charged when a teacher breaks off at the first of them."""
_ANSWERS = ("image", "refusal")


@dataclass(frozen=True, slots=True)
class _Record:
    """What became of one question to one teacher; written before it is asked, so that a kill cannot hide its cost."""

    status: str  # submitted | image | refusal | failure
    calls: int
    cost_usd: float
    image_sha256: str = ""
    reason: str = ""
    attempt: int = 0  # tries that came to nothing for good: the next one is new work for the service


class TeacherImages:
    """Keep the answers of teachers to evaluation prompts on disk, so that later readings and a resume cost nothing.

    `answers/<digest>.json` says what became of a question, `blobs/` holds the images by content; what is read is
    checked against its name. A refusal is an answer and is kept; a failure, a lost answer or a damaged image is asked
    for again, as far as the limit allows. Only rank 0 uses it.
    """

    def __init__(
        self, folder: Path, budget_teacher_calls: int | None = None, first: TeacherImages | None = None
    ) -> None:
        """Open the folder; it is made when the first question is asked.

        Args:
            folder: Where the answers lie.
            budget_teacher_calls: Questions in all, over the life of the folder. None: no limit.
            first: Images and refusals of another folder, which are taken from there; nothing is written to it, and what
                they cost is counted there. None: no other.
        """
        self._answers = Path(folder) / "answers"
        self._blobs = Blobs(folder)
        self._budget_teacher_calls = budget_teacher_calls
        self._first = first

    def kept(self, teacher: Teacher, requests: Sequence[ImageRequest]) -> dict[str, bytes]:
        """Return the images of a teacher that are here already, by request id."""
        taken = {} if self._first is None else self._first.kept(teacher, requests)
        found = {request.request_id: self._image(self._path(teacher, request)) for request in requests}
        return taken | {key: image for key, image in found.items() if image is not None}

    def buy(self, teacher: Teacher, requests: Sequence[ImageRequest]) -> None:
        """Ask a teacher for what is not here and was not refused, as far as the limit allows.

        Args:
            teacher: Who draws.
            requests: What; a teacher's image follows from its fingerprint and from prompt, seed and size.
        """
        have = self.kept(teacher, requests)
        paths = {request.request_id: self._path(teacher, request) for request in requests}
        missing = [r for r in requests if r.request_id not in have and not self._refused(teacher, r)]
        if self._budget_teacher_calls is not None:
            missing = missing[: max(0, self._budget_teacher_calls - self.spent()[0])]
        for start in range(0, len(missing), _UNIT_REQUESTS):
            unit = missing[start : start + _UNIT_REQUESTS]
            attempts = [_reserve(paths[request.request_id]) for request in unit]
            for reply in teacher.generate([replace(r, attempt=n) for r, n in zip(unit, attempts, strict=True)]):
                if reply.request_id in paths:
                    self._settle(paths[reply.request_id], reply)

    def outcomes(self, teacher: Teacher, requests: Sequence[ImageRequest]) -> dict[str, int]:
        """Count how these questions stand: `image`, `refusal`, `failure` (lost ones included), `not asked`."""
        counts = {"image": 0, "refusal": 0, "failure": 0, "not asked": 0}
        for request in requests:
            record = self._record(teacher, request)
            status = "not asked" if record is None else "failure" if record.status == "submitted" else record.status
            counts[status] += 1
        return counts

    def spent(self) -> tuple[int, float]:
        """Return the questions asked so far, lost ones and repeats included, and their cost in USD."""
        records = [record for path in sorted(self._answers.glob("*.json")) if (record := _read(path)) is not None]
        return sum(record.calls for record in records), sum(record.cost_usd for record in records)

    def _path(self, teacher: Teacher, request: ImageRequest) -> Path:
        asked = (request.prompt, request.seed, request.width_px, request.height_px)
        return self._answers / f"{digest('evaluation', teacher.fingerprint, *asked, length=32)}.json"

    def _record(self, teacher: Teacher, request: ImageRequest) -> _Record | None:
        """Return what became of a question here, or in the first folder where it was answered."""
        own = _read(self._path(teacher, request))
        first = None if self._first is None else self._first._record(teacher, request)
        answered = first is not None and first.status in _ANSWERS
        return first if answered and (own is None or own.status not in _ANSWERS) else own

    def _refused(self, teacher: Teacher, request: ImageRequest) -> bool:
        record = self._record(teacher, request)
        return record is not None and record.status == "refusal"

    def _image(self, path: Path) -> bytes | None:
        record = _read(path)
        if record is None or record.status != "image":
            return None
        try:
            return self._blobs.get(record.image_sha256)
        except StoreError:  # deleted or damaged: bought again
            return None

    def _settle(self, path: Path, reply: ImageReply) -> None:
        asked = _read(path) or _Record("submitted", 1, 0.0)
        status, reason, sha256, closed = reply.status, reply.reason, "", reply.closed
        if status == "image":
            try:
                check_image(reply.image or b"")
                sha256 = self._put(reply.image or b"")
            except StoreError as error:
                status, reason, closed = "failure", str(error), True
        cost_usd = asked.cost_usd + reply.cost_usd
        attempt = asked.attempt + closed
        _write(path, _Record(status, asked.calls, cost_usd, sha256, reason[:_MAX_REASON_CHARACTERS], attempt))

    def _put(self, image: bytes) -> str:
        sha256 = self._blobs.put(image)
        try:
            self._blobs.get(sha256)
        except StoreError:  # it was here already, and damaged
            self._blobs.path(sha256).unlink()
            self._blobs.put(image)
        return sha256


def _reserve(path: Path) -> int:
    """Record a question before it is asked; returns how many tries came to nothing for good before it."""
    before = _read(path) or _Record("submitted", 0, 0.0)
    _write(path, _Record("submitted", before.calls + 1, before.cost_usd, attempt=before.attempt))
    return before.attempt


def _write(path: Path, record: _Record) -> None:
    make_folder(path.parent)
    write_durably(path, json.dumps(asdict(record)).encode())


def _read(path: Path) -> _Record | None:
    """Read one record; None when there is none or it is not one of ours."""
    try:
        if path.stat().st_size > _MAX_RECORD_BYTES:
            return None
        fields = json.loads(path.read_bytes())
        record = _Record(**fields)
        whole = record.status in ("submitted", "image", "refusal", "failure") and record.calls >= 0
        return record if whole and record.cost_usd >= 0 else None
    except (OSError, ValueError, TypeError):
        return None
