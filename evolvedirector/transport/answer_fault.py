"""What an answer outside of 200 to 299 means."""

from __future__ import annotations

from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault, without_secrets
from evolvedirector.transport.response import Response
from evolvedirector.transport.waiting import asked_wait_s

RETRIED = frozenset({408, 409, 425, 429})
UNKNOWN_OUTCOME = frozenset({408, 409, 500, 502, 504, *range(520, 528)})
"""A gateway may say so while the work behind it goes on and is charged; 425, 429 and 503 mean: not begun."""
DENIED = frozenset({401, 402, 403})
NO_CREDIT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
"""Sent with 400 or 429, but neither another request nor waiting helps."""


def fault_of(response: Response, endpoint: Endpoint, key: str, repeatable: bool) -> TransportFault:
    """Turn an answer into the fault it means: `denied`, `busy` (worth another try), `ambiguous` or `rejected`.

    Args:
        response: with a status outside of 200 to 299.
        endpoint: who answered.
        key: must not appear in the words.
        repeatable: doing the same request twice costs nothing more.
    """
    status = response.status
    code, message, body = response.error()
    code = without_secrets(code, [key])[:80]
    where = f"{endpoint.host} answered {status}{f' ({code})' if code else ''}"
    if status in DENIED or code in NO_CREDIT_CODES:
        # The message is not quoted: services repeat parts of a wrong key in it.
        return TransportFault("denied", f"{where}: {_denial(status, code, endpoint)}", status, code, body)
    words = without_secrets(message, [key])
    reason = f"{where}: {words}" if words else where
    if status in UNKNOWN_OUTCOME and not repeatable:
        return TransportFault("ambiguous", reason, status, code, body, maybe_paid=True)
    if status in RETRIED or status >= 500:
        return TransportFault("busy", reason, status, code, body, asked_wait_s(response.headers, response.body))
    if 300 <= status < 400:
        reason = f"{where}, a redirect, which is not followed. Write the final address as base_url"
    return TransportFault("rejected", reason, status, code, body)


def _denial(status: int, code: str, endpoint: Endpoint) -> str:
    name = endpoint.api_key_env
    if status == 402 or code in NO_CREDIT_CODES:
        return "no credit is left. Add some, or name another key"
    if status == 403:
        return "the key may not do this (permission, region or account)"
    if name is None:
        return "it wants a key. Write `api_key_env: MY_API_KEY`, the name of the variable that holds it"
    return f"the key in {name} is not accepted. Set {name} to a valid one"
