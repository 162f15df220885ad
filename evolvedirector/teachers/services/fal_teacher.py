"""A teacher behind the queue of fal."""

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
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.job_journal import Job

QUEUE_HOSTS = ("*.fal.run",)
"""Where the key may be sent besides the endpoint itself."""
IMAGE_HOSTS = ("fal.media", "*.fal.media")
MAX_SEED = 2**31
_POLICY = "content_policy_violation"


class _Fal:
    """The queue of fal, for one model."""

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
        """Ask nothing: fal has no question known to us that costs nothing."""

    async def submit(self, client: Client, request: ImageRequest) -> Job | Progress:
        body: dict[str, Any] = {**self._extra, "prompt": request.prompt, "seed": request.seed % MAX_SEED}
        if self._size_as == "pixels":
            body["image_size"] = {"width": request.width_px, "height": request.height_px}
        elif self._size_as == "aspect_ratio":
            body["aspect_ratio"] = nearest_aspect_ratio(request.width_px, request.height_px)
        try:
            answer = await client.request_json("POST", self._model, body, idempotency_key=request.idempotency_key)
        except TransportFault as fault:
            if is_policy_violation(fault):
                return Progress("refusal", reason=_POLICY, paid=False)
            raise
        # Both addresses, a space between them: an address holds none.
        return Job(str(answer["request_id"]), f"{answer['status_url']} {answer['response_url']}")

    async def look(self, client: Client, job: Job) -> Progress:
        status_url, response_url = job.polling_url.split(" ")
        status = await client.request_json("GET", status_url, allowed_hosts=QUEUE_HOSTS)
        if status["status"] != "COMPLETED":
            return PENDING
        try:
            return read_result(await client.request_json("GET", response_url, allowed_hosts=QUEUE_HOSTS))
        except TransportFault as fault:
            if is_policy_violation(fault):
                return Progress("refusal", reason=_POLICY)
            if fault.kind == "busy" and (fault.status or 0) >= 500:  # of a finished job: it will not change
                return Progress("failure", reason=fault.reason)
            raise


class FalTeacher(APITeacher):
    """Buy images of any text-to-image model on fal: put a request into its queue, poll it, fetch the image.

    As documented in November 2026 (and checked against a server of our own only): the key goes into `Authorization:
    Key ...`, a submission is billed at once and answers with addresses that are used as they come, the states are
    IN_QUEUE, IN_PROGRESS and COMPLETED, and an unsafe image is marked by `has_nsfw_concepts` and may be black.

    Args:
        model: path of the model, such as `fal-ai/flux/schnell`.
        endpoint: service, key and limits.
        size_as: how a size is told: `pixels` (`image_size` with width and height), `aspect_ratio` for models that
            take a shape, or `nothing`.
        extra: further fields of the request, plain values, such as `num_inference_steps`.
        image_hosts: from which images may be fetched; None for those of fal.
        poll_every_s: seconds between two questions whether a job is done.
        jobs_path: file that remembers submitted jobs, on a local disk; None puts it into the user's state folder.
        cost_usd_per_image: price in US dollars; None looks it up in the price list.
        safety: what images are accepted.

    Raises:
        ValueError: a price, pause or field that cannot be.
    """

    def __init__(
        self,
        model: str,
        endpoint: Endpoint = Endpoint("https://queue.fal.run", api_key_env="FAL_KEY"),  # noqa: B008 - frozen
        size_as: Literal["pixels", "aspect_ratio", "nothing"] = "pixels",
        extra: dict[str, str | int | float | bool | None] | None = None,
        image_hosts: list[str] | None = None,
        poll_every_s: float = 0.5,
        jobs_path: str | None = None,
        cost_usd_per_image: float | None = None,
        safety: ImageSafety = ImageSafety(),  # noqa: B008 - frozen
    ) -> None:
        check_extra(extra or {}, ("prompt", "seed", "image_size", "num_images"))
        self.model, self.size_as, self.extra = model.strip("/"), size_as, dict(extra or {})
        price = listed_price_usd("fal", self.model) if cost_usd_per_image is None else cost_usd_per_image
        hosts = IMAGE_HOSTS if image_hosts is None else image_hosts
        service = _Fal(self.model, size_as, self.extra)
        jobs = QueuedJobs(endpoint, service, poll_every_s, hosts, price, jobs_path)
        parameters = {**self.extra, "size_as": size_as}
        api = ImageAPI("fal", endpoint, jobs, self.model, parameters, price, safety, auth_scheme="Key", polled=True)
        super().__init__(api, jobs)


def read_result(document: Mapping[str, Any]) -> Progress:
    """Read the result of a finished request.

    Args:
        document: parsed answer.
    """
    if any(document.get("has_nsfw_concepts") or ()):
        return Progress("refusal", reason="has_nsfw_concepts")
    return drawn(picture_in(document.get("images")) or picture_in(document))


def is_policy_violation(fault: TransportFault) -> bool:
    """Say whether an error means that the prompt or the image was refused.

    Args:
        fault: what came instead of an answer.
    """
    detail = fault.body.get("detail") if isinstance(fault.body, Mapping) else None
    entries = detail if isinstance(detail, list) else []
    kinds = {entry.get("type") for entry in entries if isinstance(entry, Mapping)}
    return fault.kind == "rejected" and _POLICY in kinds | {fault.code}
