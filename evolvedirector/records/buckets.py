"""Aspect buckets: the sizes that images are trained in, and which of them an image or a prompt belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeAlias

from evolvedirector.errors import UserError
from evolvedirector.records.names import seed_of

BucketSize: TypeAlias = tuple[int, int]
"""Width and height in pixels."""


def checked_buckets(buckets: Sequence[BucketSize]) -> tuple[BucketSize, ...]:
    """Return the sizes in one order, whatever the order they are written in: widest last.

    Args:
        buckets: As written.

    Raises:
        UserError: One is no size, or two have the same aspect ratio, so that nobody knows which an image belongs to.
    """
    seen: dict[Fraction, BucketSize] = {}
    for width_px, height_px in buckets:
        if min(width_px, height_px) < 1:
            raise UserError(
                f"A bucket of {width_px} x {height_px} px is no size. Both sides must be at least 1. Write "
                "`buckets: [[1024, 1024], [704, 1408]]`, width first."
            )
        ratio = Fraction(width_px, height_px)
        if ratio in seen:
            other = "{} x {} px".format(*seen[ratio])
            raise UserError(
                f"Two buckets have the same aspect ratio: {other} and {width_px} x {height_px} px. An image belongs to "
                "the bucket whose ratio is nearest, so each ratio has one size. Leave one of them out."
            )
        seen[ratio] = (width_px, height_px)
    return tuple(seen[ratio] for ratio in sorted(seen))


def nearest_bucket(width_px: int, height_px: int, buckets: Sequence[BucketSize]) -> int:
    """Return the number of the bucket whose aspect ratio is nearest, as a factor: 2:1 is as far from 1:1 as 1:2.

    Args:
        width_px: Of the image.
        height_px: Of the image.
        buckets: At least one.
    """
    ratio = math.log(width_px / height_px)
    return min(range(len(buckets)), key=lambda k: abs(math.log(buckets[k][0] / buckets[k][1]) - ratio))


def bucket_of_prompt(prompt_id: str, buckets: Sequence[BucketSize]) -> BucketSize:
    """Return the size to ask for an image of a prompt in: every bucket equally often, always the same for a prompt.

    EvolveDirector (arXiv:2410.07133, its published code) draws the bucket of a new prompt evenly, too.

    Args:
        prompt_id: Of the prompt.
        buckets: At least one.
    """
    return buckets[seed_of("bucket", prompt_id) % len(buckets)]
