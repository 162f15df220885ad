"""Noise that follows from seeds: the published generator, a Gaussian, and the same row whatever stands beside it."""

from __future__ import annotations

import torch

from evolvedirector.lightning_modules.seeded_noise import seeded_normal, seeded_uniform

MASK = 2**64 - 1


def mix(state: int) -> int:
    """SplitMix64's output function, in plain integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def test_a_row_is_a_stream_of_the_published_generator() -> None:
    seeds = [0, 1, 12345, -7, 2**63 - 1]
    found = seeded_uniform(torch.tensor(seeds), 3, first=1)
    for row, seed in zip(found.tolist(), seeds, strict=True):
        begin = mix((seed + 0x9E3779B97F4A7C15) & MASK)
        wanted = [mix((begin + place * 0x9E3779B97F4A7C15) & MASK) >> 11 for place in (2, 3, 4)]
        assert row == [(bits + 0.5) * 2.0**-53 for bits in wanted]


def test_it_is_gaussian_and_rows_and_columns_do_not_know_each_other() -> None:
    noise = seeded_normal(torch.arange(2000), 51)
    assert noise.shape == (2000, 51) and noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.01 and abs(float(noise.std()) - 1) < 0.01
    assert abs(float((noise**4).mean()) - 3) < 0.1
    for rows in (noise, noise.T):  # the largest of so many chance correlations stays below 5.5 deviations
        scaled = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
        correlations = (scaled @ scaled.T / rows.shape[1])[:300, :300].fill_diagonal_(0)
        assert float(correlations.abs().max()) < 5.5 / rows.shape[1] ** 0.5


def test_a_row_is_the_same_whatever_stands_beside_it() -> None:
    whole = seeded_normal(torch.arange(10), 7)
    assert torch.equal(seeded_normal(torch.tensor([4]), 7)[0], whole[4])
    assert not torch.equal(whole[4], whole[5])
