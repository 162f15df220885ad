"""The diffusion baseline: its noise, its guidance, and what it needs of the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import DiffusionPriorObjective
from evolvedirector.lightning_modules.priors.prior_condition import PriorCondition
from evolvedirector.lightning_modules.priors.prior_objective import PriorDraws

CONDITION = PriorCondition(torch.ones(2, 3), torch.ones(2, 1, 3), torch.ones(2, 1, dtype=torch.bool))
NULL = PriorCondition(torch.zeros(1, 3), torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))


def test_a_network_that_knows_the_answer_loses_nothing_and_draws_it() -> None:
    objective = DiffusionPriorObjective(sampling_steps=7, guidance_scale=1, embedding_scale=2.0)
    target = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    seen: list[Any] = []

    def predict(noisy: torch.Tensor, time: torch.Tensor | None, condition: PriorCondition) -> torch.Tensor:
        seen.append((noisy, time))
        return 2 * target

    draws = PriorDraws(torch.zeros(2, dtype=torch.bool), torch.tensor([0.0, 999.0]), torch.ones(2, 3))
    assert objective.losses(predict, target, CONDITION, draws, ["a", "b"]).total.tolist() == [0, 0]
    noisy, time = seen[0]
    torch.testing.assert_close(noisy[0], 2 * target[0], atol=0.03, rtol=0.03)  # hardly any noise, then nothing else
    torch.testing.assert_close(noisy[1], torch.ones(3), atol=1e-2, rtol=0)
    assert time.tolist() == [0, 999]
    drawn = objective.sample(predict, (2, 3), [1, 2], CONDITION, None)
    torch.testing.assert_close(drawn, target, atol=0.1, rtol=0.05)
    assert [float(time[0]) for _, time in seen[1:]] == sorted((float(time[0]) for _, time in seen[1:]), reverse=True)
    assert len(seen) == 8 and float(seen[1][1][0]) == 999
    assert objective.times(torch.tensor([1e-9, 0.4996, 1 - 1e-9], dtype=torch.float64)).tolist() == [0, 499, 999]


def test_guidance_leads_away_from_the_empty_text() -> None:
    objective = DiffusionPriorObjective(sampling_steps=1, guidance_scale=4.0)

    def predict(noisy: torch.Tensor, time: torch.Tensor | None, condition: PriorCondition) -> torch.Tensor:
        assert condition.text_mask.shape == (4, 2) and condition.text_mask.sum(1).tolist() == [1, 1, 2, 2]
        return condition.text_embedding

    assert objective.guides and not DiffusionPriorObjective(guidance_scale=1).guides
    drawn = objective.sample(predict, (2, 3), [1, 2], CONDITION, NULL)
    torch.testing.assert_close(drawn, torch.full((2, 3), 4.0), atol=0.2, rtol=0)  # 0 + 4 (1 - 0)


def test_numbers_out_of_range_are_refused() -> None:
    for wrong in (
        {"sampling_steps": 0},
        {"sampling_steps": 1001},
        {"condition_dropout": 1.0},
        {"embedding_scale": 0.0},
    ):
        with pytest.raises(UserError, match="embedding_scale"):
            DiffusionPriorObjective(**wrong)  # type: ignore[arg-type]
    for scale in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="guidance_scale is"):
            DiffusionPriorObjective(guidance_scale=scale)
    with pytest.raises(UserError, match="condition_dropout 0, so drawing would read an empty text"):
        DiffusionPriorObjective(condition_dropout=0)
    assert not DiffusionPriorObjective(condition_dropout=0, guidance_scale=1).guides
    with pytest.raises(UserError, match="schedule is 'cosine'"):
        DiffusionPriorObjective(schedule="cosine")  # type: ignore[arg-type]
