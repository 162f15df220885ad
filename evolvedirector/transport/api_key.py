"""Keys come from the environment when they are used, and stay nowhere."""

from __future__ import annotations

import os

from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault


def read_key(endpoint: Endpoint) -> str:
    """Read the key of an endpoint from the environment, now.

    Args:
        endpoint: names the variable.

    Returns:
        The key, or an empty text for an endpoint without one.

    Raises:
        TransportFault: `denied` when the variable is missing or holds something that cannot be a key.
    """
    name = endpoint.api_key_env
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise TransportFault("denied", f"the environment variable {name} is not set. Write `export {name}=...`")
    if not key.isascii() or not key.isprintable() or " " in key:  # the HTTP library would quote it in its complaint
        raise TransportFault(
            "denied",
            f"the environment variable {name} holds signs that no key has (spaces, line ends). Set it to the key alone",
        )
    return key
