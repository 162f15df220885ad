"""Which experts of a run are taken where it trained several: one, the mean of some, or what its gate mixes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from evolvedirector.errors import UserError
from evolvedirector.experts import Expert
from evolvedirector.experts.host import HoldsExperts
from evolvedirector.experts.merge import product_mean

GATE = "gate"


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


def chosen_experts(module: object, options: argparse.Namespace) -> list[str]:
    """Return the names of the experts that are taken, or of the gate; none where a run trained no experts.

    Args:
        module: The student.
        options: With `expert` and `merge`.

    Raises:
        UserError: Nothing is chosen where something must be, or what is chosen is not there.
    """
    there = tuple(module.trained.experts) if isinstance(module, HoldsExperts) else ()
    given = [f"--expert {name}" for name in options.expert or ()] + ([f"--merge {options.merge}"] * bool(options.merge))
    if not there:
        if given:
            raise UserError(f"{given[0]} chooses among experts, and this run trained none. Leave it out.")
        return []
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
        return [GATE]
    names = list(there) if options.merge else list(dict.fromkeys(options.expert))
    if unknown := [name for name in names if name not in there]:
        raise UserError(f"--expert is {unknown[0]!r}. Allowed: {', '.join(there)}. {hint}")
    return names


def activate(module: object, names: Sequence[str]) -> None:
    """Let the chosen experts work, as their product mean where they are several.

    Args:
        module: The student, with its weights.
        names: As `chosen_experts` returns them.
    """
    if not names:
        return
    assert isinstance(module, HoldsExperts)
    if list(names) == [GATE]:
        module.experts().activate_gate()
    else:
        module.experts().activate(dict.fromkeys(names, 1 / len(names)))


def taken_out(module: HoldsExperts, names: Sequence[str]) -> Expert:
    """Return the chosen experts as one; every rank of a sharded student calls it.

    Args:
        module: The student, with its weights.
        names: As `chosen_experts` returns them.

    Raises:
        UserError: It is the gate, which no LoRA does.
    """
    if list(names) == [GATE]:
        raise UserError(
            "--merge gate mixes experts anew for each input, which no one LoRA does. Allowed for an export are "
            "--expert and --merge uniform. Choose one of them; the gate lies in experts/ of the run folder."
        )
    found = [module.experts().expert(name, {}) for name in names]
    return found[0] if len(found) == 1 else product_mean(found, name="-".join(names))


def told(names: Sequence[str]) -> str:
    """Say in words what is taken; empty without experts.

    Args:
        names: As `chosen_experts` returns them.
    """
    if not names:
        return ""
    if list(names) == [GATE]:
        return ", experts mixed by the gate"
    return f", expert {names[0]}" if len(names) == 1 else f", mean of the experts {', '.join(names)}"
