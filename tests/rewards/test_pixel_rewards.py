"""Sharpness and straightness against pictures whose order, or value, is known."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from evolvedirector.records import ImageAndPrompt
from evolvedirector.rewards import GeometryScore, Reward, SharpnessScore
from evolvedirector.rewards.geometry_score import edge_straightness
from evolvedirector.rewards.grey_picture import grey_picture


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def drawn(edge: Callable[[int], float], size_px: int = 128) -> Image.Image:
    """A bright ground below an edge, drawn at four times the size."""
    large = Image.new("L", (size_px * 4, size_px * 4), 60)
    points = [(x, edge(x) * 4) for x in range(0, size_px * 4 + 1, 4)]
    ImageDraw.Draw(large).polygon([*points, (size_px * 4, size_px * 4), (0, size_px * 4)], fill=200)
    return large.resize((size_px, size_px), Image.Resampling.BOX).convert("RGB")


def values(reward: Reward, *pictures: Image.Image) -> list[float]:
    items = [ImageAndPrompt(str(place), png(picture), "a wall") for place, picture in enumerate(pictures)]
    return [score.value for score in reward.score(items)]


def test_sharpness_is_the_variance_of_the_laplacian_by_hand() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (20, 24)).astype(np.uint8)
    y = grey / 255.0
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]
    found = values(SharpnessScore(size_px=20), Image.fromarray(grey).convert("RGB"))
    assert found == pytest.approx([laplacian.var()], rel=1e-3)


def test_the_more_an_image_is_blurred_the_lower_it_scores_at_every_size() -> None:
    sharp = drawn(lambda x: 40 + x / 8)
    blurred = [sharp.filter(ImageFilter.GaussianBlur(radius)) for radius in (1, 2, 4)]
    for size_px in (64, 128, 256):
        found = values(SharpnessScore(size_px), sharp, *blurred)
        assert found == sorted(found, reverse=True) and len(set(found)) == 4
    assert values(SharpnessScore(), Image.new("RGB", (64, 64), (9, 9, 9))) == [pytest.approx(0.0, abs=1e-9)]


def test_straight_edges_score_higher_the_less_they_bend() -> None:
    waves = [drawn(lambda x, a=height: 64 + x / 16 + a * math.sin(x / 12)) for height in (0, 1, 3, 6)]
    found = values(GeometryScore(size_px=128), *waves)
    assert found == sorted(found, reverse=True) and found[0] > 0.99 and found[-1] < found[0] - 0.1
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8))
    assert values(GeometryScore(size_px=128), noise)[0] < 0.35


def test_parallel_edges_are_one_direction_and_crossing_ones_none() -> None:
    stripes = torch.zeros(1, 1, 64, 64)
    stripes[..., ::8] = 1.0
    crossed = torch.maximum(stripes, stripes.transpose(2, 3))
    assert edge_straightness(stripes, 16) == pytest.approx(1.0, abs=1e-5)
    assert edge_straightness(crossed, 16) < 0.2
    assert math.isnan(edge_straightness(torch.full((1, 1, 64, 64), 0.5), 16))


def test_what_has_no_edges_or_is_no_image_says_so() -> None:
    flat = ImageAndPrompt("flat", png(Image.new("RGB", (64, 64), (90, 90, 90))), "a wall")
    broken = ImageAndPrompt("broken", b"no image", "a wall")
    found = {score.item_id: score for score in GeometryScore().score([flat, broken])}
    assert math.isnan(found["flat"].value) and found["flat"].reason == "it has no edges"
    assert math.isnan(found["broken"].value) and "no image that can be read" in found["broken"].reason


def test_images_keep_their_proportions_and_grey_is_luma() -> None:
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    image[0] = 255
    grey = grey_picture(image, 20)
    assert grey.shape == (1, 1, 20, 40) and torch.allclose(grey, torch.tensor(0.299))
    assert grey_picture(image, 40).shape == (1, 1, 40, 80)


@pytest.mark.parametrize("reward", [SharpnessScore, GeometryScore])
def test_the_size_is_part_of_the_name_and_too_small_ones_are_refused(reward: type) -> None:
    assert isinstance(reward(), Reward) and reward(64).fingerprint != reward(128).fingerprint
    with pytest.raises(ValueError, match=r"size_px is 15\. Allowed is 16 or more"):
        reward(15)
