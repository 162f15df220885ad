"""A teacher behind the API of Black Forest Labs (FLUX)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from evolvedirector.records import ImageRequest
from evolvedirector.teachers.services.answer_picture import picture_in
from evolvedirector.teachers.services.image_api import APITeacher, ImageAPI, nearest_aspect_ratio
from evolvedirector.teachers.services.image_safety import ImageSafety
from evolvedirector.teachers.services.json_template import check_extra
from evolvedirector.teachers.services.prices import listed_price_usd
from evolvedirector.teachers.services.queued_jobs import PENDING, Progress, QueuedJobs, drawn
from evolvedirector.transport.client import Client
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.job_journal import Job
from evolvedirector.transport.response import Response

HOSTS = ("*.bfl.ai",)
"""Polling addresses and results lie on regional hosts below bfl.ai; the key is sent nowhere else."""
MAX_SEED = 2**31
_REFUSED = {"Request Moderated": False, "Content Moderated": True}
"""State of a refused job, to whether the image was made by then."""
_FAILED = ("Error", "Task not found", "Failed")


class _BFL:
    """The job API of Black Forest Labs, for one model."""

    def __init__(
        self,
        model: str,
        size_as: Literal["pixels", "aspect_ratio", "nothing"],
        extra: Mapping[str, Any],
    ) -> None:
        self._model = model
        self._size_as = size_as
        self._extra = extra

    async def check(self, client: Client) -> None:
        """Check key and host by asking for a job that does not exist."""
        nobody = "v1/get_result?id=00000000-0000-0000-0000-000000000000"
        await client.request("GET", nobody, accept=_is_no_denial)

    async def submit(self, client: Client, request: ImageRequest) -> Job:
        body: dict[str, Any] = {**self._extra, "prompt": request.prompt, "seed": request.seed % MAX_SEED}
        if self._size_as == "pixels":
            body |= {"width": request.width_px, "height": request.height_px}
        elif self._size_as == "aspect_ratio":
            body["aspect_ratio"] = nearest_aspect_ratio(request.width_px, request.height_px)
        answer = await client.request_json("POST", f"v1/{self._model}", body, idempotency_key=request.idempotency_key)
        return Job(str(answer["id"]), str(answer["polling_url"]))

    async def look(self, client: Client, job: Job) -> Progress:
        answer = await client.request("GET", job.polling_url, allowed_hosts=HOSTS, accept=_is_unknown_job)
        return read_result(answer.json())


class BFLTeacher(APITeacher):
    """Buy FLUX images from Black Forest Labs: submit a job, poll it, fetch the image.

    As documented in November 2026 (and checked against a server of our own only): the key goes into the header
    `x-key`, a submission answers with an id and a polling address, the states are Ready, Pending, Request Moderated,
    Content Moderated and Task not found, 402 means no credit, and results are fetched within ten minutes.

    Args:
        model: name as in the address of the API, such as `flux-pro-1.1`.
        endpoint: service, key and limits; the base URL ends before `/v1`.
        size_as: how a size is told: `pixels` (width and height), `aspect_ratio` for models that take a shape, or
            `nothing`.
        extra: further fields of the request, plain values, such as `safety_tolerance` or `output_format`.
        poll_every_s: seconds between two questions whether a job is done; the service asks for 1.5 or more.
        jobs_path: file that remembers submitted jobs, on a local disk; None puts it into the user's state folder.
        cost_usd_per_image: price in US dollars; None looks it up in the price list.
        safety: what images are accepted.

    Raises:
        ValueError: a price, pause or field that cannot be.
    """

    def __init__(
        self,
        model: str = "flux-pro-1.1",
        endpoint: Endpoint = Endpoint("https://api.bfl.ai", api_key_env="BFL_API_KEY"),  # noqa: B008 - frozen
        size_as: Literal["pixels", "aspect_ratio", "nothing"] = "pixels",
        extra: dict[str, str | int | float | bool | None] | None = None,
        poll_every_s: float = 1.5,
        jobs_path: str | None = None,
        cost_usd_per_image: float | None = None,
        safety: ImageSafety = ImageSafety(),  # noqa: B008 - frozen
    ) -> None:
        check_extra(extra or {}, ("prompt", "seed", "width", "height", "webhook_url"))
        self.model, self.size_as, self.extra = model, size_as, dict(extra or {})
        price = listed_price_usd("bfl", model) if cost_usd_per_image is None else cost_usd_per_image
        service = _BFL(model, size_as, self.extra)
        jobs = QueuedJobs(endpoint, service, poll_every_s, HOSTS, price, jobs_path)
        parameters = {**self.extra, "size_as": size_as}
        api = ImageAPI("bfl", endpoint, jobs, model, parameters, price, safety, "x-key", "", polled=True)
        super().__init__(api, jobs)


def read_result(document: Any) -> Progress:
    """Read how far a job is. An unknown state is taken for one more that is not final: the deadline ends it.

    Args:
        document: parsed answer to a poll.
    """
    state = document["status"]
    if state == "Ready":
        return drawn(picture_in(document["result"]))
    if state in _REFUSED:
        return Progress("refusal", reason=f"BFL says: {state}", paid=_REFUSED[state])
    if state in _FAILED:
        return Progress("failure", reason=f"BFL says: {state}")
    return PENDING


def _is_unknown_job(response: Response) -> bool:
    return response.status == 404


def _is_no_denial(response: Response) -> bool:
    return response.status in (400, 404, 422)
