"""Which experts are merged and how, as plain settings that a YAML can hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from evolvedirector.errors import UserError
from evolvedirector.experts.expert import Expert
from evolvedirector.experts.merge import check_scale, choose_scale, factor_mean, product_mean, svd, task_arithmetic
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
        scales: In place of `scale`: those of which a validation split chooses the best. None: `scale` is it.

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
    scales: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UserError(
                f"method of a merge is {self.method!r}. Allowed: {', '.join(get_args(Method))}. Write method: "
                "product_mean."
            )
        needs, may = NEEDS.get(self.method, ()), MAY_HAVE.get(self.method, ())
        given = {"rank": self.rank, "scale": self.scale, "density": self.density, "seed": self.seed}
        if self.scales is not None:
            self._check_scales("scale" in (*needs, *may))
        for name, value in given.items():
            is_missing = value is None and name in needs and (name != "scale" or self.scales is None)
            if is_missing or (value is not None and name not in (*needs, *may)):
                says = "is null, which nothing chooses for you" if value is None else f"is {value:g}, which is not read"
                raise UserError(
                    f"{name} of the merge by {self.method} {says}. It needs {', '.join(needs) or 'no number'} and may "
                    f"have {', '.join(may) or 'no other'}. Write {{method: {self.method}"
                    + "".join(f", {word}: {EXAMPLES[word]}" for word in needs)
                    + "}, say."
                )

    def _check_scales(self, is_read: bool) -> None:
        if not is_read or self.scale is not None or isinstance(self.scales, str) or not self.scales:
            raise UserError(
                f"scales of the merge by {self.method} is {self.scales!r}, beside scale: {self.scale}. Allowed is a "
                "list of numbers in place of scale, where the method reads one. Write {method: task_arithmetic, "
                "scales: [0.3, 0.6, 1.0]}, say."
            )
        for scale in self.scales:
            check_scale(scale)

    def chosen(self, experts: Sequence[Expert], name: str, score: Callable[[Expert], float]) -> Expert:
        """Merge with each of `scales`, and return the merge of the best score; all scores are in its provenance.

        Args:
            experts: All that are merged, in the order of the weights.
            name: Of the result.
            score: Of a merge, higher is better, on a validation split that no test reads.

        Raises:
            UserError: They cannot be merged, or a score is not finite.
        """

        def at(scale: float) -> Expert:
            return replace(self, scale=scale, scales=None).of_all(experts, name)

        best, scores = choose_scale(lambda scale: score(at(scale)), self.scales or ())
        found = at(best)
        told = {"scores": {f"{scale:g}": value for scale, value in scores.items()}}
        return replace(found, provenance={**found.provenance, "validation": told})

    def of(self, experts: Mapping[str, Expert], name: str) -> Expert:
        """Merge.

        Args:
            experts: By name; those that are not asked for stay out.
            name: Of the result.

        Raises:
            UserError: One is missing, or they cannot be merged.
        """
        return self.of_all(self.taken(experts, name), name)

    def taken(self, experts: Mapping[str, Expert], name: str) -> list[Expert]:
        """Return the experts that are merged, in the order of the weights.

        Args:
            experts: By name.
            name: Of the merge.

        Raises:
            UserError: One is missing.
        """
        wanted = list(experts if self.experts is None else self.experts)
        if missing := [word for word in wanted if word not in experts]:
            raise UserError(
                f"Merge {name!r} takes the expert {missing[0]!r}, which there is not. Allowed: {', '.join(experts)}. "
                "Correct the name."
            )
        return [experts[word] for word in wanted]

    def of_all(self, chosen: Sequence[Expert], name: str) -> Expert:
        """Merge experts, whatever names the settings have for them.

        Args:
            chosen: All that are merged, in the order of the weights.
            name: Of the result.

        Raises:
            UserError: They cannot be merged.
        """
        if self.scales is not None:
            raise UserError(
                f"scales of the merge {name!r} is {list(self.scales)}, and no validation split chooses among them. "
                "Allowed is one scale, or a split. Write scale: 0.6, or `validation` beside it."
            )
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


def check_scales_are_chosen(merges: Mapping[str, Merge], has_split: bool) -> None:
    """Refuse merges with scales that nobody chooses among, and a validation split that chooses nothing.

    Args:
        merges: By name.
        has_split: Whether there is a validation split.

    Raises:
        UserError: One is there without the other.
    """
    choosing = [name for name, merge in merges.items() if merge.scales is not None]
    if choosing and not has_split:
        raise UserError(
            f"Merge {choosing[0]!r} has scales, and no validation split chooses among them. Allowed is one scale, or a "
            "split. Write `validation: {prompts: validation.txt, reward: {class_path: ...}}` beside `merges`, or "
            "scale: 0.6."
        )
    if has_split and not choosing:
        raise UserError(
            "There is a validation split, and no merge has scales for it to choose among. Allowed are both or none. "
            "Write {method: task_arithmetic, scales: [0.3, 0.6, 1.0]} under `merges`, or leave `validation` out."
        )
