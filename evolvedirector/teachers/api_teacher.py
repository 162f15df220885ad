"""What the teachers behind image APIs answer alike, whichever service draws for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.teachers.image_api import Check, ImageAPI
from evolvedirector.teachers.queued_jobs import QueuedJobs


class APITeacher:
    """Answer for the images of a service; how it is asked for one is all that a class for a service says itself.

    Args:
        api: Sends requests to the service and reads what comes back.
        jobs: Keeps the journal of a service that draws in jobs; None for one that answers with the image.
        check: Asks the service something that costs nothing; None where it has no such question.
    """

    def __init__(self, api: ImageAPI, jobs: QueuedJobs | None = None, check: Check | None = None) -> None:
        self._api = api
        self._jobs = jobs
        self._check = check

    @property
    def fingerprint(self) -> str:
        """Name service, model and every parameter that changes its images."""
        return self._api.fingerprint

    @property
    def requests_per_unit(self) -> int:
        """Return how many requests a round should hand over at once, so that all slots stay busy."""
        return self._api.requests_per_unit

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
        self._api.verify(self._check)

    def close(self) -> None:
        """Close the journal of jobs, if there is one; connections end with each `generate`."""
        if self._jobs is not None:
            self._jobs.close()
