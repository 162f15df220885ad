"""The losses of ECLIPSE, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from evolvedirector.lightning_modules.objectives.prior_losses import (
    Texts,
    contrastive_loss,
    projection_loss,
    text_names,
    texts_of,
    total_loss,
)

ROOT = math.sqrt(2)
IMAGES = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
TEXTS = torch.tensor([[5.0, 0.0], [1.0, 1.0]])  # cosines with the images: 1, 1/root; 0, 1/root


def test_the_projection_is_the_sum_or_the_mean_over_dimensions() -> None:
    predicted, target = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert projection_loss(predicted, target, "sum").tolist() == [5, 25]
    assert projection_loss(predicted, target, "mean").tolist() == [2.5, 12.5]


def test_an_image_chooses_among_texts_and_no_text_among_images() -> None:
    found = contrastive_loss(IMAGES, Texts(TEXTS, torch.arange(2)), temperature=0.5)
    by_hand = [math.log(1 + math.exp(ROOT - 2)), math.log(1 + math.exp(-ROOT))]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-5)
    other_way = [math.log(1 + math.exp(-2)), math.log(2)]
    assert found.tolist() != pytest.approx(other_way, rel=1e-2)


def test_only_directions_count() -> None:
    texts = Texts(TEXTS, torch.arange(2))
    longer = contrastive_loss(7 * IMAGES, Texts(0.1 * TEXTS, texts.names), 0.5)
    torch.testing.assert_close(longer, contrastive_loss(IMAGES, texts, 0.5))


def test_an_equal_text_is_no_negative() -> None:
    images, texts = torch.cat([IMAGES, IMAGES[:1]]), torch.cat([TEXTS, TEXTS[:1]])
    found = contrastive_loss(images, texts_of(texts, ["one", "two", "one"], gather=False), 0.5)
    alone = math.log(1 + math.exp(ROOT - 2))
    assert found[0].item() == pytest.approx(alone, rel=1e-5) == found[2].item()
    unequal = contrastive_loss(images, Texts(texts, torch.arange(3)), 0.5)
    assert unequal[0] > found[0]
    assert found[1].item() == pytest.approx(math.log(1 + 2 * math.exp(-ROOT)), rel=1e-5)


def test_a_rank_finds_its_own_texts_among_those_of_all() -> None:
    names = text_names(["a", "b", "c", "d"])
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
    whole = contrastive_loss(images, Texts(texts, names), 0.1)
    second = contrastive_loss(images[2:], Texts(texts, names, first=2), 0.1)
    torch.testing.assert_close(second, whole[2:])


def test_the_weight_is_lambda() -> None:
    assert total_loss(torch.tensor([5.0]), torch.tensor([2.0]), 0.2).item() == pytest.approx(5.4)


def test_names_of_texts_are_the_same_everywhere() -> None:
    assert text_names(["a fox"]).tolist() == [1539679554248031070] == text_names(["a fox", "b"])[:1].tolist()
