"""Guidance over two conditions: the text, and what a network reads beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from evolvedirector.lightning_modules.codecs.codec import latent_shape
from evolvedirector.lightning_modules.objectives.resolution_flow import at_resolution
from evolvedirector.lightning_modules.sampling import Drawing, initial_noise
from evolvedirector.lightning_modules.student import Sampling, Student
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Condition, Size, join


def drawing_of(
    student: Student,
    chunk: Sequence[ImageRequest],
    sampling: Sampling,
    conditions: tuple[Condition, Condition, Condition],
    scale: float,
) -> Drawing:
    """Return what some images are drawn from; predictions of weight 0 are not computed.

    Args:
        student: Predicts.
        chunk: Requests of one size.
        sampling: How, with the scale of guidance over the text.
        conditions: With both, with the text alone, with neither.
        scale: Of guidance over what is read beside the text.
    """
    size = Size(chunk[0].height_px, chunk[0].width_px)
    weights = guidance_weights(sampling.guidance_scale, scale)
    read = [(part, w) for part, w in zip(conditions, weights, strict=True) if w]
    (first, _), *rest = read
    noise = initial_noise([request.seed for request in chunk], latent_shape(student.family.codec, size))
    return Drawing(
        student.predict,
        at_resolution(student.objective, student.family.tokens(size)),
        noise.to(student.device),
        first,
        join([part for part, _ in rest]) if rest else None,
        sampling.steps,
        sampling.guidance_scale,
        partial(weighted_sum, weights=[w for _, w in read]),
    )


def guidance_weights(text_scale: float, reference_scale: float) -> tuple[float, float, float]:
    """Return the weights of e(text, reference), e(text) and e() in the guided prediction; they add up to 1.

    e = e() + s_t (e(text) - e()) + s_r (e(text, reference) - e(text)): guidance over two conditions, as in
    InstructPix2Pix (Brooks et al. 2023, arXiv:2211.09800, eq. 3), with the text before the picture.

    Args:
        text_scale: s_t.
        reference_scale: s_r.
    """
    return reference_scale, text_scale - reference_scale, 1 - text_scale


def weighted_sum(first: Tensor, rest: Tensor, _: float, weights: Sequence[float]) -> Tensor:
    """Return sum_i w_i e_i.

    Args:
        first: e_0.
        rest: e_1, e_2 ... one behind the other.
        weights: All of them.
    """
    parts = [first, *rest.chunk(len(weights) - 1)]
    return sum((w * part for w, part in zip(weights[1:], parts[1:], strict=True)), weights[0] * first)
