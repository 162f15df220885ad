"""A teacher behind the OpenAI Images protocol, which many services and servers speak."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from evolvedirector.errors import UserError
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.teachers.services.answer_picture import paid_json, picture_in
from evolvedirector.teachers.services.image_api import APITeacher, ImageAPI
from evolvedirector.teachers.services.image_safety import ImageSafety
from evolvedirector.teachers.services.prices import listed_price_usd
from evolvedirector.transport.client import Client
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault, without_secrets
from evolvedirector.transport.response import Response, read_error
from evolvedirector.transport.url_guard import check_allowed_hosts

OutputFormat = Literal["png", "jpeg", "webp"]
ResponseFormat = Literal["b64_json", "url"]

GPT_IMAGE_SIZES = ("1024x1024", "1536x1024", "1024x1536")
KNOWN_SIZES = {
    "gpt-image": GPT_IMAGE_SIZES,
    "dall-e-3": ("1024x1024", "1792x1024", "1024x1792"),
    "dall-e-2": ("256x256", "512x512", "1024x1024"),
}
"""By beginning of the model's name; other models draw the size asked for."""
RESULT_HOSTS = ("oaidalleapiprodscus.blob.core.windows.net",)
MODERATED = frozenset(
    {
        "content_policy_violation",
        "moderation_blocked",
        "content_filter",
        "contentFilter",
        "ResponsibleAIPolicyViolation",
        "safety_violation",
    }
)
_MODERATED_WORDS = re.compile(r"safety system|content (?:management )?policy|moderat|content filter", re.IGNORECASE)
_SIZE = re.compile(r"[1-9]\d{1,4}x[1-9]\d{1,4}")
_OURS = ("model", "prompt", "n", "size", "stream")


class _OpenAIImages:
    """The OpenAI Images protocol, for one model."""

    def __init__(
        self,
        model: str,
        sizes: Sequence[str],
        fields: Mapping[str, Any],
        send_seed: bool,
        image_hosts: Sequence[str],
    ) -> None:
        self._model = model
        self._sizes = sizes
        self._fields = fields
        self._send_seed = send_seed
        self._image_hosts = image_hosts

    async def check(self, client: Client) -> None:
        """Check key, host and model name by listing the models; a service that lists none need only be reached."""
        try:
            answer = await client.request_json("GET", "models")
        except TransportFault as fault:
            if fault.status in (404, 405, 501):
                return  # reached, but this service lists no models
            raise
        names = model_names(answer)
        if names and self._model not in names:
            known = ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else "")
            raise UserError(f"it has no such model. It has {known}. Write one of them as model")

    async def draw(self, client: Client, request: ImageRequest) -> ImageReply:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": request.prompt,
            "n": 1,
            "size": nearest_size(request.width_px, request.height_px, self._sizes),
            **self._fields,
        }
        if self._send_seed:
            body["seed"] = request.seed % 2**31
        try:
            answer = await client.request_json(
                "POST",
                "images/generations",
                body,
                idempotency_key=request.idempotency_key,
                accept=_is_refusal,
                read=paid_json,
            )
        except TransportFault as fault:
            words = read_error(fault.body)[1]
            if fault.kind == "rejected" and is_moderated(fault.code, words):
                return ImageReply(request.request_id, "refusal", reason=fault.reason)
            raise
        code, message = read_error(answer) if isinstance(answer, Mapping) and answer.get("error") else ("", "")
        if code or message:
            status: Literal["refusal", "failure"] = "refusal" if is_moderated(code, message) else "failure"
            reason = without_secrets(f"the answer holds an error: {code} {message}")
            return ImageReply(request.request_id, status, reason=reason)
        return ImageReply(request.request_id, "image", await self._image(client, answer))

    async def _image(self, client: Client, answer: Any) -> bytes:
        found = picture_in(answer)
        if found is None:
            raise TransportFault("ambiguous", "the answer holds no picture that can be read", maybe_paid=True)
        if found.image is not None:
            return found.image
        try:
            return await client.download(found.url, self._image_hosts)
        except TransportFault as fault:
            fault.maybe_paid = True  # it was drawn
            if fault.kind == "forbidden_url":
                fault.reason += ". Write `response_format: b64_json`, or add the host to image_hosts if you trust it"
            raise


