"""Why a connection could not be made, in words that help and give nothing away."""

from __future__ import annotations

import socket
import ssl


def connection_reason(error: BaseException, host: str) -> str:
    """Say why nothing could be sent to a host.

    Args:
        error: what the network library raised; its causes are searched for the operating system's own.
        host: where it should have gone.
    """
    seen: BaseException | None = error
    why = "no connection"
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted ({seen.verify_message})"
            break
        if isinstance(seen, ssl.SSLError):
            why = "encryption failed; is it really an https address?"
            break
        if isinstance(seen, socket.gaierror):
            why = "its name is unknown"
            break
        if isinstance(seen, ConnectionRefusedError):
            why = "it refused the connection; is the server running, and the port right?"
            break
        if isinstance(seen, TimeoutError) or "Timeout" in type(seen).__name__:
            why = "it did not take the connection in time"
        elif "Proxy" in type(seen).__name__:
            why = "the proxy of the environment would not connect"
        seen = seen.__cause__ or seen.__context__
    return f"{host} cannot be reached: {why}"
