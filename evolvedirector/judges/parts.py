"""What a judge made of other parts does to all of them: check each, close each."""

from __future__ import annotations

from typing import Any


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
