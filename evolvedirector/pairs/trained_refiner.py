"""Bring a subject's detail into a draft by a trained network: the Refiner of Toffee, as an exported folder."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.models.exported_student import ExportedStudent, described_student
from evolvedirector.pairs.pair_records import (
    DRAFT,
    DRAFT_MASK,
    IMAGE,
    REFERENCE,
    REFERENCE_MASK,
    PairReply,
    PairRequest,
    refused,
    unchanged,
    without_picture,
)
from evolvedirector.pairs.patch_matching import (
    Squares,
    check_matching,
    grey,
    inside_of,
    matches,
    mixed_colours,
    put_back,
    squares_of,
    taken_for,
)
from evolvedirector.pairs.pictures import box_of, mask_of, picture_file, pixels_of
from evolvedirector.records import FileRef, ImageRequest
from evolvedirector.records.subject_roles import FEATURES
from evolvedirector.store.images import decode_image
from evolvedirector.store.paths import user_path
from evolvedirector.teachers.local.pipeline_files import DType
from evolvedirector.teachers.local.student_teacher import StudentTeacher

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class DrawsFromFeatures(ExportedStudent, Protocol):
    """A student that draws from patch features, and names those of a picture."""

    def patch_features(self, images: Tensor) -> Tensor:
        """Return Float[batch, row, column, dimension] of uint8 [batch, 3, height, width]."""
        ...


class TrainedRefiner:
    """Match patch features of the subject into those of the draft, and let a trained network draw from the mixture.

    For patch i of the draft: j(i) = argmax_j cos(d_i, s_j) - w |p_i - p_j|^2 over the patches j inside of the subject's
    mask, with positions p relative to the two outlines. Inside of the draft's outline feature s_j(i) takes the place of
    d_i; what nothing matches, and what is outside, keeps its own. The network (`FeatureRefiner`, trained once on any
    images, for no subject) draws the picture of these features; outside of the outline every pixel stays. What is the
    change itself is left as in `MatchedPixels`: of a tint the colour, of a texture the lightness, of a style all. Our
    reading of Toffee's Refiner (Zhou et al. 2024, arXiv:2406.09305, section 3).
    """

    def __init__(
        self,
        model: str,
        position_weight: float = 6.0,
        least_cosine: float = -1.0,
        dtype: DType = "float32",
        device: str | None = None,
        batch_size: int | None = None,
        num_inference_steps: int | None = None,
    ) -> None:
        """Choose the network and how is matched; nothing is loaded yet.

        Args:
            model: Folder that `evolvedirector export` wrote of a `FeatureRefiner`.
            position_weight: How much a match may be from elsewhere in the outline; 0 leaves places out.
            least_cosine: Patches without a better match keep their own features, -1 to 1; -1 matches all.
            dtype: Type that is computed in.
            device: As PyTorch names it. None: the GPU of the rank, or the CPU.
            batch_size: Pictures that are drawn together. None: as many as the model says.
            num_inference_steps: Denoising steps. None: the model's own number.

        Raises:
            UserError: A number is out of range.
        """
        check_matching(position_weight, least_cosine)
        self.model, self.position_weight, self.least_cosine = model, position_weight, least_cosine
        self._drawer = StudentTeacher(user_path(model), dtype, batch_size, num_inference_steps, None, device)

    @property
    def fingerprint(self) -> str:
        """Name the weights by their content, and the numbers."""
        return f"trained refiner 2 {self.position_weight} {self.least_cosine} {self._drawer.fingerprint}"

    def verify(self) -> None:
        """Check, without loading weights, that the folder is a whole refiner.

        Raises:
            UserError: With what is wrong and what to write instead.
        """
        self._check(described_student(self._drawer.folder))
        self._drawer.verify()

    def estimated_bytes(self) -> int | None:
        """Return what the weights take, in bytes."""
        return self._drawer.estimated_bytes()

    def refine(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield each draft drawn anew inside of its outline, batch by batch.

        Raises:
            UserError: The model cannot be loaded, or is no refiner.
        """
        ready: list[_Work] = []
        for request in requests:
            if taken_for(request) == "nothing":
                yield unchanged(request)
            elif not _has_outline(request):
                yield refused(request, "The draft has no outline of the subject, so nobody knows what to draw anew.")
            else:
                ready.append(_Work.of(request))
        if not ready:
            return
        student = self._check(self._drawer.student())
        count = student.generation_chunk_size
        for start in range(0, len(ready), count):
            yield from self._refined(student, ready[start : start + count])

    def close(self) -> None:
        """Free the weights; the next call loads them again."""
        self._drawer.close()

    def _refined(self, student: DrawsFromFeatures, works: Sequence[_Work]) -> Iterator[PairReply]:
        side_px = student.image_size_px
        squares = [each.squares(side_px) for each in works]
        features = _features(student, [part for each in squares for part in (each.draft, each.subject)])
        pairs = zip(features[::2], features[1::2], strict=True)
        asked = [
            ImageRequest(work.key, "", work.request.seed, side_px, side_px, files={FEATURES: _file(grid)})
            for work, grid in zip(works, map(self._mixed, squares, pairs), strict=True)
        ]
        replies = {reply.request_id: reply for reply in self._drawer.generate(asked)}
        for work in works:
            reply = replies[work.key]
            if reply.image is None:
                yield without_picture(work.key, reply)
            else:
                yield PairReply(work.key, files={IMAGE: picture_file(work.finished(decode_image(reply.image)))})

    def _mixed(self, squares: Squares, features: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the draft's features with the subject's where they match, [row, column, dimension]."""
        draft, subject = features
        near = matches(draft, subject, squares.subject_inside, self.position_weight, self.least_cosine)
        side = draft.shape[0]
        taken = (near >= 0).reshape(side, side) & inside_of(squares.draft_inside, side)
        found = subject.reshape(side * side, -1)[near].reshape(draft.shape)
        return np.where(taken[..., None], found, draft)

    def _check(self, student: ExportedStudent) -> DrawsFromFeatures:
        if not isinstance(student, DrawsFromFeatures):
            raise UserError(
                f"{self.model} holds a {type(student).__name__}, which draws from no patch features. Allowed is the "
                "export of a FeatureRefiner. Train one with `evolvedirector fit -c configs/method/toffee_refiner.yaml`"
                " and export its run."
            )
        return student


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """One draft that is drawn anew inside of its outline."""

    request: PairRequest
    draft: np.ndarray
    outline: np.ndarray

    @classmethod
    def of(cls, request: PairRequest) -> _Work:
        return cls(request, pixels_of(request.files[DRAFT]), mask_of(request.files[DRAFT_MASK]))

    @property
    def key(self) -> str:
        return self.request.request_id

    def squares(self, side_px: int) -> Squares:
        subject, inside = pixels_of(self.request.files[REFERENCE]), mask_of(self.request.files[REFERENCE_MASK])
        subject = _on_ground_of(self.draft, self.outline, subject, inside)
        found = squares_of(self.draft, self.outline, subject, inside, side_px)
        if taken_for(self.request) == "lightness":  # a draft that has another colour is matched by form alone
            return replace(found, draft=grey(found.draft), subject=grey(found.subject))
        return found

    def finished(self, drawn: np.ndarray) -> np.ndarray:
        """Return the draft with what was drawn in the box of its outline."""
        left, top, right, bottom = box_of(self.outline)
        new = np.asarray(Image.fromarray(drawn).resize((right - left, bottom - top), Image.Resampling.LANCZOS))
        own = self.draft[top:bottom, left:right]
        return put_back(self.draft, self.outline, mixed_colours(own, new, taken_for(self.request)))


def _on_ground_of(draft: np.ndarray, outline: np.ndarray, subject: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the subject on the mean colour around the draft's: patches at its edge show some of what is behind."""
    around = draft[~outline] if (~outline).any() else draft.reshape(-1, 3)
    return np.where(inside[..., None], subject, around.mean(axis=0).round().astype(np.uint8))


def _has_outline(request: PairRequest) -> bool:
    return DRAFT_MASK in request.files and bool(mask_of(request.files[DRAFT_MASK]).any())


def _features(student: DrawsFromFeatures, squares: Sequence[np.ndarray]) -> np.ndarray:
    """Return float32 [picture, row, column, dimension]."""
    import torch

    images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
    return np.asarray(student.patch_features(images).numpy(), np.float32)


def _file(features: np.ndarray) -> FileRef:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(features), allow_pickle=False)
    return FileRef.of(buffer.getvalue(), "application/x-npy")
