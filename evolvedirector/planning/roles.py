"""What callbacks, modules and datamodules tell of themselves to those who look before anything is paid for.

Each is a Protocol of its own, asked for with `isinstance`: nobody is found by the name of an attribute that happens to
be there, and a callback of another project takes part by offering one of these methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.round_id import RoundSettings
from evolvedirector.evolution.schedule import RoundSchedule
from evolvedirector.execution.executor import Cluster, Phase
from evolvedirector.judges.judge import Judge
from evolvedirector.planning.memory import (
    Offload,
    PhaseBytes,
    StudentBytes,
    WorkBytes,
    beside_training,
    evaluators_of,
    phases,
    sizes_of,
)
from evolvedirector.planning.spending import Reader
from evolvedirector.records import FileRef, Prompt
from evolvedirector.records.buckets import BucketSize
from evolvedirector.teachers.teacher import Teacher


@dataclass(frozen=True, slots=True)
class EvolutionPlan:
    """Describe the evolution of one dataset.

    Args:
        settings: Who takes part in its rounds.
        schedule: When they are held.
        offload_student: What of the student leaves the device while judge and teachers work.
        image_size_px: Side of the images asked for. None: the module says it.
        data: Attribute of the datamodule that holds the data. None: the datamodule itself.
        cluster: Where some of the parts work. None: all work here.
    """

    settings: RoundSettings
    schedule: RoundSchedule
    offload_student: Offload = "none"
    image_size_px: int | None = None
    data: str | None = None
    cluster: Cluster | None = None

    def here(self, parts: Mapping[str, tuple[str, object]]) -> dict[str, object]:
        """Return the parts that work on this machine, by what they are called in reports.

        Args:
            parts: The place of each part, and the part.
        """
        placed = () if self.cluster is None else self.cluster.placed
        return {called: part for called, (place, part) in parts.items() if place not in placed}


@runtime_checkable
class Evolves(Protocol):
    """A callback that evolves the training data."""

    def evolution(self) -> EvolutionPlan:
        """Say who takes part, when, and at what cost."""
        ...


def phases_of(
    plan: EvolutionPlan | None, student: StudentBytes, callbacks: Iterable[object], work: WorkBytes | None = None
) -> list[PhaseBytes]:
    """List what a device holds in each phase of a run, as far as its parts say their size.

    Args:
        plan: Of the callback that evolves the data. None: there is none, and no judge or teacher works.
        student: On one device.
        callbacks: All of the trainer; those that do not evolve data measure.
        work: Of the student. None: not known.
    """
    evaluators = evaluators_of(callback for callback in callbacks if not isinstance(callback, Evolves))
    if plan is None:
        listed = phases(student, "none", {}, {}, evaluators, None, work)
        return [phase for phase in listed if phase.phase not in ("judge", "teach")]
    settings = plan.settings
    tenants = {} if settings.pairs is None else settings.pairs.tenants()

    def named(who: str, place: str, parts: Mapping[str, object]) -> dict[str, tuple[str, object]]:
        return {f"the {who}{name}": (f"{place}.{name}", part) for name, part in parts.items()}

    def of_pairs(phase: Phase) -> dict[str, tuple[str, object]]:
        parts = tenants.get(phase, {})
        return {f"the pairs' {place.rpartition('.')[2]}": (place, part) for place, part in parts.items()}

    judges = {
        "the judge": ("judge", settings.judge),
        **named("reward ", "rewards", settings.rewards),
        "the embedder": ("embedder", settings.embedder),
        **of_pairs("score"),
    }
    teachers = named("teacher ", "teachers", settings.teachers) | of_pairs("teach")
    writers = {"the writer": ("writer", settings.writer), **of_pairs("write")}
    listed = phases(
        student,
        plan.offload_student,
        sizes_of(plan.here(judges)),
        sizes_of(plan.here(teachers)),
        evaluators,
        sizes_of(plan.here(writers)),
        work,
    )
    return listed if settings.background is None else beside_training(listed)


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """How long a run is, for a callback that says how often its judge will look.

    Args:
        epochs: Of the whole training. None: no end is set.
        validations: At most, the one before the training included. None: not known.
        held_out_prompts: Of the datamodule.
        training_judges: Judges that choose training data.
        arms: Ways to draw that a run with experts ends with, the base included. None: not known.
    """

    epochs: int | None
    validations: int | None
    held_out_prompts: int
    training_judges: tuple[Judge, ...] = ()
    arms: int | None = None

    def readings(self, every_n_epochs: int | None) -> int | None:
        """Count readings at the end of every so many epochs and at the end of training; None where no end is set.

        Args:
            every_n_epochs: Epochs between readings. None: only the last one.
        """
        if every_n_epochs is None:
            return 1
        return None if self.epochs is None else self.epochs // every_n_epochs + 1


@runtime_checkable
class Measures(Protocol):
    """A callback whose figures are read by judges."""

    def planned_looks(self, run: PlannedRun) -> Sequence[Reader]:
        """List its judges, with the most looks that each may be asked for."""
        ...


@dataclass(frozen=True, slots=True)
class PlannedImages:
    """Images that a callback asks of teachers for its figures, outside of the budget of evolution.

    Args:
        teachers: By name.
        budget: The limits.
    """

    teachers: Mapping[str, Teacher]
    budget: Budget


@runtime_checkable
class PlansArms(Protocol):
    """A callback that trains or merges experts, each of which is a way to draw."""

    def planned_arms(self) -> Sequence[str]:
        """Name them, without the base."""
        ...


@runtime_checkable
class DrawsFigures(Protocol):
    """A callback that has the student draw images for its figures."""

    def planned_drawings(self, run: PlannedRun) -> int | None:
        """Return how many at most; None where nothing bounds them."""
        ...


@runtime_checkable
class BuysImages(Protocol):
    """A callback that asks teachers for images of its own."""

    def planned_images(self) -> PlannedImages:
        """Say whom it asks, and for how many at most."""
        ...


@runtime_checkable
class ListsTexts(Protocol):
    """A datamodule that says what it trains on."""

    def training_texts(self) -> list[str]:
        """List the texts that the next epoch trains on, each once."""
        ...


@runtime_checkable
class RanksSkills(Protocol):
    """A callback that knows which skills the student fails."""

    def failing_skills(self, revision_sha: str) -> list[tuple[str, float]]:
        """Rank the skills of a revision by the share that its rounds saw fail, the most first; every rank asks."""
        ...


@runtime_checkable
class Summarised(Protocol):
    """A part of a run that has something to say in `evolvedirector check`."""

    def plan_summary(self) -> Mapping[str, str]:
        """Return rows of words, by name."""
        ...


@dataclass(frozen=True, slots=True)
class EmbeddingFigures:
    """What a dataset of embeddings is like: without it, tau and lambda of a contrastive loss mean nothing.

    Args:
        pairs: Of a text and an image that are trained on.
        mean_norm: Mean length of an image embedding.
        embedding_dim: Width of the joint space.
        text_width: Width of a token's state.
        embedder_fingerprint: Who made them. None: nobody said it.
    """

    pairs: int
    mean_norm: float
    embedding_dim: int
    text_width: int
    embedder_fingerprint: str | None = None


@runtime_checkable
class DescribesEmbeddings(Protocol):
    """A datamodule of embeddings that can say how many there are, and how long."""

    def embedding_figures(self) -> EmbeddingFigures | None:
        """Count the pairs, and measure their embeddings; None while there are none."""
        ...


@runtime_checkable
class WeighsLosses(Protocol):
    """A module whose loss has terms, or numbers that mean something only together."""

    def loss_settings(self) -> Mapping[str, str]:
        """Name them, in words."""
        ...


def loss_in_words(module: WeighsLosses, data: object) -> str:
    """Put the numbers of a loss beside those of the data that give them their meaning.

    Args:
        module: Knows weight, reduction and temperature.
        data: Knows the pairs, where it holds some.
    """
    figures = data.embedding_figures() if isinstance(data, DescribesEmbeddings) else None
    known = {} if figures is None else {"embedding norm": f"{figures.mean_norm:.3g}", "pairs": f"{figures.pairs:,}"}
    unknown = {} if known else {"embedding norm and pairs": "known when samples are embedded"}
    return ", ".join(f"{name} {value}" for name, value in {**module.loss_settings(), **known, **unknown}.items())


@runtime_checkable
class HoldsOut(Protocol):
    """A datamodule with prompts that no operation of evolution may touch."""

    def held_out_prompts(self) -> Sequence[Prompt]:
        """List them."""
        ...


@runtime_checkable
class HoldsOutFiles(Protocol):
    """A datamodule whose held-out prompts are drawn with files."""

    def held_out_files(self) -> Mapping[str, Mapping[str, FileRef]]:
        """Return them by role, by the prompt's id; prompts without files are left out."""
        ...


