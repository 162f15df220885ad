"""Which experts are merged and how, as plain settings that a YAML can hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from evolvedirector.errors import UserError
from evolvedirector.experts.expert import Expert
from evolvedirector.experts.merge import factor_mean, product_mean, svd, task_arithmetic
from evolvedirector.experts.merged import Method
from evolvedirector.experts.sparse_merge import Sparsity, dare_linear, dare_ties, ties

NEEDS: Mapping[str, Sequence[str]] = {
    "svd": ("rank",),
    "task_arithmetic": ("scale",),
    **dict.fromkeys(("ties", "dare_linear", "dare_ties"), ("rank", "density")),
}
"""Numbers that a method cannot do without."""
MAY_HAVE: Mapping[str, Sequence[str]] = {
    "task_arithmetic": ("rank",),
    "ties": ("scale",),
    **dict.fromkeys(("dare_linear", "dare_ties"), ("scale", "seed")),
}
"""Numbers that it reads where they are given."""
EXAMPLES: Mapping[str, float] = {"rank": 16, "scale": 0.6, "density": 0.2}
"""What to write for a number that is missing."""


@dataclass(frozen=True)
class Merge:
    """Merge several experts into one by a method of `experts.merge` or `experts.sparse_merge`.

    Args:
        method: Which one.
        experts: Names of what is merged. None: all that there are.
        weights: One for each of them. None: as the method says.
        rank: Of the result. None: the sum of ranks, where the method gives that.
        scale: Factor of the result, of task arithmetic and of sparse merges. None: 1.
        density: Share of entries that sparse merges keep, in (0, 1].
        seed: Names the entries that DARE drops. None: 0.

    Raises:
        UserError: The method does not read a setting that is given, or needs one that is not.
    """

    method: Method = "product_mean"
    experts: Sequence[str] | None = None
    weights: Sequence[float] | None = None
    rank: int | None = None
    scale: float | None = None
    density: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UserError(
                f"method of a merge is {self.method!r}. Allowed: {', '.join(get_args(Method))}. Write method: "
                "product_mean."
            )
        needs, may = NEEDS.get(self.method, ()), MAY_HAVE.get(self.method, ())
        given = {"rank": self.rank, "scale": self.scale, "density": self.density, "seed": self.seed}
        for name, value in given.items():
            is_missing = value is None and name in needs
            if is_missing or (value is not None and name not in (*needs, *may)):
                says = "is null, which nothing chooses for you" if value is None else f"is {value:g}, which is not read"
                raise UserError(
                    f"{name} of the merge by {self.method} {says}. It needs {', '.join(needs) or 'no number'} and may "
                    f"have {', '.join(may) or 'no other'}. Write {{method: {self.method}"
                    + "".join(f", {word}: {EXAMPLES[word]}" for word in needs)
                    + "}, say."
                )

    def of(self, experts: Mapping[str, Expert], name: str) -> Expert:
        """Merge.

        Args:
            experts: By name; those that are not asked for stay out.
            name: Of the result.

        Raises:
            UserError: One is missing, or they cannot be merged.
        """
        wanted = list(experts if self.experts is None else self.experts)
        if missing := [word for word in wanted if word not in experts]:
            raise UserError(
                f"Merge {name!r} takes the expert {missing[0]!r}, which there is not. Allowed: {', '.join(experts)}. "
                "Correct the name."
            )
        return self.of_all([experts[word] for word in wanted], name)

    def of_all(self, chosen: Sequence[Expert], name: str) -> Expert:
        """Merge experts, whatever names the settings have for them.

        Args:
            chosen: All that are merged, in the order of the weights.
            name: Of the result.

        Raises:
            UserError: They cannot be merged.
        """
        if self.method == "product_mean":
            return product_mean(chosen, self.weights, name)
        if self.method == "factor_mean":
            return factor_mean(chosen, self.weights, name)
        if self.method == "svd":
            assert self.rank is not None
            return svd(chosen, self.rank, self.weights, name)
        if self.method == "task_arithmetic":
            assert self.scale is not None
            return task_arithmetic(chosen, self.scale, self.weights, self.rank, name)
        assert self.density is not None and self.rank is not None
        sparsity = Sparsity(self.density, self.rank, 1.0 if self.scale is None else self.scale)
        if self.method == "ties":
            return ties(chosen, sparsity, self.weights, name)
        draws = dare_linear if self.method == "dare_linear" else dare_ties
        return draws(chosen, sparsity, self.seed or 0, self.weights, name)


_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_merges(merges: Mapping[str, Merge], stages: Mapping[str, str]) -> None:
    """Refuse merges of experts that no stage trains, or under a name that a stage writes to.

    Args:
        merges: By name.
        stages: Kind of each stage by name: `expert` or `gate`.

    Raises:
        UserError: One cannot be made.
    """
    experts = [name for name, kind in stages.items() if kind == "expert"]
    for name, merge in merges.items():
        if not _NAME.fullmatch(name) or name in stages:
            raise UserError(
                f"A merge is called {name!r}. Allowed are letters, digits, - and _, and no name of a stage: both are "
                "files of one folder. Write merges: {uniform: {method: product_mean}}, say."
            )
        wanted = experts if merge.experts is None else merge.experts
        if len(wanted) < 2 or (unknown := sorted(set(wanted) - set(experts))):
            lacks = f"{unknown[0]!r}, which no stage trains" if len(wanted) > 1 else f"{len(wanted)} of them"
            raise UserError(
                f"Merge {name!r} takes {lacks}. Allowed are two or more of {', '.join(experts)}. Name them under "
                "`experts` of the merge."
            )
