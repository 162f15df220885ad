"""Which bucket an image or a prompt belongs to, and which lists of sizes are none."""

from __future__ import annotations

from collections import Counter

import pytest

from evolvedirector.errors import UserError
from evolvedirector.records.buckets import bucket_of_prompt, checked_buckets, nearest_bucket

WRITTEN = [(64, 64), (96, 48), (48, 96)]
SIZES = checked_buckets(WRITTEN)


def test_sizes_have_one_order_however_they_are_written() -> None:
    assert SIZES == checked_buckets(WRITTEN[::-1]) == ((48, 96), (64, 64), (96, 48))


def test_an_image_belongs_to_the_nearest_aspect_ratio_whatever_its_size() -> None:
    found = [SIZES[nearest_bucket(*size, SIZES)] for size in [(500, 500), (8, 9), (1000, 300), (30, 100)]]
    assert found == [(64, 64), (64, 64), (96, 48), (48, 96)]
    for width_px, height_px in [(141, 100), (142, 100), (7, 3)]:  # on its side it belongs to the bucket on its side
        lying = SIZES[nearest_bucket(width_px, height_px, SIZES)]
        assert SIZES[nearest_bucket(height_px, width_px, SIZES)] == lying[::-1]


def test_prompts_are_spread_evenly_and_keep_their_size() -> None:
    counts = Counter(bucket_of_prompt(f"prompt-{number}", SIZES) for number in range(600))
    assert set(counts) == set(SIZES) and min(counts.values()) > 150
    assert bucket_of_prompt("prompt-1", SIZES) == bucket_of_prompt("prompt-1", SIZES)


def test_sizes_that_are_none_are_refused() -> None:
    with pytest.raises(UserError, match=r"A bucket of 0 x 8 px is no size"):
        checked_buckets([(0, 8)])
    with pytest.raises(UserError, match=r"same aspect ratio: 64 x 32 px and 128 x 64 px.*Leave one of them out"):
        checked_buckets([(64, 32), (128, 64)])
