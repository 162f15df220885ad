"""A teacher behind any JSON API, described instead of programmed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.teachers.services.answer_picture import is_picture, paid_json, picture_in_body
from evolvedirector.teachers.services.http_answers import HTTPAnswers, HTTPPolling
from evolvedirector.teachers.services.image_api import APITeacher, ImageAPI
from evolvedirector.teachers.services.image_safety import ImageSafety
from evolvedirector.teachers.services.json_template import check_template, fill, names_in
from evolvedirector.teachers.services.prices import listed_price_usd
from evolvedirector.teachers.services.queued_jobs import Progress, QueuedJobs
from evolvedirector.transport.client import Client
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.job_journal import Job
from evolvedirector.transport.response import Response
from evolvedirector.transport.url_guard import check_allowed_hosts

PLACEHOLDERS = ("prompt", "seed", "width_px", "height_px", "size", "request_id")
_KEY = re.compile(r"(?:(?P<scheme>[A-Za-z][\w-]*) )?\{key\}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_OURS = ("host", "content-length", "content-type", "transfer-encoding", "connection", "idempotency-key")


class _HTTPService:
    """An API that a template and paths describe."""

    def __init__(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        answers: HTTPAnswers,
        hosts: Sequence[str],
        polling: HTTPPolling | None,
        verify_path: str | None,
    ) -> None:
        self._method = method
        self._path = path
        self._body = body
        self._headers = headers
        self._answers = answers
        self._hosts = hosts
        self._polling = polling
        self._verify_path = verify_path

    async def check(self, client: Client) -> None:
        """Read the address that costs nothing, if one is named."""
        if self._verify_path is not None:
            await client.request("GET", self._verify_path, headers=self._headers)

    def _filled(self, request: ImageRequest) -> Any:
        values = {
            "prompt": request.prompt,
            "seed": request.seed % 2**31,
            "width_px": request.width_px,
            "height_px": request.height_px,
            "size": f"{request.width_px}x{request.height_px}",
            "request_id": request.idempotency_key,
        }
        return fill(self._body, values)

    async def draw(self, client: Client, request: ImageRequest) -> ImageReply:
        answer = await self._sent(client, request)
        if self._answers.image_path is None and answer.status < 300:
            found = None if is_picture(answer.body) else picture_in_body(answer.body)
            if found is None or not found.url:
                return ImageReply(request.request_id, "image", answer.body)
            progress = Progress("image", found.url)
        else:
            progress = self._answers.read(paid_json(answer))
        if progress.state != "image":
            status = "refusal" if progress.state == "refusal" else "failure"
            return ImageReply(request.request_id, status, reason=progress.reason)  # type: ignore[arg-type]
        if progress.image is not None:
            return ImageReply(request.request_id, "image", progress.image)
        try:
            return ImageReply(request.request_id, "image", await client.download(progress.image_url, self._hosts))
        except TransportFault as fault:
            fault.maybe_paid = True  # it was drawn
            raise

    async def submit(self, client: Client, request: ImageRequest) -> Job | Progress:
        return self._answers.read_submission(paid_json(await self._sent(client, request)))

    async def _sent(self, client: Client, request: ImageRequest) -> Response:
        return await client.request(
            self._method,
            self._path,
            self._filled(request),
            headers=self._headers,
            idempotency_key=request.idempotency_key,
            accept=self._answers.is_refusal_by_status,
        )

    async def look(self, client: Client, job: Job) -> Progress:
        hosts = self._polling.key_hosts if self._polling else ()
        status_url, _, result_url = job.polling_url.partition(" ")
        answer = await client.request_json("GET", status_url, headers=self._headers, allowed_hosts=hosts)
        progress = self._answers.read_status(answer)
        if progress is not None:
            return progress
        answer = await client.request_json("GET", result_url, headers=self._headers, allowed_hosts=hosts)
        return self._answers.read(answer)


class HTTPTeacher(APITeacher):
    """Buy images from a JSON API that has no class of its own: a template of the request, paths into the answer.

    Values are put into the template whole, as JSON, so no prompt can change the shape of a request. The key goes into
    one header and nowhere else.

    Args:
        endpoint: service, key and limits.
        path: appended to the base URL, such as `images`.
        body: template of the request, with the placeholders `{prompt}`, `{seed}` (below 2^31), `{width_px}`,
            `{height_px}`, `{size}` (`512x512`) and `{request_id}`, each as a whole string.
        image_path: where the answer holds the image, such as `data.0.b64_json` or `images.0.url`: base64, a data URL
            or an address. None: the answer is the image itself.
        model: name for reports, the fingerprint and the price list (`http/<model>`).
        headers: sent with each request. One of them may hold `{key}`, alone or after one word (`Key {key}`). None
            sends `Authorization: Bearer {key}` where the endpoint names a key.
        image_hosts: from which images may be fetched besides the service itself, such as `*.example.com`.
        refusal_path: where an answer says that it refuses; None for nowhere.
        refusal_values: what it says then; None: anything but null, false, 0 and empty ones.
        polling: how a job is asked for, where the first answer names one instead of holding the image.
        method: of the first request.
        verify_path: address below the base URL that can be read with a good key and costs nothing; None checks only
            that a key is set.
        jobs_path: file that remembers submitted jobs, on a local disk; None puts it into the user's state folder.
        cost_usd_per_image: price in US dollars; None looks it up in the price list.
        safety: what images are accepted.

    Raises:
        UserError: a template, header, host or price that cannot be.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        path: str,
        body: dict[str, Any],
        image_path: str | None,
        model: str = "default",
        headers: dict[str, str] | None = None,
        image_hosts: list[str] | None = None,
        refusal_path: str | None = None,
        refusal_values: list[str | int | bool] | None = None,
        polling: HTTPPolling | None = None,
        method: str = "POST",
        verify_path: str | None = None,
        jobs_path: str | None = None,
        cost_usd_per_image: float | None = None,
        safety: ImageSafety = ImageSafety(),  # noqa: B008 - frozen
    ) -> None:
        check_template(body, PLACEHOLDERS, "body")
        if "prompt" not in names_in(body):
            raise UserError("body holds no prompt. Allowed is a template that sends it. Write `prompt: '{prompt}'`.")
        if method not in ("POST", "PUT"):
            raise UserError(f"method={method!r}. Allowed are POST and PUT. Write POST.")
        if image_path is None and polling is not None:
            raise UserError("image_path is null, but jobs are polled. Allowed is a path. Write where the image is.")
        _check_path(path, "path")
        check_allowed_hosts(image_hosts or [])
        self.model = model
        plain_headers, auth_header, auth_scheme = split_headers(headers)
        answers = HTTPAnswers(image_path, refusal_path, refusal_values, polling)
        hosts = list(image_hosts or [])
        service = _HTTPService(method, path, body, plain_headers, answers, hosts, polling, verify_path)
        price = listed_price_usd("http", model) if cost_usd_per_image is None else cost_usd_per_image
        jobs = None
        if polling is not None:
            every_s = polling.poll_every_s
            jobs = QueuedJobs(endpoint, service, every_s, hosts, price, jobs_path)
        # headers hold no key here: the one that carries it is a template, and split off
        parameters = {"path": path, "body": body, "method": method, "image_path": image_path, "headers": plain_headers}
        # a service of jobs draws through their journal
        draws, auth = service if jobs is None else jobs, (auth_header, auth_scheme)
        api = ImageAPI("http", endpoint, draws, model, parameters, price, safety, *auth, polled=jobs is not None)
        super().__init__(api, jobs)


