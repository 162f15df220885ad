"""The files a sample may have: seven kinds, each checked whole before it is kept and decoded by our own table.

Nothing here can run code that a file brings along: arrays are read without pickle, and every size that a header claims
is compared with the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from evolvedirector.records import IMAGE_ROLE, FileRef
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import (
    EXTENSIONS,
    MAX_IMAGE_BYTES,
    check_image,
    decode_grey,
    decode_image,
    sniff_format,
)

MAX_FILE_BYTES = MAX_IMAGE_BYTES
MEDIA_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "txt": "text/plain",
    "json": "application/json",
    "npy": "application/x-npy",
    "safetensors": "application/vnd.safetensors",
}
"""By extension: every kind of file that a sample may have."""
_EXTENSIONS = {media_type: extension for extension, media_type in MEDIA_TYPES.items()}
_MASK = re.compile(r"(?:.*_)?mask(?:_\d+)?")


def extension_of(media_type: str) -> str:
    """Return the extension under which a kind of file is kept.

    Raises:
        StoreError: If files of this kind are not kept.
    """
    if media_type not in _EXTENSIONS:
        raise StoreError(
            f"Files of the media type '{media_type}' are not kept. Allowed are {', '.join(_EXTENSIONS)}."
            " Convert the file to one of them."
        )
    return _EXTENSIONS[media_type]


def checked_file(content: bytes, extension: str) -> FileRef:
    """Name a file from outside, after reading it whole.

    Args:
        content: The bytes.
        extension: One of `MEDIA_TYPES`; `jpeg` counts as `jpg`.

    Returns:
        The file with its content.

    Raises:
        StoreError: If it is too large, of another kind than `extension` says, or damaged.
    """
    extension = "jpg" if extension == "jpeg" else extension
    if extension not in MEDIA_TYPES:
        raise StoreError(
            f"Files with the extension '.{extension}' are not kept. Allowed are {', '.join(MEDIA_TYPES)}."
            " Convert the file to one of them."
        )
    if len(content) > MAX_FILE_BYTES:
        raise StoreError(
            f"A file of {len(content)} bytes is too large. At most {MAX_FILE_BYTES} are allowed. Store it smaller."
        )
    if extension not in EXTENSIONS:
        _CHECKS[extension](content)
        return FileRef.of(content, MEDIA_TYPES[extension])
    if (kind := sniff_format(content)) != extension:
        raise StoreError(f"A file that should be {extension} is {kind}. Its name must say what it is. Rename it.")
    return FileRef.of(content, MEDIA_TYPES[extension], *check_image(content))


def checked_ref(file: FileRef) -> FileRef:
    """Check a file that came from a part against its own description.

    Returns:
        The file with its content, and the size in pixels that an image really has.

    Raises:
        StoreError: If the content is missing, is not what the description says, or is refused.
    """
    if file.content is None:
        raise StoreError(
            f"The file {file.sha256} comes without its content. A file that is to be kept must bring its bytes."
            " Make it with `FileRef.of(content, media_type)`."
        )
    if hashlib.sha256(file.content).hexdigest() != file.sha256 or len(file.content) != file.size_bytes:
        raise StoreError(
            f"The content of the file {file.sha256} is another one than its name says. They must agree."
            " Make it with `FileRef.of(content, media_type)`."
        )
    checked = checked_file(file.content, extension_of(file.media_type))
    return replace(file, width_px=checked.width_px, height_px=checked.height_px)


def split_member(name: str) -> tuple[str, str]:
    """Split the name of a member into role and extension; the role of a sample's description is empty."""
    role, _, extension = name.rpartition(".")
    return role or (IMAGE_ROLE if extension in EXTENSIONS else ""), extension


def is_mask(role: str) -> bool:
    """Say whether the images of a role have one channel: `mask`, `mask_2`, `subject_mask`."""
    return _MASK.fullmatch(role) is not None


def decode_file(content: bytes, extension: str, role: str) -> Any:
    """Decode a file of a sample.

    Args:
        content: The bytes.
        extension: One of `MEDIA_TYPES`.
        role: Of the file; the images of a mask become grey.

    Returns:
        An image as uint8 [height, width, 3], a mask as uint8 [height, width, 1], an array as `np.ndarray`, the tensors
        of a safetensors file by name, text as `str`, JSON as its value.

    Raises:
        StoreError: If it is refused or damaged.
    """
    if extension in EXTENSIONS:
        return decode_grey(content) if is_mask(role) else decode_image(content)
    if extension == "safetensors":
        _check_tensors(content)
        from safetensors.torch import load  # reads bfloat16, which numpy has not

        return load(content)
    if extension not in _CHECKS:
        raise StoreError(f"A sample holds a file of the unknown kind '.{extension}'. Restore the shard from a copy.")
    return _CHECKS[extension](content)


def _array(content: bytes) -> np.ndarray:
    """Read an array of plain numbers, never a pickle."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        claimed = math.prod(shape) * dtype.itemsize
        if (
            dtype.kind not in "biuf"
            or dtype.itemsize > 8
            or min(shape, default=0) < 0
            or claimed != len(content) - file.tell()
        ):
            raise ValueError(f"it claims {dtype} of shape {shape} in {len(content)} bytes")
        file.seek(0)
        array = np.lib.format.read_array(file, allow_pickle=False)
        return array.astype(dtype.newbyteorder("="), copy=False)
    except MemoryError:
        raise
    except Exception as error:  # a damaged header ends in tokenize.TokenError, SyntaxError, TypeError and others
        raise StoreError(
            f"An npy file cannot be used: {error}. Allowed is one whole array of booleans, integers or floats."
            " Save it with `numpy.save(file, array, allow_pickle=False)`."
        ) from error


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StoreError(f"A text file is not UTF-8: {error}. Only UTF-8 is read. Save it again.") from error


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"A JSON file cannot be read: {error}. It must be one JSON value. Save it again.") from error


def _check_tensors(content: bytes) -> None:
    from safetensors import SafetensorError, deserialize

    try:
        deserialize(content)
    except SafetensorError as error:
        raise StoreError(
            f"A safetensors file cannot be used: {error}. It is damaged or of another kind. Save it again."
        ) from error


_CHECKS: dict[str, Callable[[bytes], Any]] = {
    "npy": _array,
    "txt": _text,
    "json": _json,
    "safetensors": _check_tensors,
}
