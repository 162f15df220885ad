"""What is asked about subjects: a text and its references, and what a drawn picture is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np

from evolvedirector.pairs.pair_records import PairRequest, Subject
from evolvedirector.records import FileRef, Prompt, digest

TARGET, COPY, PASTED, NEAREST, UNTOUCHED = (
    "exact target",
    "copy of the reference",
    "cut-out pasted",
    "nearest training subject",
    "source untouched",
)
"""Ends: what could be had without a model that reads subjects."""


@dataclass(frozen=True, slots=True, eq=False)
class SubjectQuestion:
    """One text about one subject.

    Args:
        prompt: The text; its skill is the kind of change, its id is the question's.
        about: Subject, change, seed and size, with the files `reference` and `reference_mask`.
        references: All references with their masks, by role.
        box: Where the exact target stands. None: not known.
        edit: `source` and `mask`. None: it is asked for no edit.
        ends: Pictures that need no model, by the names above; `exact target` where there is one.
        target_mask: Of the exact target.
    """

    prompt: Prompt
    about: PairRequest
    references: Mapping[str, FileRef]
    box: FileRef | None = None
    edit: Mapping[str, FileRef] | None = None
    ends: Mapping[str, FileRef] = field(default_factory=dict)
    target_mask: FileRef | None = None


@runtime_checkable
class SubjectQuestions(Protocol):
    """List questions; `DrawnQuestions` an embedded world's, `FolderQuestions` those about a folder of pictures."""

    @property
    def fingerprint(self) -> str:
        """Name the subjects, texts and everything that answers are measured against."""
        ...

    def questions(self) -> Sequence[SubjectQuestion]:
        """List them, always in the same order.

        Raises:
            UserError: A file cannot be used.
        """
        ...

    def rivals(self, question: SubjectQuestion) -> Sequence[np.ndarray]:
        """Return the exact targets of the same question for every subject, its own first; none where none are known."""
        ...


def prompt_about(subject: Subject, text: str, kind: str, side_px: int) -> Prompt:
    """Make the prompt of a question; texts of several subjects may be equal, so the subject is part of its id.

    Args:
        subject: Whom it is about.
        text: What is asked.
        kind: Of change, or another group of questions with a row of its own.
        side_px: Of the picture.
    """
    prompt = Prompt.create(text, skill=kind)
    own_id = f"{prompt.id}-{digest(subject.name, length=12)}"
    return replace(prompt, id=own_id, lineage_id=own_id, width_px=side_px, height_px=side_px)
