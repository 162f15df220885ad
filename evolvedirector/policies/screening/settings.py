"""The settings of a screening policy, grouped by the question they answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from evolvedirector.errors import UserError


@dataclass(frozen=True)
class Pace:
    """When the budget is spent, and how much of a round one skill or one lineage may take.

    Args:
        buying_share: Share of the rounds in which images are bought, d, over 0 to 1; the rest trains on what is there.
        early_share: Share of the budget spent in the first round, 0 to 1; the rest waits until looks tell skills apart,
            at most until half of those rounds. None: spends evenly, as where the number of rounds is not known.
        open_end_share: Share of what is left that a round may spend when the number of rounds is not known, 0 to 1.
        most_of_round: Most of a round's purchases that one skill may take, over 0 to 1.
        calls_per_lineage: Most images of one lineage; further ones are neither written nor bought. None: no cap.
        test_all_share: Share of the bought prompts that every teacher draws, 0 to 1.

    Raises:
        UserError: A share or count out of its range.
    """

    buying_share: float = 0.5
    early_share: float | None = None
    open_end_share: float = 0.25
    most_of_round: float = 0.5
    calls_per_lineage: int | None = None
    test_all_share: float = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("open_end_share", "test_all_share"):
            _check_share(self, name)
        for name in ("buying_share", "most_of_round"):
            _check_positive_share(self, name)
        if self.early_share is not None:
            _check(self, "early_share", "0 to 1, or null to spend evenly", 0.0, 1.0)
        if self.calls_per_lineage is not None:
            _check(self, "calls_per_lineage", "1 or more, or null for no cap", 1)


@dataclass(frozen=True)
class Screening:
    """Which candidates are written, and how many failures make a skill worth buying from.

    Args:
        candidates_per_call: Candidates written for each image the round may buy, at least.
        most_candidates_per_call: Candidates written for each image at most, where few of them fail: a round writes as
            many as it takes to find one that is worth its image. As many as `candidates_per_call`: always that many.
        mutation_share: Least share of the candidates that have no parent, 0 to 1.
        least_expansion_share: Least share of the candidates that are children of failing prompts, 0 to 1: between the
            two, expansion and mutation have shares by what each of them yields. None: all but `mutation_share` are
            children, as far as there are parents.
        children_per_parent: Most children written for one prompt in a round.
        min_candidates_per_skill: Unseen prompts of a skill below which its measurement needs probes of trained ones.
        error_deviations: A skill is bought from when more fail than the judge's error explains, by so many standard
            deviations; a perfect judge needs one failure.

    Raises:
        UserError: A share or count out of its range.
    """

    candidates_per_call: int = 4
    most_candidates_per_call: int = 64
    mutation_share: float = 0.2
    least_expansion_share: float | None = 0.2
    children_per_parent: int = 4
    min_candidates_per_skill: int = 10
    error_deviations: float = 2.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_share(self, "mutation_share")
        for name in ("candidates_per_call", "children_per_parent", "min_candidates_per_skill"):
            _check(self, name, "1 or more", 1)
        _check(self, "error_deviations", "0 or more", 0)
        least = self.candidates_per_call
        _check(self, "most_candidates_per_call", f"candidates_per_call, {least}, or more", least)
        if self.least_expansion_share is not None:
            most = 1.0 - self.mutation_share
            allowed = f"0 to {most:g}, what mutation_share leaves, or null for no share by yield"
            _check(self, "least_expansion_share", allowed, 0.0, most + 1e-9)


@dataclass(frozen=True)
class Confirming:
    """How often a candidate is looked at before it is bought, where the judge errs.

    A candidate is looked at again, at another drawing of the student, while that gains more than it costs: sensitivity
    and specificity of the judge, the share that fails and the prices of look and image decide. The looks of an exact
    judge decide at once.

    Args:
        most_looks: Most looks at one candidate; 1: one look decides, whatever the judge.
        looks_per_image_price: Looks that cost as much as one image, where the budget knows not both prices: 80 at 0.04
            USD an image and 0.0005 USD a look.
        assumed_accuracy: Sensitivity and specificity of a judge of which nothing was measured (no gold), over 0.5 to 1;
            1 takes each of its looks for the truth.

    Raises:
        UserError: A number out of its range.
    """

    most_looks: int = 6
    looks_per_image_price: float = 80.0
    assumed_accuracy: float = 0.9

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(self, "most_looks", "1 to 32", 1, 32)
        _check(self, "looks_per_image_price", "1 or more", 1.0)
        _check(self, "assumed_accuracy", "over 0.5, up to 1", 0.5 + 1e-6, 1.0)


@dataclass(frozen=True)
class Weighting:
    """How looks become failure rates, and rates the shares in which skills are written, bought and drawn.

    Args:
        smoothing: Weight of the newest round in a failure rate, over 0 to 1.
        least_rate: Floor of a failure rate when candidates and purchases are shared out, over 0 to 1.
        near_empty_rate: Floor of the failure rate of a skill with hardly any unseen prompts left, 0 to 1.
        least_weight: Floor of a skill's draw weight, over 0. The weight is 1 while f >= 0.5 and where no unseen prompts
            are left to measure f, else max(floor, 4 f (1 - f)).
        loss_power: Inside a skill, draw each live sample in proportion to its running loss to this power, 0 to 2: 0
            draws all alike, 0.5 gently, 1 in proportion. The student must be able to measure it: `TextToImage` is.
        most_losses: Live samples whose loss a round measures, at most; of more, those measured longest ago come first.

    Raises:
        UserError: A rate, power or weight out of its range.
    """

    smoothing: float = 0.5
    least_rate: float = 0.05
    near_empty_rate: float = 0.15
    least_weight: float = 0.35
    # left out of the name of a policy without them: rounds of before keep theirs
    loss_power: float = field(default=0.0, repr=False)
    most_losses: int = field(default=2048, repr=False)

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("smoothing", "least_rate"):
            _check_positive_share(self, name)
        _check_share(self, "near_empty_rate")
        _check(self, "least_weight", "over 0", 1e-6)
        _check(self, "loss_power", "0 to 2", 0.0, 2.0)
        _check(self, "most_losses", "1 or more", 1)


@dataclass(frozen=True)
class Mastery:
    """When a lineage is mastered or taken back, and how often mastered prompts are drawn again.

    Args:
        master_failed_share: Failed share of unseen children up to which a lineage passes a round, 0 to 1.
        revive_failed_share: Failed share of probes above which a mastered lineage is live again, 0 to 1.
        min_looks_per_lineage: Looks below which a round says nothing about a lineage.
        mastered_probes: Mastered prompts that the student draws again per round, to detect forgetting.
        replay_share: Share of training draws that repeat mastered prompts, 0 to 1; 0 draws them like live ones.

    Raises:
        UserError: A share or count out of its range.
    """

    master_failed_share: float = 0.1
    revive_failed_share: float = 0.2
    min_looks_per_lineage: int = 4
    mastered_probes: int = 16
    replay_share: float = 0.25

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("master_failed_share", "revive_failed_share", "replay_share"):
            _check_share(self, name)
        _check(self, "min_looks_per_lineage", "1 or more", 1)
        _check(self, "mastered_probes", "0 or more", 0)


def _check_share(group: object, name: str) -> None:
    _check(group, name, "0 to 1", 0.0, 1.0)


def _check_positive_share(group: object, name: str) -> None:
    _check(group, name, "over 0, up to 1", 1e-6, 1.0)


def _check(group: object, name: str, allowed: str, least: float, most: float = math.inf) -> None:
    value = getattr(group, name)
    if not least <= value <= most:
        place = f"{type(group).__name__.lower()}.{name}"
        raise UserError(f"{place} is {value}. Allowed: {allowed}. Leave {name} out to take its default.")