@runtime_checkable
class SizesImages(Protocol):
    """A module or datamodule that knows how large its images are."""

    image_size_px: int
    """Side of the images; 0 where it is not known."""


@runtime_checkable
class HasBuckets(Protocol):
    """A datamodule that may train images in several sizes, one of them in a batch."""

    buckets: tuple[BucketSize, ...]
    """Width and height of each in px; empty: squares of `image_size_px`."""


@runtime_checkable
class CountsBatches(Protocol):
    """A datamodule whose epochs have a fixed number of batches."""

    batches_per_epoch: int
    global_batch_size: int
    """Over all devices."""


@runtime_checkable
class DrawsInChunks(Protocol):
    """A module that draws a fixed number of requests together, or a datamodule that asks for so many."""

    generation_chunk_size: int


@runtime_checkable
class MayDraw(Protocol):
    """A module that has `generate`, and draws only where it was given what it needs for that."""

    @property
    def draws(self) -> bool:
        """Whether `generate` works."""
        ...


@runtime_checkable
class OffersPlaceholder(Protocol):
    """A datamodule that can make a training batch before there is an image to train on, for the rehearsal."""

    def placeholder_batch(self) -> Any:
        """Return this rank's part of a batch, in the form that its loader delivers; None where it cannot be made."""
        ...


