"""Images that are made as jobs: submitted, recorded, polled, fetched, and found again after a restart."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from evolvedirector.errors import UserError
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.teachers.services.answer_picture import FoundPicture
from evolvedirector.transport.api_key import read_key
from evolvedirector.transport.client import Client
from evolvedirector.transport.deadline import ends_at
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault, without_secrets
from evolvedirector.transport.job_journal import Job, JobJournal, account_of

Value = TypeVar("Value")
LASTING_FAULTS = ("rejected", "forbidden_url", "too_large")
"""Faults that asking again about the same job would meet again."""
_UNUSABLE = "unusable image"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is."""

    state: Literal["pending", "image", "refusal", "failure"]
    image_url: str = field(default="", repr=False)
    """Where the image of a finished job is. May hold a signature, so it is never shown."""
    image: bytes | None = field(default=None, repr=False)
    """The image itself, where the answer holds it."""
    reason: str = ""
    paid: bool = True
    """A refusal or failure may have cost as much as an image: what was made, or begun, counts as paid."""


PENDING = Progress("pending")


def drawn(found: FoundPicture | None) -> Progress:
    """Turn the picture of a finished job into its progress.

    Args:
        found: None: the answer holds no picture that can be read.
    """
    if found is None:
        return Progress("failure", reason="the answer holds no picture that can be read")
    return Progress("image", found.url, found.image)


class JobService(Protocol):
    """How one service is asked for a job, and for how far it is."""

    async def submit(self, client: Client, request: ImageRequest) -> Job | Progress:
        """Submit one request; a refusal at once is a `Progress`."""
        ...

    async def look(self, client: Client, job: Job) -> Progress:
        """Ask once how far a job is."""
        ...

    async def check(self, client: Client) -> None:
        """Ask something that costs nothing, or nothing at all where there is no such question."""
        ...


class QueuedJobs:
    """Draw images as jobs that are never submitted twice.

    A job is recorded durably before it is first asked for, so after a kill the same request finds it and goes on
    polling. What cannot be recorded is a submission whose answer never came: that one is counted as lost.

    Args:
        endpoint: service and limits.
        service: submits jobs and asks how far they are.
        poll_every_s: seconds between two such questions.
        image_hosts: from which images may be fetched, beside the endpoint itself.
        price_usd: of one image; None for unknown.
        jobs_path: file of the journal; None puts it into the user's state folder.

    Raises:
        UserError: a pause below zero.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        service: JobService,
        poll_every_s: float,
        image_hosts: Sequence[str],
        price_usd: float | None,
        jobs_path: str | None,
    ) -> None:
        if not 0.0 <= poll_every_s <= 60.0:
            raise UserError(f"poll_every_s={poll_every_s}. Allowed are 0 to 60 seconds. Write 1.5.")
        self.endpoint, self.poll_every_s = endpoint, poll_every_s
        self.image_hosts = [*image_hosts, endpoint.host]
        self.price_usd = price_usd
        self.journal = JobJournal(jobs_path)
        self._service = service
        self._whose: dict[tuple[str, str], str] = {}

    async def draw(self, client: Client, request: ImageRequest) -> ImageReply:
        """Take up the job of a request or submit one, wait for it and fetch its image.

        Args:
            client: open.
            request: what to draw.

        Raises:
            TransportFault: no usable answer; the job is kept where asking again may help.
        """
        account = account_of(self.endpoint.base_url, read_key(self.endpoint))
        name = request.request_id
        async with ends_at(client.give_up_at()) as work:
            job = await self._noted(self.journal.find, account, name)
            if job is None:
                submitted = await self._service.submit(client, request)
                if isinstance(submitted, Progress):
                    return self._reply(request, submitted)
                job = submitted
                work.maybe_paid = True  # from here on, whatever is seen of it
                self._check_own(job, name)
                await self._noted(self.journal.record, account, name, job)
            work.maybe_paid = True
            try:
                progress = await self._finished(client, job)
                image = progress.image
                if progress.state == "image" and image is None:
                    image = await client.download(progress.image_url, self.image_hosts)
            except TransportFault as fault:
                if fault.kind in LASTING_FAULTS:
                    await self._noted(self.journal.forget, account, name)
                raise
            if progress.state != "image":
                await self._noted(self.journal.forget, account, name)
            return self._reply(request, progress, image)
        raise AssertionError  # the block above ends by `return` or `raise`

    async def check(self, client: Client) -> None:
        """Ask the service something that costs nothing.

        Args:
            client: open.
        """
        await self._service.check(client)

    def watched(self, replies: Iterable[ImageReply]) -> Iterator[ImageReply]:
        """Pass replies on and forget the jobs of images that cannot be used: the next try must make another.

        Args:
            replies: as `ImageAPI` made them.
        """
        for reply in replies:
            if reply.status == "failure" and reply.reason.startswith(_UNUSABLE):
                with suppress(OSError, sqlite3.Error):  # it expires within a day; the reply must not be lost
                    self.journal.forget(account_of(self.endpoint.base_url, read_key(self.endpoint)), reply.request_id)
            yield reply

    def verify(self) -> None:
        """Open the journal once.

        Raises:
            UserError: it cannot be used, with its path.
        """
        try:
            self.journal.check()
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"The journal of jobs at {self.journal.path} cannot be used: {error}. Allowed is a file on a local "
                "disk that may be written. Write another path as jobs_path."
            ) from error

    def close(self) -> None:
        """Close the journal; the next job opens it again."""
        self.journal.close()

    async def _noted(self, act: Callable[..., Value], *arguments: Any) -> Value:
        """Use the journal in a thread: the disk may be slow."""
        try:
            return await asyncio.to_thread(act, *arguments)
        except (OSError, sqlite3.Error) as error:
            words = f"the journal of jobs cannot be used ({type(error).__name__})"
            raise TransportFault("ambiguous", words, maybe_paid=True) from error

    def _check_own(self, job: Job, request_id: str) -> None:
        """Refuse a job that belongs to another request: its image would show another prompt."""
        if self._whose.setdefault((job.job_id, job.polling_url), request_id) != request_id:
            raise TransportFault("ambiguous", "the service gave two requests the same job", maybe_paid=True)

    async def _finished(self, client: Client, job: Job) -> Progress:
        while (progress := await self._service.look(client, job)).state == "pending":
            await asyncio.sleep(self.poll_every_s)
        return progress

    def _reply(self, request: ImageRequest, progress: Progress, image: bytes | None = None) -> ImageReply:
        if progress.state == "image":
            return ImageReply(request.request_id, "image", image)
        status: Literal["refusal", "failure"] = "refusal" if progress.state == "refusal" else "failure"
        cost_usd = (self.price_usd or 0.0) if progress.paid else 0.0
        return ImageReply(request.request_id, status, None, without_secrets(progress.reason), cost_usd)
