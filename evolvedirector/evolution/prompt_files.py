"""What a prompt is drawn from beside its words: a subject's references, a picture to edit, a mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from evolvedirector.evolution.round_parts import Round
from evolvedirector.records import FileRef, Prompt, Sample, seed_of


class PromptFiles:
    """Find the files that prompts of a round are drawn from, in the revision that it began from.

    A prompt has the files of its own sample, one without sample those of its nearest ancestor that has some: a child
    asks for the same subject. What has neither is drawn from its words alone, unless the student cannot do without
    files: then it takes those of a live sample, chosen by its id. A round that is repeated finds the same ones.

    Args:
        round: The round.
    """

    def __init__(self, round: Round) -> None:
        student = round.parts.student
        self._blobs = round.parts.store.blobs
        self._roles, self._needed = frozenset(student.roles), frozenset(student.needed_roles)
        self._entries = round.parts.store.state(round.info.revision_sha).entries if self._roles else {}
        self._whole: list[Sample] | None = None

    def of(self, prompt: Prompt) -> dict[str, FileRef]:
        """Return the files of a prompt by role, without content; none where the student reads none.

        Args:
            prompt: Of the revision, or written in this round.
        """
        if not self._roles:
            return {}
        found = next((files for sample in self._line(prompt) if (files := self._read(sample))), {})
        if self._needed - found.keys() and (whole := self._samples_with_all()):
            found = self._read(whole[seed_of("files", prompt.id) % len(whole)])
        return found

    def with_content(self, files: Mapping[str, FileRef]) -> dict[str, FileRef]:
        """Return files with their bytes, for a request.

        Args:
            files: By role.
        """
        return {role: replace(file, content=self._blobs.get(file.sha256)) for role, file in files.items()}

    def _line(self, prompt: Prompt) -> Iterable[Sample]:
        """Yield the first sample of a prompt and of its ancestors, the nearest first."""
        seen: set[str] = set()
        prompt_id: str | None = prompt.id
        parent_id = prompt.parent_id
        while prompt_id is not None and prompt_id not in seen:
            seen.add(prompt_id)
            entry = self._entries.get(prompt_id)
            if entry is not None:
                parent_id = entry.prompt.parent_id
                if entry.sample is not None:
                    yield entry.sample
            prompt_id, parent_id = parent_id, None

    def _read(self, sample: Sample) -> dict[str, FileRef]:
        return {role: file for role, file in sample.files.items() if role in self._roles}

    def _samples_with_all(self) -> list[Sample]:
        if self._whole is None:
            live = (entry.sample for entry in self._entries.values() if entry.state == "live")
            self._whole = [sample for sample in live if sample is not None and self._needed <= sample.files.keys()]
        return self._whole
