"""Boxes, coordinates and rotations, by hand."""

from __future__ import annotations

import torch

from evolvedirector.lightning_modules.subjects.placement import (
    box_of_mask,
    box_weights,
    grid,
    grid_coordinates,
    onto,
    rotate,
    within,
)


def test_the_box_of_a_mask_reaches_to_the_far_edge_of_its_last_pixel() -> None:
    mask = torch.zeros(2, 4, 8, dtype=torch.bool)
    mask[0, 1:3, 2:7] = True  # the second is empty: the whole
    assert box_of_mask(mask).tolist() == [[0.25, 0.25, 0.875, 0.75], [0, 0, 1, 1]]


def test_shares_of_a_box_laid_on_another_box() -> None:
    places = torch.tensor([[[0.5, 0.5], [0.25, 0.75]]])
    shares = within(places, torch.tensor([[0.25, 0.5, 0.75, 1.0]]))
    assert shares.tolist() == [[[0.5, 0.0], [0.0, 0.5]]]
    assert torch.allclose(onto(shares, torch.tensor([[0.0, 0.0, 0.5, 0.5]])), torch.tensor([[[0.25, 0], [0, 0.25]]]))


def test_the_grid_of_tokens_on_every_level_of_a_network() -> None:
    assert grid(64, 48, 48) == (8, 8)  # patches of 6
    assert grid(6 * 3, 11, 5) == (6, 3)  # a level below odd sides
    assert grid(3 * 2, 11, 5) == (3, 2)
    assert grid(55, 11, 5) == (11, 5)


def test_rotated_products_depend_on_the_distance_alone_and_are_largest_at_none() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(query_at: list[float], key_at: list[float], key: torch.Tensor = key) -> float:
        places = [torch.tensor([[place]]) for place in (query_at, key_at)]
        return float((rotate(query, places[0]) * rotate(key, places[1])).sum())

    assert abs(product([0.1, 0.2], [0.4, 0.9]) - product([0.3, 0.0], [0.6, 0.7])) < 1e-4
    same = [product([0.5, 0.5], [x, 0.5], query) for x in (0.5, 0.6, 0.9)]
    assert same[0] > max(same[1:])


def test_weights_of_a_box_have_mean_one_and_an_unknown_box_weighs_all_alike() -> None:
    box = torch.tensor([[0.0, 0.0, 0.5, 1.0], [torch.nan] * 4])
    weights = box_weights(box, 2, 4, 3.0)
    assert weights[0, 0, 0].tolist() == [1.5, 1.5, 0.5, 0.5]
    assert weights[1].unique().tolist() == [1.0]


def test_coordinates_are_centres_x_before_y() -> None:
    assert grid_coordinates(1, 2, torch.device("cpu")).tolist() == [[0.25, 0.5], [0.75, 0.5]]
