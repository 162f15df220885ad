"""The arms of the gap benchmark: how each chooses what it buys, who looks, and how what is bought is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.arms import SpreadPolicy
from benchmarks.gap_policies import FailureFeedbackPolicy, OraclePolicy, RewardVariancePolicy
from benchmarks.gap_world import GapWorld
from evolvedirector.judges.judge import Judge
from evolvedirector.policies import EvolveDirectorPolicy, Mastery, ScreeningPolicy, Weighting
from evolvedirector.policies.policy import Policy
from evolvedirector.policies.screening.settings import Confirming, Screening

REPLAY_SHARE = 0.5
"""Half of the draws of a fine-tuning repeat the pretraining set, in every arm."""


@dataclass(frozen=True, slots=True)
class Arm:
    """Say how one arm chooses what it buys, and how it draws it.

    Args:
        policy: Makes the policy. None: a static set of even prompts, bought before training.
        by_loss: Draw each image of a static set in proportion to its loss under the base, to this power; 0 draws all
            alike.
        throttle: Draw the images of a static set that the base already knows (loss below the median of its replay) a
            tenth as often.
        error_rate: Share of wrong looks of the training judge.
        vlm: The packaged vision-language model is the training judge, with its own mistakes.
        seed_share: Share of the calls that buy even prompts before training, for policies that need live prompts.
        ablation: Leaves one piece of the policy out; run only where it is named.
    """

    policy: Callable[[GapWorld], Policy] | None = None
    by_loss: float = 0.0
    throttle: bool = False
    error_rate: float = 0.0
    vlm: bool = False
    seed_share: float = 0.0
    ablation: bool = False

    def runs_in(self, world: GapWorld) -> bool:
        """Tell whether a world has what the arm needs."""
        return world.has_vlm or not self.vlm

    def judge(self, world: GapWorld, seed: int) -> Judge:
        """Return the training judge."""
        return world.vlm() if self.vlm else world.judge(self.error_rate, seed)


def _screening(world: GapWorld) -> Policy:
    return ScreeningPolicy(mastery=Mastery(replay_share=REPLAY_SHARE))


def _without(
    screening: Screening = Screening(),  # noqa: B008 - frozen
    confirming: Confirming = Confirming(),  # noqa: B008
) -> Arm:
    """Leave one piece out of the screening policy, where the judge errs in a fifth of its looks."""
    mastery = Mastery(replay_share=REPLAY_SHARE)
    return Arm(
        lambda world: ScreeningPolicy(mastery=mastery, screening=screening, confirming=confirming),
        error_rate=0.2,
        ablation=True,
    )


def _screening_by_loss(world: GapWorld) -> Policy:
    return ScreeningPolicy(mastery=Mastery(replay_share=REPLAY_SHARE), weighting=Weighting(loss_power=1.0))


ARMS: Mapping[str, Arm] = {
    "static even": Arm(),
    "static even, drawn by loss": Arm(by_loss=1.0),
    "static even, throttled by loss": Arm(throttle=True),
    "writer spread over skills": Arm(lambda world: SpreadPolicy(tuple(world.skills), evenly_drawn=False)),
    "reward variance": Arm(lambda world: RewardVariancePolicy(world.skills)),
    "failure feedback": Arm(lambda world: FailureFeedbackPolicy(world.skills)),
    "published rule": Arm(lambda world: EvolveDirectorPolicy(), seed_share=0.34),
    "screening": Arm(_screening),
    "screening, 10 % wrong looks": Arm(_screening, error_rate=0.1),
    "screening, 20 % wrong looks": Arm(_screening, error_rate=0.2),
    "screening, tiny VLM": Arm(_screening, vlm=True),
    "screening, drawn by loss": Arm(_screening_by_loss),
    "screening, 20 % wrong looks, drawn by loss": Arm(_screening_by_loss, error_rate=0.2),
    "screening, one look": _without(confirming=Confirming(most_looks=1)),
    "screening, fixed candidates": _without(Screening(most_candidates_per_call=4)),
    "screening, no share by yield": _without(Screening(least_expansion_share=None)),
    "oracle": Arm(lambda world: OraclePolicy(world.hides, world.skills)),
}
"""The three ablations have 20 % wrong looks: beside "screening, 20 % wrong looks" each lacks one piece."""
