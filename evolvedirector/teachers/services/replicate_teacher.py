"""A teacher behind the API of Replicate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from evolvedirector.errors import UserError
from evolvedirector.records import ImageRequest
from evolvedirector.teachers.services.answer_picture import picture_in
from evolvedirector.teachers.services.image_api import APITeacher, ImageAPI, nearest_aspect_ratio
from evolvedirector.teachers.services.image_safety import ImageSafety
from evolvedirector.teachers.services.json_template import check_extra
from evolvedirector.teachers.services.prices import listed_price_usd
from evolvedirector.teachers.services.queued_jobs import PENDING, Progress, QueuedJobs, drawn
from evolvedirector.transport.client import Client
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.job_journal import Job
from evolvedirector.transport.response import Response, read_error

IMAGE_HOSTS = ("replicate.delivery", "*.replicate.delivery")
MAX_SEED = 2**31
_MODEL = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<version>[0-9a-f]{40,64}))?")
_REFUSED = re.compile(r"nsfw|moderat|flagged|sensitive|safety", re.IGNORECASE)


class _Replicate:
    """The predictions API of Replicate, for one model."""

    def __init__(
        self,
        name: str,
        version: str | None,
        size_as: Literal["pixels", "aspect_ratio", "nothing"],
        extra: Mapping[str, Any],
        wait_s: int,
    ) -> None:
        self._name = name
        self._version = version
        self._size_as = size_as
        self._extra = extra
        self._wait_s = wait_s

    async def check(self, client: Client) -> None:
        """Check key, host and model by asking about the model."""
        try:
            await client.request_json("GET", f"models/{self._name}")
        except TransportFault as fault:
            if fault.status == 404:
                raise UserError("it has no such model that this key may see. Write `owner/name` as model") from None
            raise

    async def submit(self, client: Client, request: ImageRequest) -> Job | Progress:
        fields: dict[str, Any] = {**self._extra, "prompt": request.prompt, "seed": request.seed % MAX_SEED}
        if self._size_as == "pixels":
            fields |= {"width": request.width_px, "height": request.height_px}
        elif self._size_as == "aspect_ratio":
            fields["aspect_ratio"] = nearest_aspect_ratio(request.width_px, request.height_px)
        path = f"models/{self._name}/predictions"
        body: dict[str, Any] = {"input": fields}
        if self._version is not None:
            path, body["version"] = "predictions", self._version
        headers = {"Prefer": f"wait={self._wait_s}"} if self._wait_s else None
        answer = await client.request_json(
            "POST", path, body, headers, idempotency_key=request.idempotency_key, accept=_is_refusal
        )
        if "id" not in answer and answer.get("error"):
            return Progress("refusal", reason=f"Replicate says: {' '.join(read_error(answer))}", paid=False)
        return Job(str(answer["id"]), str(answer["urls"]["get"]))

    async def look(self, client: Client, job: Job) -> Progress:
        return read_prediction(await client.request_json("GET", job.polling_url))


class ReplicateTeacher(APITeacher):
    """Buy images of a model on Replicate: create a prediction, poll it, fetch the image at once.

    As documented in November 2026 (and checked against a server of our own only): predictions run in the background
    unless `Prefer: wait` asks to hold the answer, results are deleted after an hour, and a rate limit says in its body
    when it resets.

    Args:
        model: `owner/name` of an official model, or `owner/name:version`.
        endpoint: service, key and limits.
        size_as: how a size is told: `pixels` (width and height), `aspect_ratio` for models that take a shape, or
            `nothing`.
        extra: further inputs of the model, plain values, such as `output_format`.
        wait_s: seconds that the service may hold its answer back until the image is there, up to 60 and half of the
            endpoint's `timeout_s`. 0 gets the id of the prediction at once, so that a killed run takes it up again
            instead of buying another; longer saves polls.
        poll_every_s: seconds between two questions whether a prediction is done.
        jobs_path: file that remembers predictions, on a local disk; None puts it into the user's state folder.
        cost_usd_per_image: price in US dollars; None looks it up in the price list.
        safety: what images are accepted.

    Raises:
        UserError: a model, price, pause or field that cannot be.
    """

    def __init__(
        self,
        model: str,
        endpoint: Endpoint = Endpoint(  # noqa: B008 - frozen
            "https://api.replicate.com/v1", api_key_env="REPLICATE_API_TOKEN", requests_per_minute=600
        ),
        size_as: Literal["pixels", "aspect_ratio", "nothing"] = "pixels",
        extra: dict[str, str | int | float | bool | None] | None = None,
        wait_s: int = 0,
        poll_every_s: float = 1.0,
        jobs_path: str | None = None,
        cost_usd_per_image: float | None = None,
        safety: ImageSafety = ImageSafety(),  # noqa: B008 - frozen
    ) -> None:
        found = _MODEL.fullmatch(model)
        if found is None:
            raise UserError(
                f"model={model!r}. Allowed is `owner/name`, or `owner/name:version` with a whole version. "
                "Write black-forest-labs/flux-schnell."
            )
        if not 0 <= wait_s <= 60:
            raise UserError(f"wait_s={wait_s}. Allowed are 0 to 60 seconds. Write 0 to poll from the beginning.")
        check_extra(extra or {}, ("prompt", "seed", "width", "height"))
        self.model, self.size_as, self.extra = model, size_as, dict(extra or {})
        self.wait_s = min(wait_s, int(endpoint.timeout_s / 2))  # held longer, the outcome would be unknown
        price = listed_price_usd("replicate", model) if cost_usd_per_image is None else cost_usd_per_image
        service = _Replicate(found["name"], found["version"], size_as, self.extra, self.wait_s)
        jobs = QueuedJobs(endpoint, service, poll_every_s, IMAGE_HOSTS, price, jobs_path)
        parameters = {**self.extra, "size_as": size_as}
        api = ImageAPI("replicate", endpoint, jobs, model, parameters, price, safety, polled=True)
        super().__init__(api, jobs)


def _is_refusal(response: Response) -> bool:
    """A filter may say 403 of one prompt, which is otherwise a key without permission."""
    return response.status == 403 and bool(_REFUSED.search(" ".join(response.error()[:2])))


def read_prediction(document: Mapping[str, Any]) -> Progress:
    """Read how far a prediction is.

    Args:
        document: parsed answer.
    """
    state, output = document["status"], document.get("output")
    if state == "succeeded":
        if not output:
            return Progress("failure", reason="the prediction has no output any more; it is deleted after an hour")
        return drawn(picture_in(output))
    if state in ("failed", "canceled", "aborted"):
        words = str(document.get("error") or state)
        refused = bool(_REFUSED.search(words))
        return Progress("refusal" if refused else "failure", reason=f"Replicate says: {words}")
    return PENDING
