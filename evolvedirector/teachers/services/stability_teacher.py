"""A teacher behind the v2beta API of Stability AI."""

from __future__ import annotations

from collections.abc import Mapping

from evolvedirector.errors import UserError
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.teachers.services.answer_picture import is_picture, unwrapped
from evolvedirector.teachers.services.image_api import APITeacher, ImageAPI, nearest_aspect_ratio
from evolvedirector.teachers.services.image_safety import ImageSafety
from evolvedirector.teachers.services.json_template import check_extra
from evolvedirector.teachers.services.prices import listed_price_usd
from evolvedirector.transport.client import Client
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.response import Response

ASPECT_RATIOS = ("1:1", "16:9", "9:16", "3:2", "2:3", "5:4", "4:5", "21:9", "9:21")
MAX_SEED = 2**32 - 1


class _Stability:
    """The image API of Stability, for one model."""

    def __init__(
        self,
        model: str,
        extra: Mapping[str, str],
        price_usd: float | None,
    ) -> None:
        self._model = model
        self._extra = extra
        self._price_usd = price_usd

    async def check(self, client: Client) -> None:
        """Check key and host by asking for the balance; a service of one's own may keep none."""
        answer = await client.request("GET", "v1/user/balance", accept=lambda response: response.status == 404)
        credits = answer.json().get("credits") if answer.status == 200 else None
        if isinstance(credits, int | float) and credits <= 0:
            raise UserError("no credit is left. Add some, or name another key")

    async def draw(self, client: Client, request: ImageRequest) -> ImageReply:
        form = {
            **self._extra,
            "prompt": request.prompt,
            "seed": str(request.seed % MAX_SEED),
            "aspect_ratio": nearest_aspect_ratio(request.width_px, request.height_px, ASPECT_RATIOS),
            "output_format": "png",
        }
        answer = await client.request(
            "POST",
            f"v2beta/stable-image/generate/{self._model}",
            form=form,
            headers={"Accept": "image/*"},
            idempotency_key=request.idempotency_key,
            accept=is_moderated,
        )
        if answer.status != 200:
            return ImageReply(request.request_id, "refusal", reason="Stability refuses the prompt (moderation)")
        if finish_reason(answer) == "CONTENT_FILTERED":
            reason = "Stability refuses the image (CONTENT_FILTERED)"
            return ImageReply(request.request_id, "refusal", reason=reason, cost_usd=self._price_usd or 0.0)
        image = unwrapped(answer.body)
        if not is_picture(image) and answer.headers.get("content-type", "").lower().startswith("application/json"):
            raise TransportFault("ambiguous", "the answer holds JSON where an image belongs", 200, maybe_paid=True)
        return ImageReply(request.request_id, "image", image)


class StabilityTeacher(APITeacher):
    """Buy images from Stability AI: a form goes out, the image comes back in the answer.

    As documented in November 2026 (and checked against a server of our own only): a refused prompt is a 403 that
    speaks of moderation, a refused image is a blurred one under a header `finish-reason: CONTENT_FILTERED`, and 150
    requests per 10 seconds are allowed. There are no ids: what was in flight when a run was killed is bought again and
    counted as lost.

    Args:
        model: `core`, `ultra` or `sd3`, as in the address of the API.
        endpoint: service, key and limits; the base URL ends before `/v2beta`.
        extra: further fields of the form, such as `negative_prompt`, `style_preset`, or `model` for `sd3`.
        cost_usd_per_image: price in US dollars; None looks it up in the price list.
        safety: what images are accepted.

    Raises:
        ValueError: a price or field that cannot be.
    """

    def __init__(
        self,
        model: str = "core",
        endpoint: Endpoint = Endpoint(  # noqa: B008 - frozen
            "https://api.stability.ai", api_key_env="STABILITY_API_KEY", requests_per_minute=900
        ),
        extra: dict[str, str] | None = None,
        cost_usd_per_image: float | None = None,
        safety: ImageSafety = ImageSafety(),  # noqa: B008 - frozen
    ) -> None:
        check_extra(extra or {}, ("prompt", "seed", "aspect_ratio", "output_format"))
        self.model, self.extra = model, dict(extra or {})
        variant = self.extra.get("model")
        price = listed_price_usd("stability", model, variant) if cost_usd_per_image is None else cost_usd_per_image
        service = _Stability(model, self.extra, price)
        super().__init__(ImageAPI("stability", endpoint, service, model, self.extra, price, safety))


def finish_reason(answer: Response) -> str:
    """Read how the drawing ended: from the header, or from JSON around the image.

    Args:
        answer: with status 200.
    """
    if "finish-reason" in answer.headers or answer.body[:1] != b"{":
        return answer.headers.get("finish-reason", "SUCCESS")
    try:
        document = answer.json()
    except TransportFault:
        return "SUCCESS"
    first = next(iter(document.get("artifacts") or ()), document)
    told = [part.get(name) for part in (document, first) for name in ("finish_reason", "finishReason")]
    return next((word for word in told if isinstance(word, str)), "SUCCESS")


def is_moderated(response: Response) -> bool:
    """Say whether a 403 is about the prompt and not about the key.

    Args:
        response: any answer.
    """
    if response.status != 403:
        return False
    code, message, _ = response.error()
    return "moderation" in f"{code} {message}".lower()
