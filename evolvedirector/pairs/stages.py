"""The seams of the pair builder: subjects -> prompt -> draft -> refine -> view -> mask -> filter, then the record.

Users subclass nothing: whoever has the method is the stage. Replies come as they finish, in any order; what cannot be
done is a reply with its reason, never an exception. Our reading of Toffee (Zhou et al. 2024, arXiv 2406.09305,
section 3): two models are trained once, none for a subject, so that cost per subject stays the same however many there
are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from evolvedirector.pairs.pair_records import PairReply, PairRequest, Subject


@runtime_checkable
class SubjectSource(Protocol):
    """Where subjects come from."""

    @property
    def fingerprint(self) -> str:
        """Name the source and every parameter that changes what a subject of one name looks like."""
        ...

    def subjects(self) -> Sequence[Subject]:
        """List all subjects without their pictures, always in the same order."""
        ...

    def load(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield, per subject, the file `reference` and, where its outline is known, `reference_mask` of its size."""
        ...


@runtime_checkable
class PromptStage(Protocol):
    """Who writes what a pair is to show."""

    @property
    def fingerprint(self) -> str:
        """Name the writer and every parameter that changes its words."""
        ...

    def write(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield, per pair, the words `prompt` and those of the change of its kind."""
        ...


@runtime_checkable
class DraftStage(Protocol):
    """Who draws the prompt: the change is there, fine detail of the subject is not."""

    @property
    def fingerprint(self) -> str:
        """Name the model and every parameter that changes its pictures."""
        ...

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield, per pair, the file `image` and, where its outline is known, `mask`."""
        ...


@runtime_checkable
class RefineStage(Protocol):
    """Who brings the subject's detail into the draft."""

    @property
    def fingerprint(self) -> str:
        """Name the model and every parameter that changes its pictures."""
        ...

    def refine(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield, per pair, the file `image`, made of `reference`, `reference_mask` and `draft`."""
        ...


@runtime_checkable
class ViewStage(Protocol):
    """Who shows the subject of a picture from elsewhere; asked for pairs of the kind `view` alone."""

    @property
    def fingerprint(self) -> str:
        """Name the model and every parameter that changes its pictures."""
        ...

    def turn(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield, per pair, the file `image` and, where its outline is known, `mask`."""
        ...


@runtime_checkable
class MaskStage(Protocol):
    """Who finds the subject in a picture."""

    @property
    def fingerprint(self) -> str:
        """Name the model and every parameter that changes its masks."""
        ...

    def mask(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield, per picture in `image`, the file `mask` of its size: white where the subject is."""
        ...


@runtime_checkable
class FilterStage(Protocol):
    """Who measures how far a pair is right; thresholds are the builder's, so that they change without a new look."""

    @property
    def fingerprint(self) -> str:
        """Name the models and every parameter that changes scores."""
        ...

    def score(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield, per pair, its scores by name: `identity`, `text`, `change`; higher is better."""
        ...
