"""The seam through which first prompts enter a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from evolvedirector.records import FileRef, Prompt


@runtime_checkable
class PromptSource(Protocol):
    """Supply seed prompts for a new dataset root: a file, a grammar, a vocabulary."""

    def prompts(self) -> Sequence[Prompt]:
        """List the seeds; the same source lists the same seeds."""
        ...


@runtime_checkable
class BringsFiles(Protocol):
    """A source whose prompts are drawn with files: references of a subject, a source and its mask."""

    def files(self) -> Mapping[str, Mapping[str, FileRef]]:
        """Return the files of each prompt by role, each with its content, by the prompt's id."""
        ...
