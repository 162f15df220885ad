"""Reading the answers of a described API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.teachers.services.answer_picture import is_picture, picture_in
from evolvedirector.teachers.services.json_template import value_at
from evolvedirector.teachers.services.queued_jobs import PENDING, Progress, drawn
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.job_journal import Job
from evolvedirector.transport.response import Response
from evolvedirector.transport.url_guard import check_allowed_hosts


@dataclass(frozen=True)
class HTTPPolling:
    """Say where a job is asked for and what its states mean. Any other state means that it is not done yet.

    Args:
        status_url_path: where the first answer names the address to ask, such as `urls.get`.
        status_path: where the answer there says the state, such as `status`.
        done_values: states of a finished job.
        failed_values: states of a job that came to nothing.
        refused_values: states of a job that was refused.
        result_url_path: where the first answer names the address of the result; None: the status answer of a
            finished job holds the image.
        key_hosts: hosts besides the service itself that the key may be sent to for polling.
        poll_every_s: seconds between two questions.

    Raises:
        UserError: no state is final, or a host allows more than meant.
    """

    status_url_path: str
    status_path: str
    done_values: tuple[str, ...]
    failed_values: tuple[str, ...] = ()
    refused_values: tuple[str, ...] = ()
    result_url_path: str | None = None
    key_hosts: tuple[str, ...] = ()
    poll_every_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.done_values:
            raise UserError("done_values is empty. Allowed is at least one state. Write [succeeded], say.")
        check_allowed_hosts(self.key_hosts)


class HTTPAnswers:
    """Find image, refusal and state in answers by paths.

    Args:
        image_path: see `HTTPTeacher`.
        refusal_path: see `HTTPTeacher`.
        refusal_values: see `HTTPTeacher`.
        polling: see `HTTPTeacher`.
    """

    def __init__(
        self,
        image_path: str | None,
        refusal_path: str | None,
        refusal_values: Sequence[str | int | bool] | None,
        polling: HTTPPolling | None,
    ) -> None:
        self.image_path, self.refusal_path = image_path, refusal_path
        self.refusal_values, self.polling = refusal_values, polling

    def refusal(self, document: Any) -> str:
        """Return what an answer says where it refuses, else an empty text.

        Args:
            document: parsed JSON.
        """
        said = None if self.refusal_path is None else value_at(document, self.refusal_path)
        refused = bool(said) if self.refusal_values is None else said in self.refusal_values
        return f"the answer says {self.refusal_path}: {json.dumps(said)[:200]}" if refused else ""

    def is_refusal_by_status(self, response: Response) -> bool:
        """Say whether an answer outside of 200 to 299 is a refusal; one about the key is never taken for it.

        Args:
            response: any answer.
        """
        if self.refusal_path is None or response.status in (401, 402, 429) or response.status >= 500:
            return False
        return bool(self.refusal(response.error()[2]))

    def read(self, document: Any) -> Progress:
        """Read an answer that should hold the image.

        Args:
            document: parsed JSON.

        Raises:
            TransportFault: it holds neither image nor refusal.
        """
        refusal = self.refusal(document)
        if refusal:
            return Progress("refusal", reason=refusal, paid=False)
        path = self.image_path or ""
        # A field that is empty gives way to its neighbours: services fill one of `b64_json` and `url`.
        around = (value_at(document, path), value_at(document, path.rpartition(".")[0]), document)
        found = [picture for picture in map(picture_in, around) if picture is not None]
        if not found:
            reason = f"the answer holds neither an address nor base64 at {path!r}"
            raise TransportFault("ambiguous", reason, maybe_paid=True)
        return drawn(next((picture for picture in found if picture.url or is_picture(picture.image or b"")), found[0]))

    def read_submission(self, document: Any) -> Job | Progress:
        """Read the answer to a submission: a job, or a refusal at once.

        Args:
            document: parsed JSON.

        Raises:
            TransportFault: it names no address to ask.
        """
        refusal = self.refusal(document)
        if refusal:
            return Progress("refusal", reason=refusal, paid=False)
        if self.polling is None:
            raise LookupError("no polling")
        url = value_at(document, self.polling.status_url_path)
        path = self.polling.result_url_path
        result = None if path is None else value_at(document, path)
        if not isinstance(url, str) or not url:
            reason = f"the answer names no address at {self.polling.status_url_path!r}"
            raise TransportFault("ambiguous", reason, maybe_paid=True)
        # Both addresses, a space between them: an address holds none.
        return Job("", f"{url} {result}" if isinstance(result, str) else url)

    def read_status(self, document: Any) -> Progress | None:
        """Read how far a job is; None when it is done and its image lies at another address.

        Args:
            document: parsed JSON.
        """
        polling = self.polling
        if polling is None:
            raise LookupError("no polling")
        state = value_at(document, polling.status_path)
        if state in polling.refused_values:
            return Progress("refusal", reason=f"the service says: {state}")
        if state in polling.failed_values:
            return Progress("failure", reason=f"the service says: {state}")
        if state not in polling.done_values:
            return PENDING
        return self.read(document) if polling.result_url_path is None else None
