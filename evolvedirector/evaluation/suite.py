"""The seam behind which every suite of an evaluation stands: prompts in, figures out.

A suite knows which prompts are drawn, who reads the images and what is made of the readings. It draws nothing, knows
no trainer and logs nothing: `EvaluationCallback` does, on all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from evolvedirector.evaluation.intervals import mean_interval
from evolvedirector.evaluation.shares import Share
from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageRequest, Prompt
from evolvedirector.records.part import Part

Asked: TypeAlias = Mapping[str, tuple[ImageRequest, Prompt]]
"""What is drawn, by request id."""
Readings: TypeAlias = Mapping[str, Any]
"""What was read: plain values (numbers, texts, lists, mappings), which cross processes. By request id where each rank
reads its own images, for they are joined by key; a suite that reads alone names them as it likes."""


@dataclass(frozen=True, slots=True)
class Offered:
    """What a run offers a suite to choose its prompts from.

    Args:
        held_out: Prompts that no operation of evolution may touch.
        mastered: Mastered prompts of an evolving dataset, for a suite that `NeedsMastered`; else empty.
        size_px: Side of the images of prompts that name none. None: unknown.
        global_step: Of the weights that are measured.
    """

    held_out: Sequence[Prompt] = ()
    mastered: Sequence[Prompt] = ()
    size_px: int | None = None
    global_step: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """One image of the student, encoded, with the prompt that it was drawn for."""

    request_id: str
    prompt: Prompt
    image: bytes


@dataclass(frozen=True, slots=True)
class Sitting:
    """One evaluation.

    Args:
        asked: All that is drawn, over all ranks.
        offered: What the prompts were chosen from.
        folder: Where a suite keeps what it bought (teacher images); nothing else is written there.
        before: `summary` of the suite's last outcome in this run; empty at first.
        from_validation: Whether the images are those of the validation loop, not of the suite's own requests.
        training_judge: Who chose the training data, for a suite that `AsksTrainingJudge`. None: nobody, or not asked.
        first_folder: Where the first suite of this class keeps what it bought: it need not be bought again. None: this
            is the first.
        embeddings: What the student predicted for this rank's images, by request id, for a suite that
            `ReadsEmbeddings`; else empty.
        errors_outside: Of edits, by request id: mean change outside of the mask before they were composited, of 255,
            for a suite that `ReadsEdits`; else empty.
    """

    asked: Asked
    offered: Offered = Offered()
    folder: Path = Path("evaluation")
    before: Mapping[str, Any] = field(default_factory=dict)
    from_validation: bool = False
    training_judge: Judge | None = None
    first_folder: Path | None = None
    embeddings: Mapping[str, Sequence[float]] = field(default_factory=dict)
    errors_outside: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table: a value, its 95 % interval, and how much it rests on."""

    value: float | None
    interval: tuple[float, float] | None = None
    of: int = 0
    unit: str = "prompts"

    @classmethod
    def of_share(cls, share: Share | None) -> Figure:
        """Make a row of a share; one of nothing has no value.

        Args:
            share: Measured over prompts.
        """
        if share is None:
            return cls(None)
        return cls(round(share.value, 6), (share.interval[0], share.interval[1]), share.prompts)

    @classmethod
    def of_mean(cls, values: Sequence[float]) -> Figure:
        """Make a row of a mean over prompts with its 95 % interval; one of nothing has no value.

        Args:
            values: One per prompt.
        """
        if not values:
            return cls(None)
        ends = mean_interval(values)
        rounded = None if ends is None else (round(ends[0], 6), round(ends[1], 6))
        return cls(round(sum(values) / len(values), 6), rounded, len(values))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one evaluation of a suite came to.

    Args:
        rows: The table, by name of the row; the first one is the headline.
        summary: Further keys of `summary.json`.
        logged: Values for the loggers, under their whole names. None: every row, as `<suite>/<row>`.
    """

    rows: Mapping[str, Figure]
    summary: Mapping[str, Any] = field(default_factory=dict)
    logged: Mapping[str, float | None] | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON holds it, for checkpoints and reports."""
        rows = {name: asdict(row) for name, row in self.rows.items()}
        for row in rows.values():
            row["interval"] = None if row["interval"] is None else list(row["interval"])
        return {"rows": rows, "summary": dict(self.summary)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Outcome:
        """Read back what `to_plain` returned.

        Args:
            plain: `rows` and `summary`.
        """
        rows = {}
        for name, row in plain["rows"].items():
            ends = row["interval"]
            rows[name] = Figure(row["value"], None if ends is None else (ends[0], ends[1]), row["of"], row["unit"])
        return cls(rows, plain["summary"])


@runtime_checkable
class Suite(Part, Protocol):
    """A set of questions about a student: which prompts, who reads the images, which figures.

    Its `fingerprint` names readers, prompts and rule: figures are comparable between runs that share it.
    """

    every_n_epochs: int | None
    """Epochs between evaluations while training. None: only when training ends."""
    reads_alone: bool
    """Whether rank 0 alone reads all images (it buys, or asks a service); else each rank reads those that it drew."""

    def prompts(self, offered: Offered) -> Sequence[Prompt]:
        """List what is to be drawn, each prompt once.

        Raises:
            UserError: A prompt file cannot be used.
        """
        ...

    def requests(self, offered: Offered) -> Asked:
        """Ask for the images of these prompts."""
        ...

    def read(self, drawn: Sequence[Drawn], sitting: Sitting) -> Readings:
        """Read images: one plain value each; an image that could not be read may be left out."""
        ...

    def figures(self, readings: Readings, sitting: Sitting) -> Outcome:
        """Make figures of the readings of all ranks."""
        ...

    def parts(self) -> Mapping[str, Part]:
        """Name who reads and who draws for comparison, for those who verify and size them."""
        ...

    def looks(self, held_out: int) -> Mapping[str, int]:
        """Say how many answers one evaluation asks of each part at most, by the names of `parts`.

        Args:
            held_out: How many held-out prompts there are.
        """
        ...


@runtime_checkable
class NeedsMastered(Protocol):
    """A suite that draws mastered prompts, which only an evolving dataset has."""

    def mastered_of(self) -> str | None:
        """Name the datamodule's attribute that holds the data. None: the datamodule itself."""
        ...


@runtime_checkable
class ReadsValidation(Protocol):
    """A suite that reads the validation loop's own images of held-out prompts, beside those of its own requests."""

    def is_read_by_validation(self) -> bool:
        """Say whether a validation reads all that the suite's own requests would."""
        ...


@runtime_checkable
class ReadsEmbeddings(Protocol):
    """A suite that reads the embeddings that a prior predicts, beside the images that its decoder draws of them."""

    reads_embeddings: bool


@runtime_checkable
class ReadsEdits(Protocol):
    """A suite that wants to know what the student did outside of the masks of its edits."""

    reads_edits: bool


@runtime_checkable
class ChoosesFiles(Protocol):
    """A suite whose requests bring their own files, or none on purpose: those of held-out prompts are not added."""

    chooses_files: bool


@runtime_checkable
class AsksTrainingJudge(Protocol):
    """A suite that can show the same images to the judge of the training data too."""

    compare_with_training_judge: bool


@runtime_checkable
class AsksTeachers(Protocol):
    """A suite that asks teachers for images of its own, outside of the budget of evolution."""

    def asked_teachers(self) -> tuple[Mapping[str, Any], int, int | None]:
        """Return the teachers by name, the images asked of each at most, and the limit over all (None: none)."""
        ...
