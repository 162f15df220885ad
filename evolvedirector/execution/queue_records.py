"""Requests and replies as JSON: what crosses a folder that other machines read must never be able to run code."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from evolvedirector.errors import RunError
from evolvedirector.records import (
    FileRef,
    ImageAndPrompt,
    ImageReply,
    ImageRequest,
    Look,
    OrderedPair,
    Score,
    WriteReply,
    WriteRequest,
)

RECORDS: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        FileRef, ImageAndPrompt, ImageReply, ImageRequest, Look, OrderedPair, Score, WriteReply, WriteRequest,
    )
}  # fmt: skip
"""All that crosses: requests and replies of judges, writers, teachers and rewards, with their files."""
_BYTES, _RECORD, _MAP = "bytes", "record", "map"


def to_json(value: Any) -> bytes:
    """Write requests or replies, with the files that travel along, as JSON.

    Args:
        value: A record of `RECORDS`, or plain values, lists and mappings of such.

    Raises:
        TypeError: Something else is in it.
    """
    return json.dumps(_plain(value), ensure_ascii=False).encode("utf-8", "surrogatepass")


def from_json(content: bytes) -> Any:
    """Read what `to_json` wrote; lists come back as tuples.

    Raises:
        RunError: It is something else.
    """
    try:
        return _built(json.loads(content.decode("utf-8", "surrogatepass")))
    except (ValueError, TypeError, KeyError, binascii.Error, RecursionError) as error:
        raise RunError(
            f"A file in the queue is no batch of this version ({' '.join(str(error).split())[:200]}). Every machine "
            "needs the same version of evolvedirector. Install it there, and start the worker again."
        ) from error


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode("ascii")}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {_MAP: {str(key): _plain(part) for key, part in value.items()}}
    if RECORDS.get(type(value).__name__) is type(value) and dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {_RECORD: type(value).__name__, "fields": fields}
    raise TypeError(f"{type(value).__name__} cannot cross a queue folder")


def _built(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_built(part) for part in value)
    if not isinstance(value, dict):
        return value
    if value.keys() == {_BYTES}:
        return base64.b64decode(value[_BYTES], validate=True)
    if value.keys() == {_MAP}:
        return {key: _built(part) for key, part in value[_MAP].items()}
    if value.keys() == {_RECORD, "fields"}:
        return RECORDS[value[_RECORD]](**{name: _built(part) for name, part in value["fields"].items()})
    raise ValueError(f"an object with the keys {sorted(value)[:5]}")
