"""Show a subject from elsewhere with a view generator of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.models.exported_student import STUDENT, described_student
from evolvedirector.pairs.drawn.drawn_views import VIEW_POSES
from evolvedirector.pairs.key_ground import centred, key_ground, off_ground, on_ground, scaled
from evolvedirector.pairs.pair_records import (
    IMAGE,
    MASK,
    REFERENCE,
    REFERENCE_MASK,
    PairReply,
    PairRequest,
    refused,
    without_picture,
)
from evolvedirector.pairs.pictures import MASK_LEVEL, mask_file, mask_of, picture_file, pixels_of
from evolvedirector.records import ImageReply, ImageRequest, digest
from evolvedirector.records.poses import POSE, Pose, pose_file, pose_of, turn_between
from evolvedirector.store.images import decode_image
from evolvedirector.store.paths import user_path
from evolvedirector.teachers.local.pipeline_files import DType
from evolvedirector.teachers.local.student_teacher import StudentTeacher


@runtime_checkable
class DrawsViews(Protocol):
    """A student that cannot draw without some files; a view generator needs a pose."""

    image_size_px: int

    @property
    def needed_roles(self) -> Sequence[str]:
        """Name them."""
        ...


class TrainedView:
    """Draw the subject as a view generator of our own sees it from elsewhere: Toffee's View Generator at use.

    The subject is cut out onto a plain ground of a colour that it lacks, and drawn in the pose that the words of the
    change stand for. What is drawn is taken off that ground again, which gives its outline, and laid on the background
    colour of the picture.
    """

    def __init__(
        self,
        model: str,
        poses: dict[str, list[float]] | None = None,
        dtype: DType = "float32",
        batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """Choose the view generator; nothing is loaded yet.

        Args:
            model: Folder of `evolvedirector export`.
            poses: What the words of a change mean: azimuth, elevation and roll in degrees and 0 or 1 for mirrored,
                against the subject's picture. None: the four turns of `DrawnPrompts`.
            dtype: Type that is computed in; weights stay in float32.
            batch_size: Pictures drawn together. None: as many as the view generator says.
            device: Where to draw. None: the rank's own GPU, or the CPU.

        Raises:
            UserError: A pose is none.
        """
        self.model = model
        given = None if poses is None else {view: pose_of(values, f"'{view}'") for view, values in poses.items()}
        self.poses: dict[str, Pose] = dict(VIEW_POSES) if given is None else given
        self._teacher = StudentTeacher(user_path(model), dtype, batch_size, device=device)

    @property
    def fingerprint(self) -> str:
        """Name the weights by their content, and what words mean."""
        told = sorted((view, *astuple(pose)) for view, pose in self.poses.items())
        return f"trained view 1 {self._teacher.fingerprint} {digest(repr(told))}"

    def verify(self) -> None:
        """Check, without loading weights, that the folder holds a whole view generator.

        Raises:
            UserError: It does not.
        """
        _ = self._side_px
        self._teacher.verify()

    def estimated_bytes(self) -> int | None:
        """Say how much device memory it takes."""
        return self._teacher.estimated_bytes()

    def turn(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield each subject in the pose that its change names, with its outline.

        Args:
            requests: Drawn together in batches.
        """
        known: dict[str, PairRequest] = {}
        grounds: dict[str, tuple[int, int, int]] = {}
        asked = []
        for request in requests:
            view = request.change.get("view", "")
            if view not in self.poses:
                yield refused(request, f"The view '{view}' is none of {', '.join(self.poses)}.")
                continue
            cut = centred(pixels_of(request.files[REFERENCE]), mask_of(request.files[REFERENCE_MASK]), self._side_px)
            ground = key_ground(cut)
            files = {
                REFERENCE: picture_file(on_ground(cut, ground)),
                POSE: pose_file(turn_between(Pose(), self.poses[view])),
            }
            known[request.request_id], grounds[request.request_id] = request, ground
            category = request.subject.category
            asked.append(
                ImageRequest(request.request_id, category, request.seed, self._side_px, self._side_px, files=files)
            )
        for reply in self._teacher.generate(asked):
            yield _reply(known[reply.request_id], reply, grounds[reply.request_id])

    def close(self) -> None:
        """Free the model's memory."""
        self._teacher.close()

    @cached_property
    def _side_px(self) -> int:
        """Return the side of the views that it was trained on.

        Raises:
            UserError: The folder holds no view generator.
        """
        folder = user_path(self.model)
        if not (folder / STUDENT).is_file():
            raise UserError(
                f"The folder '{self.model}' holds no {STUDENT}, so it is no view generator. Allowed is what "
                "`evolvedirector export` wrote of a ViewGenerator. Correct its path, or train one: evolvedirector fit "
                "-c configs/method/toffee_views.yaml."
            )
        student = described_student(folder)
        if not isinstance(student, DrawsViews) or POSE not in student.needed_roles:
            raise UserError(
                f"The folder '{self.model}' holds a {type(student).__name__}, which is no view generator. Allowed is "
                "what `evolvedirector export` wrote of a ViewGenerator. Write the folder of one."
            )
        return student.image_size_px


def _reply(request: PairRequest, reply: ImageReply, ground: tuple[int, int, int]) -> PairReply:
    """Take a drawn view off its ground, and lay it on the background of the pair's picture."""
    if reply.status != "image" or reply.image is None:
        return without_picture(request.request_id, reply)
    cut = scaled(off_ground(decode_image(reply.image), ground), min(request.width_px, request.height_px))
    outline = cut[..., 3] >= MASK_LEVEL
    if not outline.any():
        return refused(request, f"The view generator drew nothing of '{request.subject.name}'.")
    corner = pixels_of(request.files[IMAGE])[0, 0]
    picture = on_ground(cut, (int(corner[0]), int(corner[1]), int(corner[2])))
    return PairReply(request.request_id, files={IMAGE: picture_file(np.asarray(picture)), MASK: mask_file(outline)})
