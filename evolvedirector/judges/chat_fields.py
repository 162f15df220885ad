"""Which fields of a chat request a server does not know, learned from its own complaints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DROPPABLE = ("temperature", "seed", "top_p")
"""Without these a reply differs a little; without any other field it would be another question."""


class ChatFields:
    """Fit chat requests to one server: newer models want another name for the length, or no temperature, or no seed.

    Used from several tasks at once: what is learned is only ever added.
    """

    def __init__(self) -> None:
        self._unknown: set[str] = set()

    def fit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request as this server takes it.

        Args:
            body: The request with every wish.
        """
        fitted = {name: value for name, value in body.items() if name not in self._unknown}
        if "max_tokens" in self._unknown and "max_tokens" in body:
            fitted["max_completion_tokens"] = body["max_tokens"]
        return fitted

    def learn(self, complaint: str, sent: Mapping[str, Any]) -> bool:
        """Take a field out that a server complains about.

        Args:
            complaint: Code and words of its error.
            sent: The request as it was sent.

        Returns:
            Whether the same wish is now sent differently, so that asking again makes sense.
        """
        if "max_tokens" in sent and "max_completion_tokens" in complaint:
            self._unknown.add("max_tokens")
            return True
        named = {name for name in _DROPPABLE if name in sent and name in complaint}
        self._unknown |= named
        return bool(named)

    def drop(self, name: str, sent: Mapping[str, Any]) -> bool:
        """Leave a field out from now on.

        Args:
            name: Of the field.
            sent: The request as it was sent.

        Returns:
            Whether it had been sent.
        """
        self._unknown.add(name)
        return name in sent
