"""The ways in which a student with experts can draw: base, each expert, each merge, the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from evolvedirector.errors import UserError
from evolvedirector.evaluation.arm_table import FOLDER, ArmKind
from evolvedirector.evaluation.expert_arms import BASE
from evolvedirector.experts.expert import Expert, whole_float32
from evolvedirector.experts.expert_files import read_expert
from evolvedirector.experts.gate import gates_of
from evolvedirector.experts.gate_weights import MeanWeights, weighing
from evolvedirector.experts.gated_files import RECORD
from evolvedirector.experts.lent import base_alone, gate_at_work, lent
from evolvedirector.experts.lora import is_adapter
from evolvedirector.experts.merge import task_arithmetic
from evolvedirector.experts.stages import stands_on
from evolvedirector.records import digest
from evolvedirector.records.subset import Subset

GATE_ARM = "gate"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to draw.

    Args:
        name: Of its row.
        kind: What it draws with.
        weights: Names the numbers that it draws with.
        about: How they were made, as plain values.
        works: Context in which the student draws so; of a gate it yields what the gate chooses.
    """

    name: str
    kind: ArmKind
    weights: str
    about: Mapping[str, Any]
    works: Callable[[], Any]


def arms_of(run_folder: Path, network: nn.Module, base_digest: str) -> list[Arm]:
    """List the arms of a run: the base, its experts in the order of training, its merges by name, its gate.

    Every rank of a sharded student calls it.

    Args:
        run_folder: Holds the files of experts and merges.
        network: Of the student.
        base_digest: Of its frozen weights.

    Raises:
        UserError: There is no file of an expert, one cannot be read, is of another base, or has the name of another
            arm.
    """
    experts = _experts_of(run_folder / FOLDER, _adapters_of(network))
    for expert in experts:
        if expert.base_digest and expert.base_digest != base_digest:
            raise UserError(
                f"Expert {expert.name!r} was trained beside other weights ({expert.base_digest}) than this student's "
                f"({base_digest}), so its row would mean nothing. Allowed are experts of one base. Take its file out "
                f"of {FOLDER}/ of the run; finished arms are kept."
            )
    bases = sorted({expert.base_digest for expert in experts})
    arms = [Arm(BASE, "base", digest(BASE, *bases), {}, partial(base_alone, network))]
    for expert in experts:
        kind: ArmKind = "merge" if "merge" in expert.provenance else "expert"
        whole = _with_what_it_stands_on(expert, experts)
        arms.append(Arm(expert.name, kind, whole.tensors_sha256, _about(expert), partial(lent, network, whole)))
    if gates := gates_of(network):
        about = {"gate": next(iter(gates.values())).settings.kind, "experts": list(next(iter(gates.values())).experts)}
        arms.append(Arm(GATE_ARM, "gate", _numbers_of(network), about, partial(_gate_works, network)))
    names = [arm.name for arm in arms]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"Two arms are called {twice[0]!r}. Allowed is each name once, and {BASE!r} and {GATE_ARM!r} are the "
            f"table's own. Call that expert or merge otherwise, or remove its file from {FOLDER}/."
        )
    return arms


def _experts_of(folder: Path, adapters: Sequence[str]) -> list[Expert]:
    experts = [read_expert(path) for path in sorted(folder.glob("*.safetensors")) if not _holds_gate(path)]
    if not experts:
        raise UserError(
            f"There is no expert in {folder}: a table of arms needs at least one. Allowed are files that training or "
            "`evolvedirector merge` wrote. Put ExpertStages before ExpertTable under trainer.callbacks."
        )
    place = {name: index for index, name in enumerate(adapters)}
    return sorted(experts, key=lambda expert: (place.get(expert.name, len(place)), expert.name))


def _with_what_it_stands_on(expert: Expert, experts: Sequence[Expert]) -> Expert:
    """Add the experts that worked, frozen, while one was trained: without them it was never meant to draw."""
    below: Mapping[str, float] = expert.provenance.get("stage", {}).get("on_top_of", {})
    there = [other for other in experts if other.name in below]
    if len(there) < len(below):
        lacking = sorted(set(below) - {other.name for other in there})
        raise UserError(
            f"Expert {expert.name!r} was trained on top of {lacking[0]!r}, whose file is not beside it. Allowed are "
            f"all of them in {FOLDER}/. Put that file back, or remove this one too."
        )
    if not there:
        return expert
    return task_arithmetic([expert, *there], 1.0, [1.0, *(below[other.name] for other in there)], name=expert.name)


def _holds_gate(path: Path) -> bool:
    """Say whether a file holds gated experts, whose gate is drawn with as it is in the student."""
    try:
        with safe_open(path, framework="pt") as file:
            return RECORD in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False  # what it is instead is told when it is read


def _adapters_of(network: nn.Module) -> list[str]:
    from peft.tuners.lora import LoraLayer

    layers = [part for part in network.modules() if isinstance(part, LoraLayer)]
    return list(dict.fromkeys(name for layer in layers for name in layer.lora_A))


def _about(expert: Expert) -> dict[str, Any]:
    about: dict[str, Any] = {"rank": expert.lora.rank, "alpha": expert.lora.scale * expert.lora.rank}
    if merge := expert.provenance.get("merge"):
        about |= {"merge": merge, "of": [one["name"] for one in expert.provenance["experts"]]}
    if stage := expert.provenance.get("stage"):  # of a failing skill nobody knows it beforehand
        about["trained_on"] = Subset(**stage["trains_on"]).named() + stands_on(stage.get("on_top_of", {}))
    return about


def _numbers_of(network: nn.Module) -> str:
    """Name the numbers of gates and adapters; where they are sharded, every rank takes part."""
    found = {name: whole_float32(part) for name, part in network.named_parameters() if is_adapter(name)}
    return digest("gate", *(part for name, value in sorted(found.items()) for part in (name, value.numpy().tobytes())))


@contextmanager
def _gate_works(network: nn.Module) -> Iterator[MeanWeights]:
    with gate_at_work(network), weighing(network) as means:
        yield means