class OpenAIImagesTeacher(APITeacher):
    """Buy images from anything that speaks the OpenAI Images protocol: hosted, vLLM-Omni, SGLang, LocalAI, a proxy.

    Refusals by a content filter are replies with the status `refusal`; a broken connection after a request was sent
    is a `failure`, and is sent again by the transport only when the endpoint is `idempotent`.

    Args:
        endpoint: service, key and limits. The base URL ends before `/images/generations`, such as
            `https://api.openai.com/v1`.
        model: name as the service spells it.
        sizes: sizes the model can draw, such as `1024x1024`; the one nearest in shape, then in area, is asked for and
            the image is kept as it comes. None: known for gpt-image and dall-e models; others draw any size.
        quality: as the service spells it (`low`, `medium`, `high`); None leaves it out.
        output_format: encoding that is asked for; None leaves it out. Images are kept as PNG in any case.
        response_format: `b64_json` or `url`; None leaves it out (gpt-image models allow nothing else). Servers that
            can do both should be asked for `b64_json`: then nothing has to be fetched from a second address.
        extra: further fields of the request, plain values, such as `num_inference_steps`, `guidance_scale` or
            `negative_prompt` for vLLM-Omni and SGLang, or `moderation`.
        send_seed: send the seed of each request; hosted OpenAI models know none and refuse it.
        image_hosts: hosts from which images may be fetched when the answer holds addresses, such as
            `images.example.com` or `*.example.com`; None for those of hosted OpenAI and the service itself.
        cost_usd_per_image: price in US dollars; None looks it up in the price list.
        safety: what images are accepted.

    Raises:
        UserError: a size, host, price or field that cannot be.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        sizes: list[str] | None = None,
        quality: str | None = None,
        output_format: OutputFormat | None = None,
        response_format: ResponseFormat | None = None,
        extra: dict[str, str | int | float | bool | None] | None = None,
        send_seed: bool = False,
        image_hosts: list[str] | None = None,
        cost_usd_per_image: float | None = None,
        safety: ImageSafety = ImageSafety(),  # noqa: B008 - frozen
    ) -> None:
        for size in sizes or []:
            if not _SIZE.fullmatch(size):
                raise UserError(f"sizes holds {size!r}. Allowed are sizes in pixels. Write 1024x1024.")
        for name in extra or {}:
            if name in _OURS:
                raise UserError(
                    f"extra holds {name!r}, which this class sets itself. Allowed are other fields. Leave it out."
                )
        check_allowed_hosts(image_hosts or [])
        self.model = model
        self.sizes = tuple(sizes) if sizes is not None else known_sizes(model)
        fields = {"quality": quality, "output_format": output_format, "response_format": response_format}
        self.fields: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
        self.fields |= extra or {}
        self.send_seed = send_seed
        self.image_hosts = [*(RESULT_HOSTS if image_hosts is None else image_hosts), endpoint.host]
        price = listed_price_usd("openai", model, quality) if cost_usd_per_image is None else cost_usd_per_image
        parameters = {**self.fields, "sizes": self.sizes, "send_seed": send_seed}
        service = _OpenAIImages(model, self.sizes, self.fields, send_seed, self.image_hosts)
        super().__init__(ImageAPI("openai-images", endpoint, service, model, parameters, price, safety))


def _is_refusal(response: Response) -> bool:
    """A filter may say 403 of one prompt, which is otherwise a key without permission."""
    return response.status == 403 and is_moderated(*response.error()[:2])


def known_sizes(model: str) -> tuple[str, ...]:
    """Return the sizes of a hosted model, or none where any size may be asked for.

    Args:
        model: its name.
    """
    return next((sizes for start, sizes in KNOWN_SIZES.items() if model.startswith(start)), ())


def nearest_size(width_px: int, height_px: int, sizes: Sequence[str]) -> str:
    """Choose the size nearest in shape, then in area.

    Args:
        width_px: wanted.
        height_px: wanted.
        sizes: what can be drawn; empty for anything.

    Returns:
        `<width>x<height>`.
    """

    def distance(size: str) -> tuple[float, float]:
        width, height = map(int, size.split("x"))
        shape = abs(math.log(width / height) - math.log(width_px / height_px))
        return round(shape, 6), abs(math.log(width * height) - math.log(width_px * height_px))

    return min(sizes, key=distance) if sizes else f"{width_px}x{height_px}"


def is_moderated(code: str, message: str) -> bool:
    """Say whether an error means that the service will not draw this prompt, rather than that something is broken.

    Args:
        code: the service's name for the error.
        message: its words, for services without codes.
    """
    return code in MODERATED or bool(_MODERATED_WORDS.search(message))


def model_names(answer: Any) -> set[str]:
    """Read the names from a list of models in either of the usual shapes.

    Args:
        answer: parsed JSON.

    Returns:
        The names; empty where the shape is unknown.
    """
    entries = answer.get("data") if isinstance(answer, Mapping) else answer
    if not isinstance(entries, list):
        return set()
    return {str(entry["id"]) for entry in entries if isinstance(entry, Mapping) and "id" in entry}
