"""A whole answer of a remote service."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evolvedirector.transport.fault import TransportFault


@dataclass(frozen=True)
class Response:
    """Hold status, headers and bytes of one answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """Parse the body.

        Raises:
            TransportFault: `ambiguous` when it is no JSON: after a 200, the work may have been done and paid.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise TransportFault(
                "ambiguous", f"the answer (status {self.status}) is no JSON that can be read", self.status
            ) from None

    def error(self) -> tuple[str, str, Any]:
        """Find code and message of an error in the shapes that services use.

        Returns:
            (code, message, parsed body); empty texts and None where there is none.
        """
        try:
            body = json.loads(self.body)
        except (ValueError, RecursionError):
            return "", "", None
        code, message = read_error(body)
        return code, message, body


def read_error(body: Any) -> tuple[str, str]:
    """Find code and message in `{"error": {"code", "message"}}`, `{"detail": ...}` and their relatives.

    Args:
        body: parsed JSON.
    """
    if not isinstance(body, Mapping):
        return "", ""
    inner = body.get("error", body)
    if isinstance(inner, str):
        return "", inner
    if not isinstance(inner, Mapping):
        return "", ""
    code = next((inner[key] for key in ("code", "type", "name") if isinstance(inner.get(key), str)), "")
    parts = (inner.get(key) for key in ("message", "detail", "title", "msg", "errors"))
    message = next((part if isinstance(part, str) else json.dumps(part) for part in parts if part), "")
    return code, message


def inflate(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo a content encoding without ever holding more than `max_bytes`: a few kB can unfold to gigabytes.

    Args:
        data: bytes as they were sent.
        encoding: value of the Content-Encoding header.
        max_bytes: most bytes that may come out.

    Raises:
        TransportFault: `too_large`, or `ambiguous` for an unknown encoding or damaged data.
    """
    if encoding in ("", "identity"):
        return data
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise TransportFault("ambiguous", f"the answer is encoded as {encoding[:20]!r}, which was not asked for")
    unpacker = zlib.decompressobj(wbits=47)  # 47: zlib and gzip headers alike
    try:
        plain = unpacker.decompress(data, max_bytes + 1)
    except zlib.error:
        raise TransportFault("ambiguous", f"the {encoding} encoding of the answer is damaged") from None
    if len(plain) > max_bytes:
        raise TransportFault("too_large", f"the answer unfolds to more than {max_bytes} bytes")
    if not unpacker.eof:
        raise TransportFault("ambiguous", f"the {encoding} encoding of the answer is cut short")
    return plain
