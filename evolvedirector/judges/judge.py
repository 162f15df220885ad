"""The seam behind which every judge stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from evolvedirector.records import ImageAndPrompt, Look, OrderedPair


def verify_parts(*parts: Any) -> None:
    """Let every part that can check itself do so, before anything is spent.

    Args:
        parts: Judges, models and readers; None and those without `verify` are passed over.

    Raises:
        ValueError: The first part that cannot work says why.
    """
    for part in parts:
        verify = getattr(part, "verify", None)
        if verify is not None:
            verify()


def close_parts(*parts: Any) -> None:
    """Close every part, also when one of them fails to; its error is raised after the others are closed.

    Args:
        parts: Judges, models and readers; None and those without `close` are passed over.
    """
    failed: Exception | None = None
    for part in parts:
        try:
            if hasattr(part, "close"):
                part.close()
        except Exception as error:
            failed = failed or error
    if failed is not None:
        raise failed


def price_of(*parts: Any, times: float = 1.0) -> float | None:
    """Add up what a question to each part costs in USD; None where one does not know its price.

    Args:
        parts: Judges and models; None and those without `price_usd`, which run here, cost nothing.
        times: Questions to each.
    """
    prices = [part.price_usd() for part in parts if hasattr(part, "price_usd")]
    return None if None in prices else times * sum(prices)


def bytes_of(*parts: Any) -> list[int]:
    """List what each part needs on a device, in bytes; those that take none, or cannot say, need 0.

    Args:
        parts: Judges and models; None needs nothing.
    """
    return [int(part.estimated_bytes() or 0) if hasattr(part, "estimated_bytes") else 0 for part in parts]


def requests_of(*parts: Any) -> int:
    """Return how many requests the parts want at once; over 0 where one asks a service, so that one process must ask.

    Args:
        parts: Judges and models; None and those without `requests_per_unit`, which run here, want none.
    """
    return max((int(getattr(part, "requests_per_unit", 0)) for part in parts), default=0)


def outage_of(*parts: Any) -> tuple[bool, bool]:
    """Tell of answers that make up one look, and could not be read, whether asking again may help.

    Args:
        parts: Looks or answers. Where none of them was sent, neither was the whole; where an outage kept back some of
            them only, the whole was sent and cut off.

    Returns:
        (`sent`, `cut_off`) of the whole.
    """
    lost = any(not part.sent or part.cut_off for part in parts)
    sent = not parts or any(part.sent for part in parts)
    return sent, sent and lost


def models_of(part: Any) -> frozenset[str]:
    """Name every model behind a judge, through panels, gates and corrections: by fingerprint, and by its plain name.

    Two judges that share one are no two opinions.

    Args:
        part: A judge, or a model that answers questions; others name nothing.
    """
    inner = [getattr(part, name, None) for name in ("judge", "answerer")]
    members = getattr(part, "judges", None)
    inner += list(members.values()) if isinstance(members, dict) else []
    found = [models_of(other) for other in inner if other is not None]
    if found:
        return frozenset().union(*found)
    model = getattr(part, "model", None)
    names = {getattr(part, "fingerprint", None), f"model {model}" if isinstance(model, str) else None}
    return frozenset(name for name in names if isinstance(name, str))


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
