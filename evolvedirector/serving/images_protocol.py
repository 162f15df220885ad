"""The OpenAI Images protocol as pure functions: what a call may say, and how it is answered."""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolvedirector.records import MAX_PROMPT_CHARACTERS, ImageReply

MAX_BODY_BYTES = 64 * 2**10
MAX_SEED = 2**63 - 1
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "response_format": ("b64_json",),
    "output_format": ("png",),
    "output_compression": (100,),
    "background": ("auto", "opaque"),
    "quality": ("auto", "standard"),
    "style": (),
    "moderation": ("auto",),
    "input_fidelity": (),
    "stream": (False,),
    "partial_images": (0,),
}
"""Words of the protocol that a teacher here cannot be told, with the values that are true without being told; null is
always one of them."""
_LABELS = ("user", "safety_identifier")
"""Names of the one who asks: any text, for it changes no image."""
_KNOWN = ("prompt", "model", "n", "size", "seed", *_FIXED, *_LABELS)


class CallRefused(Exception):
    """A call that is answered with an error of the protocol.

    Args:
        status: HTTP status.
        code: Word for programs.
        message: Sentence for people; it repeats nothing secret.
        param: The field at fault; None: the call as a whole.
        headers: Further header fields of the answer; None: none.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, headers or {}

    def answer(self) -> Answer:
        """Return the error as the protocol writes it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        wait = {"Retry-After": "2"} if self.status == 503 else {}
        return Answer(self.status, json.dumps({"error": error}).encode(), {**wait, **self.headers})


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer: status, JSON and further headers."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImagesCall:
    """A call for images, checked: one seed per image."""

    prompt: str
    seeds: tuple[int, ...]
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What one call may ask for.

    Attributes:
        default_side_px: Width and height in pixels where a call names no size.
        max_side_px: Greatest width and height in pixels.
        max_images: Greatest `n`.
    """

    default_side_px: int = 512
    max_side_px: int = 2048
    max_images: int = 10


def parse_call(body: bytes, model: str, limits: CallLimits) -> ImagesCall:
    """Read the body of `POST /v1/images/generations`.

    Besides the protocol's own words it may hold `seed`, as other local servers have it; image i of n gets seed + i. A
    word that is not known, or asks for what a teacher here cannot be told, is refused: one that is left out in silence
    would change what the images show.

    Args:
        body: JSON.
        model: The one model that is served.
        limits: What a call may ask for.

    Raises:
        CallRefused: With the field at fault.
    """
    call = _object(body)
    for name in call:
        if name not in _KNOWN:
            raise CallRefused(400, "unknown_parameter", f"Unknown parameter: {name[:80]!r}.", name[:80])
    for name, allowed in _FIXED.items():
        value = call.get(name)
        if value is not None and not any(type(value) is type(each) and value == each for each in allowed):
            words = " or ".join(map(json.dumps, allowed)) or "left out"
            raise CallRefused(400, "invalid_value", f"{name} can only be {words} here.", name)
    for name in (*_LABELS, "model"):
        if not isinstance(call.get(name, ""), str | None):
            raise CallRefused(400, "invalid_value", f"{name} is a text.", name)
    if call.get("model") not in (None, model):
        raise CallRefused(404, "model_not_found", f"The model is not served here; served is {model!r}.", "model")
    count = _integer(call, "n", 1, 1, limits.max_images)
    seed = _integer(call, "seed", secrets.randbelow(MAX_SEED), 0, MAX_SEED)
    width_px, height_px = _size(call.get("size"), limits)
    seeds = tuple((seed + number) % (MAX_SEED + 1) for number in range(count))
    return ImagesCall(_prompt(call.get("prompt")), seeds, width_px, height_px)


def answer_of(replies: Sequence[ImageReply]) -> Answer:
    """Answer a call by the teacher's replies, in order; one that is no image decides for the whole call.

    Args:
        replies: One per image.
    """
    for reply in replies:
        if reply.status == "refusal":
            reason = reply.reason or "The teacher refused the prompt."
            return CallRefused(400, "content_policy_violation", reason[:1000], "prompt").answer()
    for reply in replies:
        if reply.status != "image" or reply.image is None:
            return CallRefused(502, "teacher_failed", (reply.reason or "The teacher drew no image.")[:1000]).answer()
    images = [{"b64_json": base64.b64encode(reply.image or b"").decode()} for reply in replies]
    return Answer(200, json.dumps({"created": int(time.time()), "data": images}).encode())


def models_answer(model: str) -> Answer:
    """Answer `GET /v1/models`.

    Args:
        model: The one model that is served.
    """
    entry = {"id": model, "object": "model", "created": 0, "owned_by": "evolvedirector"}
    return Answer(200, json.dumps({"object": "list", "data": [entry]}).encode())


def _object(body: bytes) -> dict[str, Any]:
    try:
        call = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CallRefused(400, "invalid_json", f"The body is no JSON: {type(error).__name__}.") from error
    if not isinstance(call, dict):
        raise CallRefused(400, "invalid_json", "The body is no JSON object.")
    return call


def _prompt(prompt: Any) -> str:
    if not isinstance(prompt, str) or not prompt.strip():
        raise CallRefused(400, "invalid_value", "prompt is missing or empty. It is a text.", "prompt")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        message = f"prompt has {len(prompt)} characters. At most {MAX_PROMPT_CHARACTERS} are allowed."
        raise CallRefused(400, "string_above_max_length", message, "prompt")
    if any("\ud800" <= character <= "\udfff" or character == "\0" for character in prompt):
        raise CallRefused(400, "invalid_value", "prompt holds half a character or a zero, which no text has.", "prompt")
    return prompt


def _integer(call: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = default if call.get(name) is None else call[name]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise CallRefused(400, "invalid_value", f"{name} is a whole number from {least} to {most}.", name)
    return value


def _size(size: Any, limits: CallLimits) -> tuple[int, int]:
    if size in (None, "auto"):
        return limits.default_side_px, limits.default_side_px
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(1 <= side <= limits.max_side_px for side in sides):
        message = f"size is WIDTHxHEIGHT in pixels, each from 1 to {limits.max_side_px}, such as 512x512."
        raise CallRefused(400, "invalid_value", message, "size")
    return sides
