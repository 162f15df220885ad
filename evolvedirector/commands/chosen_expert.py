"""Which experts of a run are taken where it trained several: one, the mean of some, or what its gate mixes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lightning.pytorch import Callback

from evolvedirector.callbacks import ExpertStages
from evolvedirector.errors import UserError
from evolvedirector.experts import Expert
from evolvedirector.experts.host import HoldsExperts
from evolvedirector.experts.merge import product_mean
from evolvedirector.experts.stages import stands_on

GATE = "gate"


@dataclass(frozen=True, slots=True)
class ChosenExperts:
    """Experts that are taken, each with those that it stands on: without them it was never meant to draw.

    Args:
        names: Of the experts, or `gate`; none where a run trained no experts.
        below: What experts were trained on top of, by their names: names and weights in the sum.
    """

    names: Sequence[str] = ()
    below: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def is_gate(self) -> bool:
        """Whether it is the gate, which mixes anew for each input."""
        return list(self.names) == [GATE]

    @property
    def weights(self) -> dict[str, float]:
        """Weights of all adapters that work: w_i = mean over the chosen c of ([i = c] + on_top_of_c,i)."""
        sums: dict[str, float] = {}
        for name in self.names:
            for part, weight in {name: 1.0, **self.below.get(name, {})}.items():
                sums[part] = sums.get(part, 0.0) + weight / len(self.names)
        return sums

    def activate(self, module: object) -> None:
        """Let them work, as their product mean where they are several.

        Args:
            module: The student, with its weights.
        """
        if not self.names:
            return
        assert isinstance(module, HoldsExperts)
        if self.is_gate:
            module.experts().activate_gate()
        else:
            module.experts().activate(self.weights)

    def taken_out(self, module: HoldsExperts) -> Expert:
        """Return them as one, with what they stand on; every rank of a sharded student calls it.

        Args:
            module: The student, with its weights.

        Raises:
            UserError: It is the gate, which no LoRA does.
        """
        if self.is_gate:
            raise UserError(
                "--merge gate mixes experts anew for each input, which no one LoRA does. Allowed for an export are "
                "--expert and --merge uniform. Choose one of them; the gate lies in experts/ of the run folder."
            )
        weights = self.weights
        found = [module.experts().expert(name, {}) for name in weights]
        if len(found) == 1:
            return found[0]
        return product_mean(found, list(weights.values()), name="-".join(self.names))

    def told(self) -> str:
        """Say in words what is taken; empty without experts."""
        if not self.names:
            return ""
        if self.is_gate:
            return ", experts mixed by the gate"
        each = [name + stands_on(self.below.get(name, {})) for name in self.names]
        return f", expert {each[0]}" if len(each) == 1 else f", mean of the experts {', '.join(each)}"


def trained_on_top(callbacks: Iterable[Callback]) -> dict[str, Mapping[str, float]]:
    """Return what experts of a run were trained on top of, by their names.

    Args:
        callbacks: Of the run.
    """
    stages = [stage for callback in callbacks if isinstance(callback, ExpertStages) for stage in callback.stages]
    return {stage.name: stage.on_top_of for stage in stages if stage.on_top_of}


def add_expert_options(parser: argparse.ArgumentParser) -> None:
    """Let a word choose experts.

    Args:
        parser: Of the word.
    """
    parser.add_argument(
        "--expert", action="append", metavar="NAME", help="of a run with several experts: which one; more are averaged"
    )
    parser.add_argument(
        "--merge", choices=("uniform", GATE), help="the mean of all experts (product mean), or what the gate mixes"
    )


def chosen_experts(module: object, options: argparse.Namespace, callbacks: Iterable[Callback] = ()) -> ChosenExperts:
    """Return the experts that are taken, or the gate; none where a run trained no experts.

    Args:
        module: The student.
        options: With `expert` and `merge`.
        callbacks: Of the run, of which one says what experts were trained on top of.

    Raises:
        UserError: Nothing is chosen where something must be, or what is chosen is not there.
    """
    there = tuple(module.trained.experts) if isinstance(module, HoldsExperts) else ()
    given = [f"--expert {name}" for name in options.expert or ()] + ([f"--merge {options.merge}"] * bool(options.merge))
    if not there:
        if given:
            raise UserError(f"{given[0]} chooses among experts, and this run trained none. Leave it out.")
        return ChosenExperts()
    hint = f"Write --expert {there[0]}, or --merge uniform for their mean."
    if len(given) != max(1, len(options.expert or ())):
        raise UserError(
            f"{' and '.join(given) or 'Nothing'} is chosen, and this run trained the experts {', '.join(there)}. "
            f"Allowed is --expert, once or more, or --merge. {hint}"
        )
    if options.merge == GATE:
        assert isinstance(module, HoldsExperts)
        if module.trained.gate is None:
            raise UserError(f"--merge {GATE} is asked for, and this run trained no gate. {hint}")
        return ChosenExperts([GATE])
    names = list(there) if options.merge else list(dict.fromkeys(options.expert))
    if unknown := [name for name in names if name not in there]:
        raise UserError(f"--expert is {unknown[0]!r}. Allowed: {', '.join(there)}. {hint}")
    return ChosenExperts(names, trained_on_top(callbacks))
