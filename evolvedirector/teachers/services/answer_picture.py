"""The picture in an answer, in whatever form it was sent: what is paid for is not lost to its wrapping."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.response import Response

_NAMES = (
    *("b64_json", "b64", "base64", "image_base64", "image_b64", "bytesBase64Encoded"),
    *("image", "url", "image_url", "imageUrl", "uri", "sample"),
    *("data", "images", "output", "result", "artifacts", "predictions"),
)
"""Fields in which services put pictures: the picture itself before its address, lists of them last."""
_MAX_DEPTH = 8
_DATA_URL = re.compile(r"data:(?P<type>[^,]{0,200}),", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://|//?[^/+=]", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,4}")
_SPACE = re.compile(r"\s+|\\[rnt]")
"""White space, and what is left of it after JSON was put into JSON."""
_TO_STANDARD = str.maketrans("-_", "+/")
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """A picture, or where it is."""

    image: bytes | None = field(default=None, repr=False)
    url: str = field(default="", repr=False)
    """May hold a signature, so it is never shown."""


def is_picture(data: bytes) -> bool:
    """Say whether bytes begin as an encoded picture does."""
    return data.startswith(_PICTURES) or data[8:12] == b"WEBP" or data[4:12] in (b"ftypavif", b"ftypavis")


def picture_in(value: Any, depth: int = _MAX_DEPTH) -> FoundPicture | None:
    """Find the picture that a part of an answer holds; None where there is none.

    Taken are base64 (with line breaks, in the URL-safe alphabet, without its padding), data URLs, addresses, JSON in
    a text, and lists and objects that hold one of these under a name that services use. An empty field gives way to
    the next one; text that decodes to something else is returned only where nothing better is found.

    Args:
        value: parsed JSON.
        depth: how many lists, objects and texts may lie in each other.
    """
    if isinstance(value, str):
        return _picture_in_text(value, depth)
    if depth <= 0 or not isinstance(value, Mapping | list):
        return None
    parts = value if isinstance(value, list) else [value[name] for name in _NAMES if name in value]
    doubtful = None
    for part in parts:
        found = picture_in(part, depth - 1)
        if found is not None and (found.url or is_picture(found.image or b"")):
            return found
        doubtful = doubtful or found
    return doubtful


def unwrapped(body: bytes) -> bytes:
    """Take a picture out of the text that a body is, where it is one; everything else comes back as it is.

    Args:
        body: of an answer that should be a picture.
    """
    if is_picture(body):
        return body
    if is_picture(body.lstrip()):
        return body.lstrip()
    found = picture_in_body(body)
    return body if found is None or not is_picture(found.image or b"") else found.image or b""


def picture_in_body(body: bytes) -> FoundPicture | None:
    """Find the picture in a body that is JSON, base64, a data URL or an address; None for others."""
    try:
        return picture_in(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None


def paid_json(answer: Response) -> Any:
    """Read the answer to a request that is paid for: JSON, or a picture where JSON belongs, as `{"image": ...}`.

    Args:
        answer: whole.

    Raises:
        TransportFault: it is neither.
    """
    if is_picture(answer.body):
        return {"image": base64.b64encode(answer.body).decode()}
    try:
        return answer.json()
    except TransportFault as fault:
        fault.maybe_paid = True
        raise


def _picture_in_text(text: str, depth: int) -> FoundPicture | None:
    text = text.strip()
    if text[:1] in ("{", "[", '"') and depth > 0:
        try:
            return picture_in(json.loads(text), depth - 1)
        except (ValueError, RecursionError):
            return None
    header = _DATA_URL.match(text)
    if header is not None:
        data = text[header.end() :]
        if "base64" not in header["type"].lower():
            return FoundPicture(unquote_to_bytes(data))
        return _from_base64(unquote_to_bytes(data).decode("latin-1") if "%" in data else data)
    if len(text) < 8192 and _ADDRESS.match(text) and not any(sign.isspace() for sign in text):
        decoded = _from_base64(text)  # a JPEG in base64 begins with `/9j/`, as a path may
        return decoded if decoded is not None and is_picture(decoded.image or b"") else FoundPicture(url=text)
    return _from_base64(text)


def _from_base64(text: str) -> FoundPicture | None:
    text = _SPACE.sub("", text)
    if not _BASE64.fullmatch(text):
        return None
    text = text.rstrip("=").translate(_TO_STANDARD)
    if len(text) % 4 == 1:  # six bits are no byte
        return None
    return FoundPicture(base64.b64decode(text + "=" * (-len(text) % 4)))
