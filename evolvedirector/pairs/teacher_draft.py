"""Let any teacher draw drafts from the prompt alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolvedirector.pairs.pair_records import (
    IMAGE,
    REFERENCE,
    REFERENCE_MASK,
    PairReply,
    PairRequest,
    without_picture,
)
from evolvedirector.pairs.pictures import picture_file
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.records.part import close_parts, price_of, requests_in_flight_of, verify_parts
from evolvedirector.store.images import decode_image
from evolvedirector.teachers.teacher import Teacher


class TeacherDraft:
    """Draw the prompt of each pair with a teacher: a pipeline by name, a service, a trained student.

    It knows category and change from the words. The subject's picture goes along as the file `reference`, for teachers
    that read one.
    """

    def __init__(self, teacher: Teacher, with_reference: bool = False) -> None:
        """Choose who draws.

        Args:
            teacher: Any teacher.
            with_reference: Hand it the subject's picture and mask, too.
        """
        self.teacher, self.with_reference = teacher, with_reference

    @property
    def fingerprint(self) -> str:
        """Name the teacher."""
        return f"teacher draft 1 {self.teacher.fingerprint} {self.with_reference}"

    def verify(self) -> None:
        """See that the teacher would work."""
        verify_parts(self.teacher)

    def price_usd(self) -> float | None:
        """Return what one picture costs."""
        return price_of(self.teacher)

    @property
    def requests_in_flight(self) -> int:
        """Return how many requests the teacher wants at once."""
        return requests_in_flight_of(self.teacher)

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield one picture per pair; a request keeps its name, so a service that knows it draws it once."""
        roles = (REFERENCE, REFERENCE_MASK) if self.with_reference else ()
        asked = [
            ImageRequest(
                r.request_id,
                r.prompt,
                r.seed,
                r.width_px,
                r.height_px,
                files={role: r.files[role] for role in roles if role in r.files},
            )
            for r in requests
        ]
        for reply in self.teacher.generate(asked):
            yield _reply(reply)

    def close(self) -> None:
        """Let go of the teacher's memory and connections."""
        close_parts(self.teacher)


def _reply(reply: ImageReply) -> PairReply:
    if reply.status == "image" and reply.image is not None:
        files = {IMAGE: picture_file(decode_image(reply.image))}
        return PairReply(reply.request_id, files=files, cost_usd=reply.cost_usd)
    return without_picture(reply.request_id, reply)
