"""What selects by an aspect of a picture and what evaluates it: both see what was made worse, each in its own way."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from evolvedirector.records import ImageAndPrompt, ImageRequest
from evolvedirector.rewards.reward import Reward
from evolvedirector.worlds.shapes import (
    CleanBackground,
    Colourfulness,
    MeanSaturation,
    MiniaturePrompts,
    MiniatureTeacher,
    MirrorOverlap,
    MirrorSymmetry,
    SmoothBackground,
    World,
)
from evolvedirector.worlds.shapes.background_noise import deviation, ground_of, roughness
from evolvedirector.worlds.shapes.colourfulness import mean_saturation, opponent_spread
from evolvedirector.worlds.shapes.paint import paint_of
from evolvedirector.worlds.shapes.symmetry import mirror_correlation, mirror_overlap

WORLD = World(("circle", "square", "triangle", "star"), ("red", "green", "blue", "yellow"))
PAIRS: dict[str, tuple[Reward, Reward]] = {
    "colourfulness": (Colourfulness(), MeanSaturation()),
    "symmetry": (MirrorSymmetry(), MirrorOverlap(WORLD)),
    "background noise": (CleanBackground(WORLD), SmoothBackground(WORLD)),
}
RNG = np.random.default_rng(0)
NOISE = RNG.normal(0.0, 1.0, (32, 32, 3))
Pixels = np.ndarray


def png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def drawn(count: int = 24) -> list[Pixels]:
    prompts = MiniaturePrompts(WORLD, count, 0).prompts()
    requests = [ImageRequest(p.id, p.text, n, 32, 32) for n, p in enumerate(prompts)]
    images = [reply.image or b"" for reply in MiniatureTeacher(WORLD, layout="tidy").generate(requests)]
    return [np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=np.float64) for image in images]


PICTURES = drawn()


def values(reward: Reward, pictures: list[Pixels]) -> np.ndarray:
    items = [ImageAndPrompt(str(place), png(pixels), "a red circle") for place, pixels in enumerate(pictures)]
    return np.array([score.value for score in reward.score(items)])


def greyed(share: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: (1 - share) * pixels + share * pixels.mean(axis=-1, keepdims=True)


def sheared(px: int) -> Callable[[Pixels], Pixels]:
    """Move the rows of a picture sideways, further down the more."""
    return lambda pixels: np.stack([np.roll(row, px * place // 16, axis=0) for place, row in enumerate(pixels)])


def noisy(deviation: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: pixels + deviation * NOISE


def drifting(steps: float) -> Callable[[Pixels], Pixels]:
    """Let a picture grow darker from left to right."""
    return lambda pixels: pixels - np.arange(32)[None, :, None] * steps


@pytest.mark.parametrize(
    ("aspect", "harms"),
    [
        ("colourfulness", [greyed(0.0), greyed(0.2), greyed(0.5), greyed(1.0)]),
        ("symmetry", [sheared(0), sheared(1), sheared(3)]),
        ("background noise", [noisy(0.0), noisy(4.0), noisy(12.0)]),
    ],
)
def test_both_measures_of_an_aspect_fall_the_more_it_is_harmed(
    aspect: str, harms: list[Callable[[Pixels], Pixels]]
) -> None:
    for reward in PAIRS[aspect]:
        means = [values(reward, [harm(pixels) for pixels in PICTURES]).mean() for harm in harms]
        assert means == sorted(means, reverse=True) and len(set(means)) == len(means)


@pytest.mark.parametrize("aspect", PAIRS)
def test_the_evaluator_of_an_aspect_is_another_measure_than_what_selects(aspect: str) -> None:
    selects, evaluates = PAIRS[aspect]
    assert isinstance(selects, Reward) and isinstance(evaluates, Reward)
    assert selects.fingerprint != evaluates.fingerprint
    harmed = [harm(pixels) for harm in (greyed(0.3), sheared(1), noisy(6.0), drifting(0.5)) for pixels in PICTURES]
    first, second = values(selects, PICTURES + harmed), values(evaluates, PICTURES + harmed)
    ranks = [value.argsort().argsort() for value in (first, second)]
    assert 0.1 < np.corrcoef(*ranks)[0, 1] < 0.999, "they agree, and one does not follow from the other"


def test_colourfulness_by_hand() -> None:
    pixels = np.zeros((2, 2, 3))
    pixels[0] = (255, 0, 0)
    # rg: 255 255 0 0, yb: 127.5 127.5 0 0: deviations 127.5 and 63.75, means the same
    assert opponent_spread(pixels) == pytest.approx(1.3 * math.hypot(127.5, 63.75))
    assert opponent_spread(np.full((4, 4, 3), 90.0)) == 0.0
    assert mean_saturation(pixels) == 0.5 and mean_saturation(np.full((4, 4, 3), 90.0)) == 0.0
    assert mean_saturation(np.full((1, 1, 3), (200, 100, 150))) == 0.5


def test_a_mirror_image_correlates_fully_and_its_negative_not_at_all() -> None:
    half = RNG.uniform(0, 255, (8, 4, 3))
    assert mirror_correlation(np.concatenate([half, half[:, ::-1]], axis=1)) == pytest.approx(1.0)
    turned = 255 - half[:, ::-1]
    assert mirror_correlation(np.concatenate([half, turned], axis=1)) == pytest.approx(-1.0)
    assert mirror_correlation(np.full((8, 8, 3), 7.0)) == 1.0


def test_the_overlap_with_the_mirror_image_by_hand() -> None:
    def overlap(left: int, right: int) -> float:
        pixels = np.full((32, 32, 3), 240.0)
        pixels[8:24, left:right] = (222, 34, 44)
        return mirror_overlap(paint_of(Image.fromarray(pixels.astype(np.uint8)), WORLD))

    assert overlap(8, 24) == 1.0
    assert overlap(10, 26) == 12 / 20  # columns 10 to 25 and 6 to 21
    assert overlap(2, 12) == 0.0
    assert mirror_overlap(paint_of(Image.new("RGB", (32, 32), (240, 240, 240)), WORLD)) == 0.0


def test_noise_on_a_shape_is_no_noise_of_the_ground_and_a_slow_drift_is_smooth() -> None:
    pixels = np.full((32, 32, 3), 240.0)
    pixels[8:24, 8:24] = (222, 34, 44)
    clean = paint_of(Image.fromarray(pixels.astype(np.uint8)), WORLD)
    ground = ground_of(clean)
    assert ground.sum() == 32 * 32 - 20 * 20 and not ground[6:26, 6:26].any()
    assert deviation(clean) == roughness(clean) == 0.0
    inner = pixels.copy()
    inner[10:22, 10:22] += 6 * NOISE[10:22, 10:22]
    spoilt = paint_of(Image.fromarray(np.clip(inner, 0, 255).astype(np.uint8)), WORLD)
    assert deviation(spoilt) == roughness(spoilt) == 0.0
    drifted = paint_of(Image.fromarray(drifting(0.75)(pixels).astype(np.uint8)), WORLD)
    assert deviation(drifted) > 3.0 > 1.0 > roughness(drifted) > 0.0


def test_shapes_that_fill_a_picture_leave_no_ground() -> None:
    pixels = np.full((32, 32, 3), 240.0)
    pixels[1:31, 1:31] = (222, 34, 44)
    full = paint_of(Image.fromarray(pixels.astype(np.uint8)), WORLD)
    assert not ground_of(full).any() and deviation(full) == roughness(full) == 0.0


@pytest.mark.parametrize("reward", [reward for pair in PAIRS.values() for reward in pair])
def test_what_is_no_image_has_no_score_and_costs_the_others_nothing(reward: Reward) -> None:
    items = [ImageAndPrompt("broken", b"no image", "x"), ImageAndPrompt("whole", png(PICTURES[0]), "x")]
    found = {score.item_id: score for score in reward.score(items)}
    assert math.isnan(found["broken"].value) and "no image" in found["broken"].reason
    assert math.isfinite(found["whole"].value)
