"""What all teachers behind an image API share; each of them holds one `ImageAPI` and tells it how to draw."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from evolvedirector.errors import UserError
from evolvedirector.records import ImageReply, ImageRequest, digest
from evolvedirector.store.errors import StoreError
from evolvedirector.teachers.services.answer_picture import unwrapped
from evolvedirector.teachers.services.image_safety import ImageSafety, clean_image
from evolvedirector.teachers.services.queued_jobs import LASTING_FAULTS, QueuedJobs
from evolvedirector.transport.breaker import breaker_of
from evolvedirector.transport.client import Client
from evolvedirector.transport.deadline import ends_at
from evolvedirector.transport.endpoint import Endpoint, is_private_host
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.run_concurrently import run_concurrently

ASPECT_RATIOS = ("1:1", "16:9", "9:16", "3:2", "2:3", "4:3", "3:4", "5:4", "4:5", "21:9", "9:21")


def nearest_aspect_ratio(width_px: int, height_px: int, ratios: Sequence[str] = ASPECT_RATIOS) -> str:
    """Choose the shape nearest to a size, twice as wide being as far as twice as high.

    Args:
        width_px: wanted.
        height_px: wanted.
        ratios: `width:height` each.
    """
    wanted = math.log(width_px / height_px)

    def distance(ratio: str) -> float:
        width, height = map(int, ratio.split(":"))
        return abs(math.log(width / height) - wanted)

    return min(ratios, key=distance)


class APITeacher:
    """Answer for the images of a service; how it is asked for one is all that a class for a service says itself.

    Args:
        api: Sends requests to the service and reads what comes back.
        jobs: Keeps the journal of a service that draws in jobs; None for one that answers with the image.
    """

    def __init__(self, api: ImageAPI, jobs: QueuedJobs | None = None) -> None:
        self._api = api
        self._jobs = jobs

    @property
    def fingerprint(self) -> str:
        """Name service, model and every parameter that changes its images."""
        return self._api.fingerprint

    @property
    def requests_in_flight(self) -> int:
        """Return how many requests a round should hand over at once, so that all slots stay busy."""
        return self._api.requests_in_flight

    def price_usd(self) -> float | None:
        """Return the price of one image in US dollars, or None where it is unknown."""
        return self._api.price_usd

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one reply per request as each finishes.

        Args:
            requests: Any prompts and sizes; a job that was submitted for one before is taken up again.
        """
        replies = self._api.generate(requests)
        return replies if self._jobs is None else self._jobs.watched(replies)

    def verify(self) -> None:
        """Check key and service by a question that costs nothing, or that a key is set where there is none.

        Raises:
            ValueError: With one clear reason.
        """
        if self._jobs is not None:
            self._jobs.verify()
        self._api.verify()

    def close(self) -> None:
        """Close the journal of jobs, if there is one; connections end with each `generate`."""
        if self._jobs is not None:
            self._jobs.close()


class ImageService(Protocol):
    """How one service is asked for an image: what a class for a service says itself."""

    async def draw(self, client: Client, request: ImageRequest) -> ImageReply:
        """Draw one image: submit, poll, fetch. Refusals are replies; a `TransportFault` may simply be let through."""
        ...


@runtime_checkable
class AnswersForFree(Protocol):
    """A service that can be asked something that costs nothing."""

    async def check(self, client: Client) -> None:
        """Ask it; raise `ValueError` or `TransportFault` where it cannot be used."""
        ...


_UNITS_PER_SLOT = 2
"""Pieces of work per request slot: those that wait before another try leave their slot to others."""


