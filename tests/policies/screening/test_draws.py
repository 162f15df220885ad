"""Draws by loss: weights that grow with the running loss, and a policy that is the same where they are off."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvedirector.policies import ScreeningPolicy, Weighting
from evolvedirector.policies.policy import DrawsByLoss
from evolvedirector.policies.screening.draws import MOST_TIMES, running_loss, weights_by_loss
from evolvedirector.records import DatasetState, Prompt, PromptEntry, RoundInfo, Sample

ROUND = RoundInfo("r", 0, 4, 0, 1, "sha", budget_teacher_calls=10)


def test_a_running_loss_forgets_by_halves() -> None:
    assert running_loss([0.8], 0.5) == 0.8
    assert running_loss([0.8, 0.4, 0.2], 0.5) == pytest.approx(0.4)
    assert running_loss([0.8, 0.4], 1.0) == 0.4


def test_a_weight_is_in_proportion_or_grows_gently_and_the_mean_sample_has_1() -> None:
    losses = {"a": (0.1,), "b": (0.4,), "c": (0.4, 0.0, 0.3)}
    assert weights_by_loss(losses, 1.0, 0.5) == {"a": 0.4, "b": 1.6, "c": 1.0}
    gentle = weights_by_loss(losses, 0.5, 0.5)
    assert gentle["b"] / gentle["a"] == pytest.approx(2.0, rel=1e-3)
    assert sum(gentle.values()) == pytest.approx(3.0, rel=1e-3)


@given(st.lists(st.floats(0.0, 100.0), max_size=40), st.floats(0.1, 2.0))
def test_no_image_takes_over_and_none_is_forgotten(losses: list[float], power: float) -> None:
    weights = weights_by_loss({f"{n}": (loss,) for n, loss in enumerate(losses)}, power, 0.5)
    assert len(weights) in (0, len(losses))
    assert all(1 / MOST_TIMES <= weight <= MOST_TIMES for weight in weights.values())


def test_losses_that_say_nothing_leave_all_alike() -> None:
    assert weights_by_loss({}, 1.0, 0.5) == weights_by_loss({"a": (0.0,), "b": (0.0,)}, 1.0, 0.5) == {}


def state(**more: object) -> DatasetState:
    prompts = [Prompt.create(f"thing {n}", skill="one") for n in range(2)]
    samples = [Sample.create(prompt, f"{n}" * 64, "toy") for n, prompt in enumerate(prompts)]
    entries = {p.id: PromptEntry(p, "live", s) for p, s in zip(prompts, samples, strict=True)}
    found = DatasetState("sha", entries, losses={s.key: (1.0 + 2.0 * n,) for n, s in enumerate(samples)})
    return replace(found, **more)  # type: ignore[arg-type]


def test_the_policy_weighs_samples_only_where_it_is_told_to() -> None:
    assert isinstance(ScreeningPolicy(), DrawsByLoss)
    off, on = ScreeningPolicy(), ScreeningPolicy(weighting=Weighting(loss_power=1.0, most_losses=7))
    assert (off.plan(state(), ROUND).most_losses, on.plan(state(), ROUND).most_losses) == (0, 7)
    of_off, of_on = off.mix(state(), [], ROUND), on.mix(state(), [], ROUND)
    assert of_off is not None and of_on is not None
    assert of_off.sample_weights is None and sorted((of_on.sample_weights or {}).values()) == [0.5, 1.5]
    assert (of_off.skill_weights, of_off.replay_share) == (of_on.skill_weights, of_on.replay_share)


def test_weights_of_a_run_before_are_taken_away_where_the_option_is_off() -> None:
    mix = ScreeningPolicy().mix(state(sample_weights={"a": 2.0}), [], ROUND)
    assert mix is not None and mix.sample_weights == {}


def test_a_policy_that_draws_by_loss_has_another_name_and_one_that_does_not_keeps_its_own() -> None:
    plain, capped = ScreeningPolicy(), ScreeningPolicy(weighting=Weighting(most_losses=7))
    assert plain.fingerprint == capped.fingerprint == "screening-2/aaaa4698ac6237e0"
    names = [ScreeningPolicy(weighting=Weighting(loss_power=p, most_losses=m)) for p, m in ((1, 7), (1, 8), (0.5, 7))]
    assert len({plain.fingerprint, *(policy.fingerprint for policy in names)}) == 4
