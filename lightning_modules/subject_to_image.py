"""A model that draws a given subject, in new pictures and in edits, as a LightningModule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.subjects.compositing import composited
from evolvedirector.lightning_modules.subjects.subject_family import SubjectFamily
from evolvedirector.lightning_modules.subjects.subject_student import SubjectDrawing, SubjectStudent, SubjectTraining
from evolvedirector.lightning_modules.text_to_image import TextToImage
from evolvedirector.records import ImageRequest
from evolvedirector.records.part import Part
from evolvedirector.records.plain_settings import settings_of


class SubjectToImage(TextToImage):
    """Train one network on pairs of subjects, for new pictures and for edits (Toffee, arXiv:2406.09305; our design).

    It is a `TextToImage` whose network also reads references. Its batches may have, beside `image`, `prompt` and
    `sample_seed`: `reference` to `reference_4` uint8 (batch, 3, height, width), each with `<reference>_mask` uint8
    (batch, 1, height, width); `source` and `mask` of the image's size (an edit); `depth`; and `subject_box` float
    (batch, 4), where the subject is to stand: left, top, right, bottom as shares of the canvas, NaN where that is not
    known. Where only some rows have a role, `has_<role>` bool (batch) says which, and the others hold anything.

    Requests bring the same roles as files, `subject_box` as an npy array. An edit is composited: outside of its mask
    every pixel is the source's.

    Args:
        family: Whose networks read subjects.
        objective: What the network predicts, and how images are sampled from that.
        image_size_px: Side of the square images that are drawn where nobody asks for another size.
        training: How it learns to read subjects. None: the defaults.
        subject: How strongly a drawing follows its references. None: the defaults.
        kwargs: As for `TextToImage`; `condition_dropout` drops the reference with the text.

    Raises:
        UserError: The parts do not fit each other, or a number is out of range.
    """

    def __init__(
        self,
        family: SubjectFamily,
        objective: Objective,
        image_size_px: int,
        training: SubjectTraining | None = None,
        subject: SubjectDrawing | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(family, objective, image_size_px, **kwargs)
        self.subject_training = settings_of(SubjectTraining, training or SubjectTraining(), "training")
        self.subject = settings_of(SubjectDrawing, subject or SubjectDrawing(), "subject")
        self.errors_outside: dict[str, float] = {}
        """Of the edits that were drawn last, by request id: mean change outside of the mask before they were
        composited, of 255."""
        if self.trained.adapters:
            raise UserError(
                "trained names a LoRA, but the parts that read subjects begin at random and must be trained whole. "
                "Allowed is training the whole network. Write model.init_args.trained: null."
            )
        numbers = self.subject_training
        if not (0 <= numbers.reference_dropout < 1 and 0 <= numbers.box_dropout <= 1):
            raise UserError(
                f"reference_dropout is {numbers.reference_dropout} and box_dropout {numbers.box_dropout}. Allowed are "
                "shares: from 0, the first below 1. Write reference_dropout: 0.1, box_dropout: 0.3."
            )
        if numbers.box_weight < 0 or numbers.subject_weight <= 0:
            raise UserError(
                f"box_weight is {numbers.box_weight} and subject_weight {numbers.subject_weight}. Allowed are weights: "
                "the first from 0, the second above 0. Write box_weight: 0.1, subject_weight: 2.0."
            )

    def parts(self) -> Mapping[str, Part]:
        """Name what the model is built of, the encoder of references with it."""
        return {**super().parts(), "features": cast(SubjectFamily, self.family).features}

    @property
    def file_roles(self) -> Sequence[str]:
        """Roles of a sample's files that a drawing reads, where the sample has them."""
        return cast(SubjectFamily, self.family).file_roles

    def student(self) -> SubjectStudent:
        """Return the network with what it reads; it is built where it is not yet."""
        self.configure_model()
        network = cast(nn.Module, self.transformer)
        parts = (self.family, self.objective, network, self.text_states, self.device)
        return SubjectStudent(*parts, self.subject_training, self.subject)

    def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        """Draw one uint8 image (3, height, width) per request, on the CPU; edits keep what is outside of their mask.

        Args:
            requests: prompts with seeds and files, in any sizes that family and codec take.

        Raises:
            ValueError: for a request of a size that they do not take, or with files that do not fit.
        """
        done = [composited(image, request) for image, request in zip(super().generate(requests), requests, strict=True)]
        self.errors_outside = {
            request.request_id: error
            for request, (_, error) in zip(requests, done, strict=True)
            if error is not None and not math.isnan(error)
        }
        return [image for image, _ in done]

    def validation_step(  # type: ignore[override]
        self, batch: list[ImageRequest], batch_idx: int
    ) -> list[Tensor]:
        """Draw the requested images, and log by how much edits changed what they must not."""
        return self._drawn("val", batch)

    def test_step(  # type: ignore[override]
        self, batch: list[ImageRequest], batch_idx: int
    ) -> list[Tensor]:
        """Draw the requested images, and log by how much edits changed what they must not."""
        return self._drawn("test", batch)

    def _drawn(self, stage: str, requests: Sequence[ImageRequest]) -> list[Tensor]:
        images = self.generate(requests)
        if self.errors_outside:
            error = sum(self.errors_outside.values()) / len(self.errors_outside)
            self.log(f"{stage}/error_outside_mask", error, batch_size=len(self.errors_outside))
        return images

    @property
    def _frozen_parts(self) -> dict[str, str]:
        return {**super()._frozen_parts, "features": cast(SubjectFamily, self.family).features.fingerprint}
