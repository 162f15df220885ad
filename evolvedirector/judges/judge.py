"""The seam behind which every judge stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from evolvedirector.records import ImageAndPrompt, Look, OrderedPair
from evolvedirector.records.part import Part
from evolvedirector.records.questions import Answer


def outage_of(*parts: Look | Answer) -> tuple[bool, bool]:
    """Tell of answers that make up one look, and could not be read, whether asking again may help.

    Args:
        parts: Where none of them was sent, neither was the whole; where an outage kept back some of
            them only, the whole was sent and cut off.

    Returns:
        (`sent`, `cut_off`) of the whole.
    """
    lost = any(not part.sent or part.cut_off for part in parts)
    sent = not parts or any(part.sent for part in parts)
    return sent, sent and lost


@runtime_checkable
class NamesModels(Protocol):
    """A judge that can say which models stand behind it, through panels, gates and corrections."""

    def models(self) -> frozenset[str]:
        """Name each model twice: by the fingerprint of who asks it, and as `model <its plain name>`."""
        ...


def models_of(*judges: Part | None) -> frozenset[str]:
    """Name every model behind judges. Two judges that share one are no two opinions.

    Args:
        judges: Judges, or models that answer questions; one that names no models stands for itself, None for nothing.
    """
    named = (judge.models() if isinstance(judge, NamesModels) else {judge.fingerprint} for judge in judges if judge)
    return frozenset().union(*named)


@runtime_checkable
class ComparesPairs(Protocol):
    """The half of a judge that says which of two images fits a prompt better."""

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair in its one order, the probability that the first image fits better."""
        ...


@runtime_checkable
class ChecksImages(Protocol):
    """The half of a judge that says whether one image shows its prompt."""

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the probability that the image shows the prompt."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Read images: which of two fits a prompt better, and whether one shows it.

    A reply that cannot be read is a `Look` with covered mass 0, never an exception.
    """

    @property
    def fingerprint(self) -> str:
        """Name the model, its revision and the question template."""
        ...

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair in its one order, the probability that the first image fits better."""
        ...

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the probability that the image shows the prompt."""
        ...

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def close(self) -> Any:
        """Free memory and connections; the next call loads again."""
        ...