@runtime_checkable
class LimitsPrecision(Protocol):
    """A module that trains in some precisions only."""

    def check_precision(self, precision: str) -> Any:
        """Raise where it cannot be trained in this precision of the trainer."""
        ...


@runtime_checkable
class LimitsImageSize(Protocol):
    """A module that trains on images of some sizes only."""

    def check_image_size(self, image_size_px: int) -> Any:
        """Raise where it cannot be trained on square images of this side."""
        ...


@runtime_checkable
class LimitsBuckets(Protocol):
    """A module that trains on images of some sizes only, which need not be square."""

    def check_buckets(self, buckets: Sequence[BucketSize]) -> Any:
        """Raise where it cannot be trained on images of one of these widths and heights."""
        ...


@runtime_checkable
class Seeded(Protocol):
    """A datamodule whose order of samples follows from a seed."""

    seed: int


@runtime_checkable
class HasRoot(Protocol):
    """A datamodule that reads a dataset root."""

    data_root: Path


@runtime_checkable
class PushesRoot(Protocol):
    """A datamodule that brings what is published to where other machines read it."""

    def push(self) -> None:
        """Bring all that is not there yet; on the rank that publishes."""


@runtime_checkable
class HasSeeds(Protocol):
    """A datamodule that makes a new root from prompts."""

    seeds: Any
    """A prompt source or the path of a file; None where the root exists already."""


@runtime_checkable
class StartsTrained(Protocol):
    """A module that can say whether its weights are trained before any checkpoint is read."""

    def starts_from(self) -> str | None:
        """Name the pretrained weights that it is built with; None: random ones."""
        ...
