"""The student that reads subjects: its training loss, and drawing with guidance over text and reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from evolvedirector.lightning_modules.learned_variance import learns_variance
from evolvedirector.lightning_modules.sampling import Drawing
from evolvedirector.lightning_modules.student import Sampling, Student
from evolvedirector.lightning_modules.subjects.placement import box_weights
from evolvedirector.lightning_modules.subjects.subject_family import STRENGTH, SubjectFamily
from evolvedirector.lightning_modules.subjects.subject_files import files_of_batch, files_of_requests
from evolvedirector.lightning_modules.subjects.two_guidances import drawing_of
from evolvedirector.records import ImageRequest, LossRequest, seed_of
from evolvedirector.records.condition import Condition, Extras, Size
from evolvedirector.records.subject_roles import REFERENCES, SUBJECT_BOX

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64


@dataclass(frozen=True, slots=True)
class SubjectTraining:
    """How a network learns to read subjects.

    Args:
        reference_dropout: Share of the samples with text that read the null reference; one without text always does.
        box_dropout: Share that reads the box from the words though it is known.
        box_weight: Of the loss of boxes read from words, |box' - box|.
        subject_weight: Of the loss inside of the box over that outside.
    """

    reference_dropout: float = 0.1
    box_dropout: float = 0.3
    box_weight: float = 0.1
    subject_weight: float = 2.0


@dataclass(frozen=True, slots=True)
class SubjectDrawing:
    """How strongly a drawing follows its references.

    Args:
        reference_guidance_scale: Of classifier-free guidance over the reference; 0 is text alone, 1 none.
        attention_scale: Of attention to the reference over that to the null reference; 0 is text alone.
    """

    reference_guidance_scale: float = 1.0
    attention_scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class SubjectStudent(Student):
    """Read subject pairs, and draw with references, with one network for new pictures and edits.

    Args:
        training: How it learns.
        subject: How it draws.
    """

    training: SubjectTraining = field(default_factory=SubjectTraining)
    subject: SubjectDrawing = field(default_factory=SubjectDrawing)

    def training_losses(self, batch: Mapping[str, Any], condition_dropout: float) -> Float[Tensor, " batch"]:
        """Return the loss of each sample of a batch; every draw follows from its `sample_seed`.

        Args:
            batch: Images or latents with their prompts and subjects.
            condition_dropout: Share of samples that lose text and reference.
        """
        step = self.step(batch, condition_dropout)
        files = files_of_batch(batch, cast(SubjectFamily, self.family).file_roles, self.device)
        count = len(step.clean)
        unknown = torch.full((count, 4), torch.nan, device=self.device)
        box = files.get(SUBJECT_BOX, unknown).float()
        lost = torch.tensor(step.dropped, device=self.device)
        dropped, hidden = (part.to(self.device) for part in draw_losses(batch["sample_seed"], self.training))
        for role in REFERENCES:
            if role in files:
                every = torch.ones(count, dtype=torch.bool, device=self.device)
                files[f"has_{role}"] = files.get(f"has_{role}", every) & ~(dropped | lost)
        files[SUBJECT_BOX] = torch.where(hidden[:, None], torch.nan, box)
        condition = self.condition(step.states, step.size, Extras(files))
        objective, family = step.objective, cast(SubjectFamily, self.family)
        prediction, read = family.predict_with_box(
            self.network, step.noisy, objective.transformer_time(step.times), condition
        )
        if not learns_variance(objective):
            prediction = prediction[:, : step.noisy.shape[1]]
        height, width = step.noisy.shape[-2:]
        weights = box_weights(box, height, width, self.training.subject_weight)
        losses = objective.loss(weigh_gradient(prediction, weights), step.clean, step.noise, step.times)
        return losses + self.training.box_weight * box_losses(read, box, lost)

    def extras(
        self,
        chunk: Sequence[ImageRequest | LossRequest],
        guidance_scale: float | None = None,
        size_px: int | None = None,
    ) -> Extras:
        """Return the files of requests that subjects are read from.

        Args:
            chunk: Requests.
            guidance_scale: For networks that read it.
            size_px: Side of the squares that pictures are cut to, as for training. None: they stay as they are.
        """
        family = cast(SubjectFamily, self.family)
        side_px = family.features.image_size_px
        return Extras(files_of_requests(chunk, family.file_roles, self.device, side_px, size_px), guidance_scale)

    def drawing(self, chunk: Sequence[ImageRequest], sampling: Sampling) -> Drawing:
        """Return what some images are drawn from: predictions with text and reference, text alone, and neither.

        Args:
            chunk: Requests of one size, with files of the same roles and sizes.
            sampling: How.
        """
        size = Size(chunk[0].height_px, chunk[0].width_px)
        family = cast(SubjectFamily, self.family)
        extras = self.extras(chunk)
        states = self.text_states.get([request.prompt for request in chunk], self.device, keep=False)
        both = self._with_strength(self.condition(states, size, extras))
        text = family.without_reference(both)
        empty = self.text_states.get([""], self.device).repeat(len(chunk))
        neither = family.without_reference(self._with_strength(self.condition(empty, size, extras)))
        scale = self.subject.reference_guidance_scale if any(role in chunk[0].files for role in REFERENCES) else 0.0
        return drawing_of(self, chunk, sampling, (both, text, neither), scale)

    def _with_strength(self, condition: Condition) -> Condition:
        scale = self.subject.attention_scale
        if scale == 1:
            return condition
        strength = torch.full((condition.count,), scale, device=self.device)
        return Condition(condition.tokens, {**condition.vectors, STRENGTH: strength}, condition.spatial)


def draw_losses(
    sample_seeds: Int64[Tensor, " batch"], training: SubjectTraining
) -> tuple[Bool[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Draw which samples lose their references and which their box, each from a generator of its own seed.

    Args:
        sample_seeds: One per sample.
        training: Says how many do.
    """
    generator = torch.Generator()
    draws = torch.stack([
        torch.rand(2, generator=generator.manual_seed(seed_of("subject", seed))) for seed in sample_seeds.tolist()
    ])  # fmt: skip
    return draws[:, 0] < training.reference_dropout, draws[:, 1] < training.box_dropout


def weigh_gradient(prediction: Tensor, weights: Tensor) -> Tensor:
    """Return the prediction itself, whose gradient is multiplied by weights.

    So any objective weighs parts of an image, and the loss it reports stays that of the whole: p + (w - 1)(p - p').

    Args:
        prediction: Float[batch, channel, height, width].
        weights: Float[batch, 1, height, width].
    """
    return prediction + (weights - 1) * (prediction - prediction.detach())


def box_losses(read: Float[Tensor, "batch 4"], box: Float[Tensor, "batch 4"], lost: Bool[Tensor, " batch"]) -> Tensor:
    """Return the mean of |read - box| per sample; 0 where the box is not known or the text is lost.

    Args:
        read: From the words.
        box: Given; NaN is not known.
        lost: Which samples have no text.
    """
    counts = ~box.isnan().any(1) & ~lost
    return (read - box.nan_to_num()).abs().mean(1) * counts