def split_headers(headers: Mapping[str, str] | None) -> tuple[dict[str, str], str, str]:
    """Find the header that carries the key.

    Args:
        headers: as configured; None for the usual one.

    Returns:
        (the others, name of the key's header, word before the key).

    Raises:
        UserError: a header that is ours, or a key in a longer text.
    """
    others: dict[str, str] = {}
    key_header, scheme = "Authorization", "Bearer"
    found = False
    for name, value in (headers or {}).items():
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            raise UserError(
                f"headers holds {name!r}. Allowed are names of letters, digits and `-` that we do not set. "
                "Write `X-Model-Version`, say, or leave it out."
            )
        if "{" not in value and value.isascii() and value.isprintable():
            others[name] = value
            continue
        match = _KEY.fullmatch(value)
        if match is None or found:
            raise UserError(
                f"the header {name!r} cannot be sent. Allowed is `{{key}}` in one header, alone or after one word. "
                "Write `X-Key: '{key}'` or `Authorization: 'Key {key}'`."
            )
        found, key_header, scheme = True, name, match["scheme"] or ""
    return others, key_header, scheme


def _check_path(path: str, name: str) -> None:
    if "://" in path or "\\" in path or "{" in path or not path.isprintable() or " " in path:
        raise UserError(f"{name}={path!r}. Allowed is a path below base_url. Write `images/generations`, say.")