class ImageAPI:
    """Send the requests of a teacher through the shared transport and turn whatever comes back into replies.

    Args:
        provider: short name of the kind of service, part of the fingerprint.
        endpoint: service and limits.
        service: draws one image over an open client, within the endpoint's deadline.
        model: name of the model, part of the fingerprint.
        parameters: everything else that changes the images; plain values.
        price_usd: price of one image in US dollars; None for unknown.
        safety: what images are accepted.
        auth_header: header that carries the key.
        auth_scheme: word before the key; empty for none.
        polled: a piece of work is a job that the service counts until it is done, so that no more than
            `max_in_flight` of them may be open; otherwise the limit is on requests alone.

    Raises:
        ValueError: a price below zero.
    """

    def __init__(
        self,
        provider: str,
        endpoint: Endpoint,
        service: ImageService,
        model: str,
        parameters: Mapping[str, Any],
        price_usd: float | None = None,
        safety: ImageSafety = ImageSafety(),  # noqa: B008 - frozen
        auth_header: str = "Authorization",
        auth_scheme: str = "Bearer",
        polled: bool = False,
    ) -> None:
        if price_usd is not None and not 0.0 <= price_usd < float("inf"):
            raise UserError(f"cost_usd_per_image={price_usd}. Allowed is 0 or more, or null. Write the price of one.")
        self.provider, self.endpoint, self.model = provider, endpoint, model
        self.price_usd, self.safety = price_usd, safety
        self._service, self._auth = service, (auth_header, auth_scheme)
        self._units = endpoint.max_in_flight * (1 if polled else _UNITS_PER_SLOT)
        self._polled = polled
        self.requests_in_flight = endpoint.requests_in_flight
        self._fingerprint = _fingerprint(provider, endpoint, model, parameters)

    @property
    def fingerprint(self) -> str:
        """Name service, model and parameters."""
        return self._fingerprint

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one reply per request as each finishes; faults are replies.

        Args:
            requests: any number; a piece of work each.
        """
        if requests:
            yield from run_concurrently(requests, self.reply, self.open_client, min(self._units, len(requests)))

    def open_client(self) -> AbstractAsyncContextManager[Client]:
        """Make a client for this service, not yet open."""
        return Client(self.endpoint, *self._auth)

    def verify(self) -> None:
        """Find out before anything is spent whether the service can be used; a key that was denied is tried anew.

        A service that answers nothing for free is not asked: then a key must be set.

        Raises:
            ValueError: with one clear reason.
        """
        breaker_of(self.endpoint).reset()
        for reason in run_concurrently([None], self._verify, self.open_client, 1):
            if reason:
                end = "" if reason.endswith(("?", ".")) else "."
                raise ValueError(f"The {self.provider} teacher {self.model!r} cannot be used: {reason}{end}")

    async def reply(self, client: Client, request: ImageRequest) -> ImageReply:
        """Draw one image and see that it is one; every fault becomes a reply, with its price where it may be paid.

        Args:
            client: open.
            request: what to draw.
        """
        try:
            async with ends_at(client.give_up_at()):
                reply = await self._service.draw(client, request)
            if reply.status != "image":
                failed = reply.status == "failure"
                return replace(reply, request_id=request.request_id, image=None, closed=failed)
            # In a thread: decoding and encoding a large image takes longer than many answers.
            return await asyncio.to_thread(self._accepted, request, reply)
        except TransportFault as fault:
            failure = self._failure(request, f"{fault.kind}: {fault.reason}", fault.maybe_paid)
            # A job that was submitted before its poll was denied may still be drawn.
            sent = fault.maybe_paid or (fault.kind != "unreachable" and (fault.kind != "denied" or self._polled))
            return replace(failure, sent=sent, closed=fault.kind in LASTING_FAULTS)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            # An answer in an unexpected shape; its words may quote the answer, so only the kind is told.
            failure = self._failure(request, f"the answer has an unexpected shape ({type(error).__name__})", True)
            return replace(failure, closed=True)
        except Exception as error:  # one that escapes ends the work of all other requests
            return self._failure(request, f"drawing ended in an error ({type(error).__name__})", True)

    def _accepted(self, request: ImageRequest, reply: ImageReply) -> ImageReply:
        cost_usd = reply.cost_usd or self.price_usd or 0.0
        try:
            image = clean_image(unwrapped(reply.image or b""), self.safety)
        except (StoreError, ValueError) as error:
            return ImageReply(request.request_id, "failure", None, f"unusable image: {error}", cost_usd, closed=True)
        except Exception as error:
            reason = f"unusable image: it cannot be read ({type(error).__name__})"
            return ImageReply(request.request_id, "failure", None, reason, cost_usd, closed=True)
        if image.suspicion:
            reason = f"the image is {image.suspicion}, as services show in place of what they refuse"
            return ImageReply(request.request_id, "refusal", None, reason, cost_usd)
        reason, asked, got = reply.reason, (request.width_px, request.height_px), (image.width_px, image.height_px)
        if asked != got:
            reason = f"{reason} drawn at {got[0]} x {got[1]} px for {asked[0]} x {asked[1]}".strip()
        return ImageReply(request.request_id, "image", image.png, reason, cost_usd)

    def _failure(self, request: ImageRequest, reason: str, maybe_paid: bool) -> ImageReply:
        return ImageReply(request.request_id, "failure", None, reason, (self.price_usd or 0.0) if maybe_paid else 0.0)

    async def _verify(self, client: Client, nothing: None) -> str:
        try:
            client.check_environment()
            if isinstance(self._service, AnswersForFree):
                await self._service.check(client)
        except TransportFault as fault:
            return fault.reason
        except ValueError as error:
            return str(error).rstrip(".")
        return ""


def _fingerprint(provider: str, endpoint: Endpoint, model: str, parameters: Mapping[str, Any]) -> str:
    """Name what decides the images. A public host is part of it; a machine of one's own may move, its images not."""
    host = "" if is_private_host(endpoint.host) else endpoint.host
    return f"{provider}/{model}/{digest(host, json.dumps(dict(parameters), sort_keys=True, default=repr))}"
