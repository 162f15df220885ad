"""The arms of the policy trial, by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.arms import SpreadPolicy
from benchmarks.trial_run import Arm
from benchmarks.trial_world import EVEN_SHARES, WORLD
from evolvedirector.policies import EvolveDirectorPolicy, Mastery, Operation, ScreeningPolicy

REFERENCE = "static 5N"
"""Every arm is compared with this one, seed by seed."""
OPERATIONS: tuple[Operation, ...] = ("discrimination", "expansion", "deletion", "mutation")


def _without(name: str, policy: Any) -> dict[str, Arm]:
    return {f"{name}, {operation} off": Arm(partial(policy, without={operation})) for operation in OPERATIONS}


ARMS: Mapping[str, Arm] = {
    **{f"static {times if times > 1 else ''}N": Arm(times_n=times) for times in (1, 2, 4, 5, 8, 16)},
    "un-skewed N": Arm(shares=EVEN_SHARES),
    "un-skewed 5N": Arm(times_n=5, shares=EVEN_SHARES),
    "no judge": Arm(partial(SpreadPolicy, WORLD.skills), checked=False),
    "no judge, images drawn evenly": Arm(partial(SpreadPolicy, WORLD.skills, evenly_drawn=False), checked=False),
    "published": Arm(EvolveDirectorPolicy),
    **_without("published", EvolveDirectorPolicy),
    "screening": Arm(ScreeningPolicy),
    **_without("screening", ScreeningPolicy),
    "screening, replay off": Arm(partial(ScreeningPolicy, mastery=Mastery(replay_share=0.0))),
    "screening, error 10 %": Arm(ScreeningPolicy, judge={"error_rate": 0.1}),
    "screening, error 30 %": Arm(ScreeningPolicy, judge={"error_rate": 0.3}),
    "screening, always first": Arm(ScreeningPolicy, judge={"always_first": True}),
    "screening, error 30 %, judge not checked": Arm(ScreeningPolicy, judge={"error_rate": 0.3}, checked=False),
    "screening, half unreadable": Arm(ScreeningPolicy, judge={"unreadable_rate": 0.5}),
}
