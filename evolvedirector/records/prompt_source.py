"""The seam through which first prompts enter a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from evolvedirector.records import Prompt


@runtime_checkable
class PromptSource(Protocol):
    """Supply seed prompts for a new dataset root: a file, a grammar, a vocabulary."""

    def prompts(self) -> Sequence[Prompt]:
        """List the seeds; the same source lists the same seeds."""
        ...
