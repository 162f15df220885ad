"""Does a run fit a device? Sums of what is known to lie on it in each phase of a round, and what work takes there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

from evolvedirector.records.part import HoldsParts, OnDevice

Offload = Literal["none", "optimizer", "all"]


@dataclass(frozen=True, slots=True)
class StudentBytes:
    """What the student keeps on one device.

    Args:
        weights: Parameters and buffers.
        gradients: They stay between the last step of an epoch and the next step.
        optimizer: State of the optimizer.
        others: Averaged weights, and frozen parts that say their size.
        frozen: Those parts alone, which leave the device with the weights.
    """

    weights: int
    gradients: int
    optimizer: int
    others: int = 0
    frozen: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.others

    def staying(self, offload: Offload) -> int:
        """Return what is left on the device while a judge or a teacher works there.

        Args:
            offload: What leaves: nothing, the optimizer's state, or the weights and frozen parts too.
        """
        away = {"none": 0, "optimizer": self.optimizer, "all": self.optimizer + self.weights + self.frozen}
        return self.total - away[offload]


@dataclass(frozen=True, slots=True)
class WorkBytes:
    """What the work of a student takes on a device while it lasts, on top of what stays there.

    Args:
        train: A training step: activations, and what its backward pass takes. None: not known.
        draw: Drawing a chunk of images, the larger of network and decoder. None: not known.
        encode: Encoding a chunk of training images. None: not known, or there is no codec.
        unknown: Of what could not be predicted, the reason.
        texts: Encoding a chunk of texts. None: not known, or text encoders take nothing worth counting.
        cached: Bytes of text encoders and codec that are off the device while it trains, as caches stand in for them.
    """

    train: int | None = None
    draw: int | None = None
    encode: int | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)
    texts: int | None = None
    cached: int = 0


@runtime_checkable
class PredictsWork(Protocol):
    """A student that can say what its work takes, before anything is loaded."""

    def work_bytes(self, batch_size: int, size_px: tuple[int, int], precision: str) -> WorkBytes:
        """Predict it for training batches of images of this width and height, in a precision of the trainer."""
        ...


@runtime_checkable
class BuildsWithoutWeights(Protocol):
    """A module that can be built without memory, as it will be under a trainer that is not there yet."""

    def configure_without_weights(self, precision: str) -> None:
        """Build it on the meta device for a precision of the trainer."""
        ...


@runtime_checkable
class SizesState(Protocol):
    """An optimizer that keeps more of some parameters than of others."""

    def bytes_per_value(self) -> float:
        """Return the bytes of its state over the number of values that it trains."""
        ...


@dataclass(frozen=True, slots=True)
class PhaseBytes:
    """What a device holds in one phase.

    Args:
        phase: `texts`, `encode`, `train`, `draw`, `write`, `judge`, `teach` or `evaluate`.
        student: The part of the student that stays; for `write`, what lies there before.
        tenant: The largest of those who work in this phase, one at a time.
        who: Its name; empty where nobody says a size.
        work: What the student's own work takes; 0 where it is not known.
    """

    phase: str
    student: int
    tenant: int = 0
    who: str = ""
    work: int = 0

    @property
    def total(self) -> int:
        """Student, tenant and work together."""
        return self.student + self.tenant + self.work


def student_bytes(
    parameters: int,
    trainable: int,
    shards: int = 1,
    averaged_copies: int = 0,
    bytes_per_value: int = 4,
    optimizer_bytes: float = 8,
    frozen: int = 0,
    weight_bytes: int | None = None,
    base_is_whole: bool = False,
    offloaded: bool = False,
) -> StudentBytes:
    """Count what a student keeps on one device: fp32 master weights, gradients, two moments of Adam, averages.

    Args:
        parameters: Values of the model, frozen ones of the module included.
        trainable: Those that are trained.
        shards: Devices over which it is divided; 1 for DDP and one device.
        averaged_copies: Averages (EMA) of the trainable weights.
        bytes_per_value: 4 for master weights in fp32.
        optimizer_bytes: State per trainable value; 8 for Adam, 4 for SGD with momentum.
        frozen: Bytes of frozen parts beside the module (text encoder, autoencoder), which are never sharded.
        weight_bytes: What the values of the model take, where frozen ones are kept in less. None: `bytes_per_value`
            each.
        base_is_whole: Whether every device keeps all frozen values, as under `ShardedStrategy`; else they are divided
            like the others.
        offloaded: Whether shards, gradients, optimizer and averages lie in main memory, and only a whole base here.
    """

    def share(values: int) -> int:
        return -(-values // shards)

    whole = parameters * bytes_per_value if weight_bytes is None else weight_bytes
    base = whole - trainable * bytes_per_value if base_is_whole else 0
    if offloaded:
        return StudentBytes(weights=base, gradients=0, optimizer=0, others=frozen, frozen=frozen)
    return StudentBytes(
        weights=base + share(whole - base),
        gradients=share(trainable * bytes_per_value),
        optimizer=share(round(trainable * optimizer_bytes)),
        others=share(averaged_copies * trainable * 4) + frozen,
        frozen=frozen,
    )


def phases(
    student: StudentBytes,
    offload: Offload,
    judges: Mapping[str, int],
    teachers: Mapping[str, int],
    evaluators: Mapping[str, int],
    writers: Mapping[str, int] | None = None,
    work: WorkBytes | None = None,
) -> list[PhaseBytes]:
    """List what a device holds in each phase.

    Args:
        student: On one device.
        offload: What of the student leaves while a judge or a teacher works.
        judges: Bytes of the judge, by name; empty where it takes none or does not say.
        teachers: Likewise, of local teachers; one is loaded at a time.
        evaluators: Judges and teachers of the figures, for whom nothing of the student leaves.
        writers: Writers, which work beside whoever is there: the student, or the judge that was asked before.
        work: Of the student. None: not known.
    """
    work = work or WorkBytes()
    staying = student.staying(offload)
    beside = max(student.total, staying + max(judges.values(), default=0))
    return [
        *([PhaseBytes("texts", student.total, work=work.texts)] if work.texts else []),
        *([PhaseBytes("encode", student.total, work=work.encode)] if work.encode else []),
        PhaseBytes("train", student.total - work.cached, work=work.train or 0),
        *([PhaseBytes("draw", student.total, work=work.draw)] if work.draw else []),
        *([_with_largest("write", beside, writers)] if writers else []),
        _with_largest("judge", staying, judges),
        _with_largest("teach", staying, teachers),
        _with_largest("evaluate", student.total, evaluators),
    ]


def beside_training(listed: Sequence[PhaseBytes]) -> list[PhaseBytes]:
    """Let whoever works in rounds work while the student trains, as in the background: the largest of them, at a time.

    Args:
        listed: As `phases` lists them, where nothing of the student leaves.
    """
    in_rounds = [phase for phase in listed if phase.phase in ("write", "judge", "teach")]
    largest = max(in_rounds, key=lambda phase: phase.tenant)
    return [
        replace(phase, tenant=largest.tenant, who=largest.who) if phase.phase == "train" else phase
        for phase in listed
        if phase not in in_rounds
    ]


def sizes_of(parts: Mapping[str, object]) -> dict[str, int]:
    """Ask parts for their size in bytes on a device; a part that takes none, or cannot say, is left out.

    Args:
        parts: By name.
    """
    found = {}
    for name, part in parts.items():
        try:
            size = int(part.estimated_bytes() or 0) if isinstance(part, OnDevice) else 0
        except (ValueError, OSError, ImportError):  # what is wrong with its files is told by its `verify`
            size = 0
        if size > 0:
            found[name] = size
    return found


def evaluators_of(measuring: Iterable[object]) -> dict[str, int]:
    """List what takes device memory while figures are read, by name.

    Args:
        measuring: Callbacks that do not evolve the data.
    """
    found: dict[str, int] = {}
    for callback in measuring:
        if isinstance(callback, HoldsParts):
            found |= sizes_of({f"{type(callback).__name__}.{name}": part for name, part in callback.parts().items()})
    return found


def frozen_bytes(module: object) -> int:
    """Return the size of the parts that stand beside a module's parameters, such as text encoders and a codec.

    Args:
        module: The student; one that names no parts has none.
    """
    return sum(sizes_of(module.parts()).values()) if isinstance(module, HoldsParts) else 0


def optimizer_bytes(name: str) -> int:
    """Return the bytes of state per trained value: two fp32 moments unless the optimizer is known to keep less.

    Args:
        name: Class of the optimizer.
    """
    known = {
        "SGD": 4,
        "Adafactor": 1,
        "Lion": 4,
        "AdamW8bit": 2,
        "Adam8bit": 2,
        "Lion8bit": 1,
        "Prodigy": 16,
        "CAME": 4,
    }
    return known.get(name, 8)


def state_bytes(optimizer: object) -> float:
    """Return the bytes of state per trained value, as an optimizer itself says, or as its class is known for.

    Args:
        optimizer: Made, before its first step.
    """
    if isinstance(optimizer, SizesState):
        return optimizer.bytes_per_value()
    return optimizer_bytes(type(optimizer).__name__)


def main_memory_bytes() -> int | None:
    """Return the machine's main memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def too_large(listed: Iterable[PhaseBytes], device_bytes: int, offload: Offload) -> str | None:
    """Say with figures which phase cannot fit a device; None when nothing known is too large.

    Args:
        listed: As `phases` counts them.
        device_bytes: Memory of the smallest device.
        offload: What of the student leaves now.
    """
    worst = max(listed, key=lambda phase: phase.total)
    if worst.total <= device_bytes:
        return None
    held = f"the student keeps {gib(worst.student)}" + (
        f" and {worst.who} takes {gib(worst.tenant)}" if worst.who else ""
    )
    before = "" if worst.work else " before activations"
    held += f", its work {gib(worst.work)}" if worst.work else ""
    if worst.phase in ("judge", "teach") and worst.who and offload != "all":
        line = "Write `offload_student: all` in EvolutionCallback, or a smaller or quantised model there."
    elif worst.who:
        line = "Write a smaller or quantised model there, or one behind an address of another machine."
    elif worst.work > worst.student:
        line = "Write a smaller global_batch_size or generation_chunk_size, or compute: {gradient_checkpointing: true}."
    else:
        line = "Shard it with configs/strategy/fsdp.yaml over more devices, or write a smaller model."
    return (
        f"The phase `{worst.phase}` cannot fit: {held}, {gib(worst.total)} in all{before}, and the "
        f"device has {gib(device_bytes)}. {line}"
    )


def memory_rows(listed: Iterable[PhaseBytes]) -> dict[str, str]:
    """Put phases into words, for `evolvedirector check`.

    Args:
        listed: As `phases` lists them.
    """
    rows = {}
    for phase in listed:
        tenant = f" + {phase.who} {gib(phase.tenant)}" if phase.who else ""
        work = f" + work {gib(phase.work)}" if phase.work else ""
        rows[f"{phase.phase}"] = f"{gib(phase.total)}: student {gib(phase.student)}{tenant}{work}"
    return rows


def gib(size_bytes: int) -> str:
    """Write a size in GiB, smaller ones in MiB."""
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.1f} MiB"


def _with_largest(phase: str, student: int, tenants: Mapping[str, int]) -> PhaseBytes:
    who = max(tenants, key=lambda name: tenants[name], default="")
    return PhaseBytes(phase, student, tenants.get(who, 0), who)
