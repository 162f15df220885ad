"""What the error of a chat endpoint is about, told by its words: services share no codes."""

from __future__ import annotations

import re
from typing import Literal

ErrorKind = Literal["parameter", "image", "refusal", "other"]
_REFUSAL = re.compile(r"content[_ -]?(?:filter|policy|management)|moderation|safety system|flagged", re.I)
_NO_IMAGES = re.compile(
    r"\b(?:no|not|only|cannot|unable|at most \d+)\b[^.]{0,60}\b(?:images?|image_url|multi-?modal|vision)\b"
    r"|\b(?:images?|image_url|vision|multi-?modal)\b[^.]{0,60}\b(?:not|only|unsupported)\b"
    r"|content\b[^.]{0,60}\b(?:valid|a|be) string",
    re.I,
)
_BAD_IMAGE = re.compile(r"decod|download|fetch|too large|corrupt|invalid image|damaged|resolution", re.I)
_PARAMETER = re.compile(
    r"logprob|structured_outputs|response_format|json_schema|max_(?:completion_)?tokens|temperature|\bseed\b"
    r"|(?:unrecognized|unknown|unexpected|unsupported|extra|additional)[\w ]*(?:argument|parameter|field|input)",
    re.I,
)


def error_kind(message: str) -> ErrorKind:
    """Say what an error of a chat endpoint is about.

    `refusal`: of the subject; `parameter`: a wish it does not know; `image`: the model cannot be shown so many images,
    or none; `other`.

    Args:
        message: Code and words of the error.
    """
    if _REFUSAL.search(message):
        return "refusal"
    if _PARAMETER.search(message):
        return "parameter"
    return "image" if _NO_IMAGES.search(message) and not _BAD_IMAGE.search(message) else "other"
