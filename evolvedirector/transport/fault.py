"""What can go wrong between us and a remote service, in words that give no secret away."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

FaultKind = Literal[
    "unreachable",  # nothing was sent: no connection, unknown name, failed encryption
    "busy",  # the service said try later (408, 409, 425, 429, 5xx) until the tries were used up
    "rejected",  # the service will not do this request (400, 404, 422, redirects, ...)
    "denied",  # key, credit or permission; every later request with this key fails at once
    "ambiguous",  # sent, but what the service did is unknown: it may have been paid
    "deadline",  # no time left
    "too_large",  # more bytes than allowed
    "forbidden_url",  # an address that must not be opened
]

MAX_REASON_CHARACTERS = 300
_QUERIES = re.compile(r"(https?://[^\s?#'\"<>]*)[?#][^\s'\"<>]*", re.IGNORECASE)
_USERINFO = re.compile(r"((?:https?|socks\w?h?)://)[^\s/@'\"<>]+@", re.IGNORECASE)
_KEYS = re.compile(
    r"(?i:\b(?:bearer|api[-_ ]?key|token|key)\b[\s:=]+)\S{6,}|\b(?:sk|pk|hf|r8|fal|bfl|key|gsk)[-_][\w*.-]{6,}"
)


class TransportFault(Exception):
    """Say that a request got no usable answer.

    Args:
        kind: what happened, for deciding what to do next.
        reason: what happened, for people; holds no key and no query string.
        status: HTTP status, where there was an answer.
        code: the service's own name for the error (`content_policy_violation`), empty where it gave none.
        body: parsed JSON of the answer, for reading refusals; None where there was none. Never shown.
        wait_s: seconds that the service asked to wait; None where it said nothing.
        maybe_paid: a request was sent whose outcome is unknown, so its price must be counted as spent.
        lasting: asking again would meet the same, whatever the kind.
    """

    def __init__(
        self,
        kind: FaultKind,
        reason: str,
        status: int | None = None,
        code: str = "",
        body: object = None,
        wait_s: float | None = None,
        maybe_paid: bool = False,
        lasting: bool = False,
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.status = status
        self.code = code
        self.body = body
        self.wait_s = wait_s
        self.maybe_paid = maybe_paid
        self.lasting = lasting


def without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """Make a text of others fit for a log: no key, no query string, one line, bounded length.

    Args:
        text: anything, such as an error message of a service (some repeat the key).
        secrets: texts that must not appear.
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[hidden]")
    text = _USERINFO.sub(r"\1[hidden]@", _QUERIES.sub(r"\1?[hidden]", text))
    text = _KEYS.sub("[hidden]", text)
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if len(line) <= MAX_REASON_CHARACTERS else line[: MAX_REASON_CHARACTERS - 1] + "…"
